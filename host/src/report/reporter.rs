use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    Feed,
    lines::{self, Detail},
    text::Text,
};
use crate::run::{Event, RunId, TimedEvent};

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people; on a terminal also a status line for each machine that is worked on.
    Text {
        /// Show more: steps as they begin, lines for authors of modules.
        verbose: bool,
    },
    /// One JSON object a line: the events themselves.
    Json,
}

/// Shows a run's events on standard output as they come.
pub struct Reporter {
    format: Format,
    status: Option<Status>,
    text: Text,
}

impl Reporter {
    /// A reporter for this process' standard output. The last line of a text says how the `record`, if there is one, is shown.
    pub fn new(format: Format, record: Option<RunId>) -> Self {
        let status = (format != Format::Json && io::stdout().is_terminal()).then(Status::default);
        let verbose = matches!(format, Format::Text { verbose: true });
        Self { format, status, text: Text::new(Detail { verbose }, record) }
    }

    /// Shows events until the run has ended. Blocks: it needs a thread of its own. An error means that standard output is
    /// gone; nothing more is shown.
    pub fn show(mut self, mut feed: Feed) -> io::Result<()> {
        while let Some(event) = feed.next(|| Ok::<_, io::Error>(()))? {
            self.report(&event)?;
        }
        Ok(())
    }

    fn report(&mut self, event: &TimedEvent) -> io::Result<()> {
        if self.format == Format::Json {
            let mut line = serde_json::to_vec(event)?;
            line.push(b'\n');
            return io::stdout().write_all(&line);
        }
        if let Some(status) = &mut self.status {
            status.update(&event.event);
        }
        let lines = self.text.lines(&event.event);
        let print = || lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}"));
        match &self.status {
            Some(status) => status.bars.suspend(print),
            None => print(),
        }
    }
}

/// A spinner for each machine that is worked on, below the lines.
#[derive(Default)]
struct Status {
    bars: MultiProgress,
    machines: HashMap<String, ProgressBar>,
}

impl Status {
    fn update(&mut self, event: &Event) {
        match lines::activity(event) {
            None => {}
            Some((machine, Some(activity))) => {
                let bars = &self.bars;
                let bar = self.machines.entry(machine.to_owned()).or_insert_with(|| spinner(bars, machine));
                bar.set_message(activity);
                bar.reset_elapsed();
            }
            Some((machine, None)) => {
                if let Some(bar) = self.machines.remove(machine) {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

fn spinner(bars: &MultiProgress, machine: &str) -> ProgressBar {
    let bar = bars.add(ProgressBar::new_spinner());
    // A template that does not parse would be a mistake of ours; the default one does as well.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_prefix(machine.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    lines::{self, Detail},
    summary::{self, Ended},
};
use crate::run::Event;

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
    ended: Vec<Ended>,
}

impl Reporter {
    /// A reporter for this process' standard output.
    pub fn new(format: Format) -> Self {
        let status = (format != Format::Json && io::stdout().is_terminal()).then(Status::default);
        Self { format, status, ended: Vec::new() }
    }

    /// Shows one event. An error means that standard output is gone.
    pub fn report(&mut self, event: &Event) -> io::Result<()> {
        let Format::Text { verbose } = self.format else {
            let mut line = serde_json::to_vec(event)?;
            line.push(b'\n');
            return io::stdout().write_all(&line);
        };
        if let Some(status) = &mut self.status {
            status.update(event);
        }
        let mut lines = lines::lines(event, Detail { verbose });
        match event {
            Event::MachineFinished { machine, failure, seconds } => {
                let (machine, failure) = (machine.clone(), failure.clone());
                self.ended.push(Ended { machine, failure, seconds: *seconds });
            }
            Event::RunFinished { seconds, .. } => lines.extend(summary::summary(&self.ended, *seconds)),
            _ => {}
        }
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

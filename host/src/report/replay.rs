use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::{Format, RecordError, RecordedEvents, lines::Detail, record::State, summary::End, text::Text};
use crate::run::Event;

/// Why a record can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What is shown can't be written.
    #[error("can't show the run")]
    Output(#[from] io::Error),
}

/// Some machines of a run, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(BTreeSet<String>);

impl Selection {
    /// Those of these names, which the run must have; all when none is named.
    pub fn new(names: Vec<String>, events: &RecordedEvents) -> Result<Self, RecordError> {
        let known: BTreeSet<_> = events.machines().collect();
        if let Some(wanted) = names.iter().find(|name| !known.contains(name.as_str())) {
            let nearest = super::record::nearest(wanted, known.into_iter());
            let nearest = nearest.into_iter().map(str::to_owned).collect();
            return Err(RecordError::UnknownMachine { wanted: wanted.clone(), nearest });
        }
        Ok(Self(names.into_iter().collect()))
    }

    fn has(&self, machine: &str) -> bool {
        self.0.is_empty() || self.0.contains(machine)
    }

    /// The event, if it is about these machines: without the others where it is about all.
    pub(super) fn of(&self, mut event: Event) -> Option<Event> {
        if let Event::RunStarted { plans, .. } = &mut event {
            plans.retain(|plan| self.has(&plan.machine));
        }
        event.machine().is_none_or(|machine| self.has(machine)).then_some(event)
    }
}

/// Shows a run again from its record, as it was shown when it happened. Gives how many events were left out because this
/// version of farmhand does not know them. `state` is that of a run whose record has no end.
pub fn replay(
    events: RecordedEvents,
    format: Format,
    machines: &Selection,
    state: State,
    output: &mut dyn Write,
) -> Result<usize, ReplayError> {
    let Format::Text { verbose } = format else { return copy(events, machines, output) };
    let mut text = Text::new(Detail { verbose }, Some(events.run().clone()));
    let (mut unknown, mut finished) = (0, false);
    for event in events {
        let Some(event) = event?.event else {
            unknown += 1;
            continue;
        };
        let Some(event) = machines.of(event.event) else { continue };
        finished |= matches!(event, Event::RunFinished { .. });
        for line in text.lines(&event) {
            writeln!(output, "{line}")?;
        }
    }
    if !finished {
        let end = if state == State::Running { End::Running } else { End::CutOff };
        for line in text.end(end) {
            writeln!(output, "{line}")?;
        }
    }
    output.flush()?;
    Ok(unknown)
}

/// Writes the events as they stand in the record, those that are not known included.
fn copy(events: RecordedEvents, machines: &Selection, output: &mut dyn Write) -> Result<usize, ReplayError> {
    for event in events {
        let event = event?;
        let machine = event.event.as_ref().and_then(|event| event.event.machine());
        if machine.is_none_or(|machine| machines.has(machine)) {
            writeln!(output, "{}", event.line)?;
        }
    }
    output.flush()?;
    Ok(0)
}

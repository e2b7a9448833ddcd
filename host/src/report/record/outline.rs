use std::io::{Read as _, Seek as _, SeekFrom};

use serde::{Deserialize, Serialize};

use super::{RecordError, RecordedEvents};
use crate::run::{Event, RunId, TimedEvent};

/// The last event of a finished run is found in this many bytes at the end of its file.
const TAIL: u64 = 4 << 10;

/// A run in a few words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// The run.
    pub run: RunId,
    /// When it began.
    pub started: jiff::Timestamp,
    /// The project's id.
    pub project: String,
    /// Whether it is over.
    pub state: State,
    /// How many machines passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were to be worked on and have neither passed nor failed.
    pub unfinished: usize,
    /// How long it took, or, if it is not finished, how long after its beginning the last thing happened.
    pub seconds: f64,
}

/// Whether a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It came to its end.
    Finished,
    /// It goes on at this moment.
    Running,
    /// Its process ended before its end.
    CutOff,
}

impl Outline {
    /// Of the run with these events, of which none has been read yet. Whether it is `running` matters only if it has no end.
    pub(super) fn of(mut events: RecordedEvents, running: bool) -> Result<Self, RecordError> {
        let head = events.head();
        let mut outline = Self {
            run: head.run.clone(),
            started: head.at,
            project: head.project.clone(),
            state: if running { State::Running } else { State::CutOff },
            passed: 0,
            failed: 0,
            unfinished: head.plans.len(),
            seconds: 0.0,
        };
        // A run's file may be large, and most of them are of runs that are over.
        match last(&mut events) {
            Some(event) => outline.take(&event),
            None => {
                let events = RecordedEvents::open(&events.into_path())?;
                for event in events {
                    event?.event.iter().for_each(|event| outline.take(event));
                }
            }
        }
        Ok(outline)
    }

    fn take(&mut self, event: &TimedEvent) {
        self.seconds = event.at.duration_since(self.started).as_secs_f64().max(0.0);
        let planned = self.passed + self.failed + self.unfinished;
        match &event.event {
            Event::MachineFinished { failure: None, .. } => self.passed += 1,
            Event::MachineFinished { failure: Some(_), .. } => self.failed += 1,
            Event::RunFinished { passed, failed, seconds, .. } => {
                (self.passed, self.failed, self.seconds) = (*passed, *failed, *seconds);
                self.state = State::Finished;
            }
            _ => {}
        }
        self.unfinished = planned.saturating_sub(self.passed + self.failed);
    }
}

/// The last event, if it is that of a run's end.
fn last(events: &mut RecordedEvents) -> Option<TimedEvent> {
    let file = events.file();
    let length = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let lines = tail.strip_suffix(b"\n")?;
    let event: TimedEvent = serde_json::from_slice(lines.rsplit(|byte| *byte == b'\n').next()?).ok()?;
    matches!(event.event, Event::RunFinished { .. }).then_some(event)
}

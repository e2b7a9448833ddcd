use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use super::RunId;
use crate::{
    base::{Phase, plain_lines},
    guest::Stream,
    plan::{MachinePlan, Operation},
};

/// The version of the format in which events are written. Events and fields may be added within a version, and who reads
/// them passes over what he does not know; nothing else changes without a new version.
pub const EVENT_FORMAT: u32 = 1;

/// An event and when it happened: what is written, one JSON object a line (see `docs/runs.md`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// When it happened, to the millisecond.
    #[serde(serialize_with = "to_the_millisecond")]
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl TimedEvent {
    /// An event that happens now.
    pub fn now(event: Event) -> Self {
        let now = Timestamp::now();
        // It fits: it has just been a time. What is below a millisecond is not written, so it is not kept either.
        let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        Self { at, event: event.plain() }
    }
}

/// RFC 3339 in UTC, always with three digits after the seconds.
fn to_the_millisecond<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

/// Something that happened in a run. Events are the only way from a run to the outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The run begins. This is the first event.
    RunStarted {
        /// The version of the format of this event and those after it: [`EVENT_FORMAT`].
        format: u32,
        /// The run's name.
        run: RunId,
        /// farmhand's version.
        farmhand: String,
        /// The project's id.
        project: String,
        /// What will be done with each machine.
        plans: Vec<MachinePlan>,
    },
    /// The run was interrupted: nothing further is begun, and what is being done is ended. `terminate` and `shutdown` still run.
    Interrupted,
    /// A machine is not begun.
    MachineSkipped {
        /// Its name.
        machine: String,
        /// Why.
        reason: String,
    },
    /// A machine changed since it was planned for: this is what will be done instead.
    Replanned {
        /// What.
        plan: MachinePlan,
    },
    /// Work on a machine begins.
    MachineStarted {
        /// Its name.
        machine: String,
    },
    /// An operation begins.
    OperationStarted {
        /// The machine's name.
        machine: String,
        /// What is done.
        #[serde(flatten)]
        operation: Operation,
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// An operation goes on: for those that can take long.
    Progress {
        /// The machine's name.
        machine: String,
        /// What is being done or waited for.
        message: String,
    },
    /// An operation ended well.
    OperationFinished {
        /// The machine's name.
        machine: String,
        /// What was done.
        #[serde(flatten)]
        operation: Operation,
        /// How long it took.
        seconds: f64,
    },
    /// A step of a phase begins.
    StepStarted {
        /// The machine's name.
        machine: String,
        /// The phase.
        phase: Phase,
        /// The step's place in the phase, from 1.
        index: usize,
        /// How many steps the phase has.
        count: usize,
        /// The step's name.
        name: String,
    },
    /// A step ended well.
    StepFinished {
        /// The machine's name.
        machine: String,
        /// The phase.
        phase: Phase,
        /// The step's place in the phase, from 1.
        index: usize,
        /// The step's name.
        name: String,
        /// Whether it changed the guest.
        changed: bool,
        /// What it did, in one line.
        summary: String,
        /// How long it took.
        seconds: f64,
    },
    /// A step failed and is tried again.
    StepRetried {
        /// The machine's name.
        machine: String,
        /// The phase.
        phase: Phase,
        /// The step's place in the phase, from 1.
        index: usize,
        /// The step's name.
        name: String,
        /// Which try comes next, and why.
        #[serde(flatten)]
        retried: Retried,
    },
    /// A phase failed and is tried again.
    PhaseRetried {
        /// The machine's name.
        machine: String,
        /// The phase.
        phase: Phase,
        /// Which try comes next, and why.
        #[serde(flatten)]
        retried: Retried,
    },
    /// A line that a command in the guest wrote.
    Output {
        /// The machine's name.
        machine: String,
        /// To which stream.
        stream: Stream,
        /// The line, without control codes.
        line: String,
    },
    /// A line that a phase module, or farmhand itself, has to say about a machine.
    Log {
        /// The machine's name.
        machine: String,
        /// How important it is.
        level: Level,
        /// The line, without control codes.
        line: String,
    },
    /// An operation failed. What follows it is left out, but for `terminate` and `shutdown`.
    OperationFailed {
        /// The machine's name.
        machine: String,
        /// What was tried, and why it failed.
        #[serde(flatten)]
        failure: Failure,
    },
    /// Work on a machine ended.
    MachineFinished {
        /// Its name.
        machine: String,
        /// The first thing that failed, if anything did.
        failure: Option<Failure>,
        /// How long it took.
        seconds: f64,
    },
    /// The run ended.
    RunFinished {
        /// How many machines passed.
        passed: usize,
        /// How many failed.
        failed: usize,
        /// How many were not begun.
        #[serde(default)]
        skipped: usize,
        /// How long it took.
        seconds: f64,
    },
}

impl Event {
    /// The event with nothing in its texts that a terminal would act on: errors cite what guests say.
    fn plain(mut self) -> Self {
        let clean = |text: &mut String| *text = plain_lines(text);
        match &mut self {
            Self::MachineSkipped { reason: text, .. }
            | Self::OperationStarted { reason: text, .. }
            | Self::Progress { message: text, .. }
            | Self::StepFinished { summary: text, .. }
            | Self::Output { line: text, .. }
            | Self::Log { line: text, .. } => clean(text),
            Self::StepRetried { retried, .. } | Self::PhaseRetried { retried, .. } => {
                retried.causes.iter_mut().for_each(clean);
            }
            Self::OperationFailed { failure, .. } | Self::MachineFinished { failure: Some(failure), .. } => {
                let Failure { during: _, step: _, causes, help, last_output } = failure;
                causes.iter_mut().chain(help).chain(last_output).for_each(clean);
            }
            Self::RunStarted { .. }
            | Self::Interrupted
            | Self::Replanned { .. }
            | Self::MachineStarted { .. }
            | Self::OperationFinished { .. }
            | Self::StepStarted { .. }
            | Self::MachineFinished { failure: None, .. }
            | Self::RunFinished { .. } => {}
        }
        self
    }

    /// The machine that it is about; `None` when it is about the whole run.
    pub fn machine(&self) -> Option<&str> {
        match self {
            Self::RunStarted { .. } | Self::Interrupted | Self::RunFinished { .. } => None,
            Self::Replanned { plan } => Some(&plan.machine),
            Self::MachineStarted { machine }
            | Self::MachineSkipped { machine, .. }
            | Self::OperationStarted { machine, .. }
            | Self::Progress { machine, .. }
            | Self::OperationFinished { machine, .. }
            | Self::StepStarted { machine, .. }
            | Self::StepFinished { machine, .. }
            | Self::StepRetried { machine, .. }
            | Self::PhaseRetried { machine, .. }
            | Self::Output { machine, .. }
            | Self::Log { machine, .. }
            | Self::OperationFailed { machine, .. }
            | Self::MachineFinished { machine, .. } => Some(machine),
        }
    }
}

/// A try that comes after a failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retried {
    /// Which further try it is, from 1.
    pub retry: u32,
    /// How many there are at most.
    pub retries: u32,
    /// Why the one before it failed: the error and its causes, outermost first.
    pub causes: Vec<String>,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For authors of modules.
    Debug,
    /// For everybody.
    Info,
    /// Something may be wrong.
    Warn,
    /// Something is wrong.
    Error,
}

/// Why a machine failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, e.g. `dependencies`; `lock` when another run works on the machine.
    pub during: String,
    /// The step that failed, when it was a phase.
    pub step: Option<String>,
    /// What is wrong: the error and its causes, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// The last lines that commands in the guest wrote before it.
    pub last_output: Vec<String>,
}

/// Takes a run's events. Called from many tasks at once; it must not block.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> EventSink for F {
    fn emit(&self, event: Event) {
        self(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_brings_escape_sequences_of_a_guest() {
        let machine = || "m".to_owned();
        let text = || "a key\x1b]0;title\x07 of \x1b[2Janother\ttype\nsecond \u{202e}line\r".to_owned();
        let failure = || Failure {
            during: "startup".to_owned(),
            step: None,
            causes: vec![text()],
            help: Some(text()),
            last_output: vec![text()],
        };
        let retried = || Retried { retry: 1, retries: 2, causes: vec![text()] };
        let (phase, index, name) = (Phase::Main, 1, "step".to_owned());
        for event in [
            Event::Progress { machine: machine(), message: text() },
            Event::Log { machine: machine(), level: Level::Warn, line: text() },
            Event::MachineSkipped { machine: machine(), reason: text() },
            Event::OperationFailed { machine: machine(), failure: failure() },
            Event::MachineFinished { machine: machine(), failure: Some(failure()), seconds: 1.0 },
            Event::PhaseRetried { machine: machine(), phase, retried: retried() },
            Event::StepRetried { machine: machine(), phase, index, name, retried: retried() },
        ] {
            let written = serde_json::to_string(&TimedEvent::now(event)).unwrap();
            assert!(written.contains(r"a key of another type\nsecond line"), "{written}");
            let codes = [r"\u001b", r"\u0007", r"\r", r"\t", "\u{202e}"];
            assert!(codes.iter().all(|code| !written.contains(code)), "{written}");
        }
    }
}

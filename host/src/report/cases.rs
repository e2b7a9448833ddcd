//! A run as a list of cases for each machine: an operation each, and for phases a step each. For reports that are made of
//! a run as a whole.

use std::collections::VecDeque;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde::Serialize;

use super::{RecordError, RecordedEvents, Selection, lines::in_step};
use crate::{
    base::counted,
    guest::Stream,
    plan::MachinePlan,
    run::{Event, Failure, Level, Retried, TimedEvent},
};

/// How many bytes of each output stream a case has: the last ones.
const MAX_OUTPUT: usize = 32 << 10;

/// A run, as far as it has got.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cases {
    pub(super) run: String,
    pub(super) farmhand: String,
    pub(super) project: String,
    pub(super) started: Option<Timestamp>,
    /// How long it took; `None` if it has no end.
    pub(super) seconds: Option<f64>,
    pub(super) machines: IndexMap<String, Machine>,
}

/// What has happened to a machine.
#[derive(Debug, Default, Serialize)]
pub(super) struct Machine {
    pub(super) started: Option<Timestamp>,
    /// How long it took; `None` if it is not done with.
    pub(super) seconds: Option<f64>,
    pub(super) failure: Option<Failure>,
    pub(super) cases: Vec<Case>,
    /// The first case of the operation that was begun last.
    #[serde(skip)]
    operation: usize,
    /// The names of the operations that were not begun.
    pub(super) left_out: Vec<String>,
    /// Why they were not.
    pub(super) reason: String,
}

/// An operation or a step.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) begun: Timestamp,
    pub(super) seconds: Option<f64>,
    pub(super) end: End,
    pub(super) stdout: Tail,
    pub(super) stderr: Tail,
}

/// How a case ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "status")]
pub(super) enum End {
    /// Well.
    Passed,
    /// Not well.
    Failed(Failure),
    /// Not yet, or never.
    Open,
}

impl Cases {
    /// Of the machines that were selected, from a record.
    pub(super) fn read(events: RecordedEvents, machines: &Selection) -> Result<Self, RecordError> {
        let mut cases = Self::default();
        for event in events {
            let Some(event) = event?.event else { continue };
            if let Some(selected) = machines.of(event.event) {
                cases.take(&TimedEvent { at: event.at, event: selected });
            }
        }
        cases.machines.values_mut().for_each(Machine::say_why);
        Ok(cases)
    }

    fn take(&mut self, TimedEvent { at, event }: &TimedEvent) {
        match event {
            Event::RunStarted { run, farmhand, project, plans, .. } => {
                self.run = run.to_string();
                self.farmhand = farmhand.clone();
                self.project = project.clone();
                self.started = Some(*at);
                self.machines = plans
                    .iter()
                    .map(|plan| {
                        (plan.machine.clone(), Machine { left_out: left_out(plan), ..Machine::default() })
                    })
                    .collect();
            }
            Event::RunFinished { seconds, .. } => self.seconds = Some(*seconds),
            event => {
                // A killed run's machine that this run only put right is none of its own.
                if let Some(machine) = event.machine().and_then(|name| self.machines.get_mut(name)) {
                    machine.take(*at, event);
                }
            }
        }
    }
}

/// The names of the operations that a plan is to do.
fn left_out(plan: &MachinePlan) -> Vec<String> {
    plan.operations.iter().map(|planned| planned.operation.to_string()).collect()
}

impl Machine {
    fn take(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::MachineStarted { .. } => self.started = Some(at),
            Event::MachineSkipped { reason, .. } => self.reason = reason.clone(),
            Event::Replanned { plan } => self.left_out = left_out(plan),
            Event::StepRetried { retried, .. } => {
                if let Some(case) = self.open() {
                    case.fail_and_go_on(retried);
                }
            }
            Event::PhaseRetried { phase, retried, .. } => self.begin_again(phase.name(), retried),
            Event::OperationStarted { operation, .. } => {
                let name = operation.to_string();
                if let Some(place) = self.left_out.iter().position(|left| *left == name) {
                    self.left_out.remove(place);
                }
                self.operation = self.cases.len();
                self.cases.push(Case::new(name, at));
            }
            Event::StepStarted { phase, index, name, .. } => {
                let name = format!("{phase} {index}: {name}");
                match self.cases.last_mut().filter(|case| case.is_open()) {
                    // It is carried out again.
                    Some(case) if case.name == name => {}
                    // A phase is its steps.
                    Some(case) if case.name == phase.name() => case.name = name,
                    _ => self.cases.push(Case::new(name, at)),
                }
            }
            Event::Output { stream, line, .. } => {
                if let Some(case) = self.open() {
                    match stream {
                        Stream::Stdout => case.stdout.push(line),
                        Stream::Stderr => case.stderr.push(line),
                    }
                }
            }
            Event::Log { level, line, .. } => {
                if let Some(case) = self.open() {
                    match level {
                        Level::Debug => {}
                        Level::Info => case.stdout.push(line),
                        Level::Warn => case.stderr.push(&format!("warning: {line}")),
                        Level::Error => case.stderr.push(&format!("error: {line}")),
                    }
                }
            }
            Event::StepFinished { changed, summary, seconds, .. } => {
                if let Some(case) = self.open() {
                    let mark = if *changed { "changed" } else { "ok" };
                    case.stdout.push(format!("{mark}: {summary}").trim_end_matches([':', ' ']));
                    case.end(End::Passed, *seconds);
                }
            }
            Event::OperationFinished { seconds, .. } => {
                if let Some(case) = self.open() {
                    case.end(End::Passed, *seconds);
                }
            }
            Event::OperationFailed { failure, .. } => self.fail(at, failure),
            Event::MachineFinished { failure, seconds, .. } => {
                self.seconds = Some(*seconds);
                self.failure = failure.clone();
                let failed = self.cases.iter().any(|case| matches!(case.end, End::Failed(_)));
                if let Some(failure) = failure.as_ref().filter(|_| !failed) {
                    self.fail(at, failure);
                }
            }
            Event::Progress { .. }
            | Event::RunStarted { .. }
            | Event::Interrupted
            | Event::RunFinished { .. } => {}
        }
    }

    /// The case that is worked on.
    fn open(&mut self) -> Option<&mut Case> {
        self.cases.last_mut().filter(|case| case.is_open())
    }

    /// A phase failed and is carried out from its first step again. What its steps were is left out but for the output of the
    /// one that failed.
    fn begin_again(&mut self, phase: &str, retried: &Retried) {
        let Some(mut failed) = self.cases.pop() else { return };
        if let Some(first) = self.cases.get(self.operation) {
            failed.begun = first.begun;
        }
        self.cases.truncate(self.operation);
        failed.name = phase.to_owned();
        failed.fail_and_go_on(retried);
        self.cases.push(failed);
    }

    /// The case that is worked on failed; without one, what failed becomes a case.
    fn fail(&mut self, at: Timestamp, failure: &Failure) {
        if self.open().is_none() {
            self.cases.push(Case::new(failure.during.clone(), at));
        }
        if let Some(case) = self.open() {
            let seconds = at.duration_since(case.begun).as_secs_f64();
            case.end(End::Failed(failure.clone()), seconds);
        }
    }

    /// Why operations were left out, once nothing more comes.
    fn say_why(&mut self) {
        self.reason = match &self.failure {
            Some(failure) => format!("{}{} failed before", failure.during, in_step(failure)),
            None if !self.reason.is_empty() => return,
            None if self.started.is_none() => "the machine's turn did not come".to_owned(),
            None if self.seconds.is_none() => "the run did not come to this".to_owned(),
            None => "it was left out".to_owned(),
        };
    }
}

impl Case {
    fn new(name: String, begun: Timestamp) -> Self {
        let (stdout, stderr) = (Tail::default(), Tail::default());
        Self { name, begun, seconds: None, end: End::Open, stdout, stderr }
    }

    fn is_open(&self) -> bool {
        matches!(self.end, End::Open)
    }

    /// It failed, and is tried again.
    fn fail_and_go_on(&mut self, retried: &Retried) {
        self.stderr.push(&format!("failed, try {} of {} follows:", retried.retry, retried.retries));
        retried.causes.iter().for_each(|cause| self.stderr.push(cause));
        (self.end, self.seconds) = (End::Open, None);
    }

    fn end(&mut self, end: End, seconds: f64) {
        self.end = end;
        self.seconds = Some(seconds);
    }
}

/// The last lines of an output.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(into = "Option<String>")]
pub(super) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    left_out: usize,
}

impl Tail {
    fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > MAX_OUTPUT {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len() + 1;
            self.left_out += 1;
        }
    }
}

impl From<Tail> for Option<String> {
    fn from(tail: Tail) -> Self {
        let note = (tail.left_out > 0)
            .then(|| format!("(the run's folder also has {} before these)", counted(tail.left_out, "line")));
        let lines: Vec<_> = note.into_iter().chain(tail.lines).collect();
        (!lines.is_empty()).then(|| lines.join("\n") + "\n")
    }
}

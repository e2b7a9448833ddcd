//! JUnit XML: a test suite a machine, a test case an operation, and for phases a test case a step.

use std::{collections::VecDeque, time::Duration};

use indexmap::IndexMap;
use jiff::Timestamp;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::{RecordError, RecordedEvents, Selection, lines::in_step};
use crate::{
    guest::Stream,
    run::{Event, Failure, Level, TimedEvent},
};

/// How many bytes of each stream stand in a test case: the last ones.
const MAX_OUTPUT: usize = 32 << 10;

/// Why there is no JUnit XML of a run.
#[derive(Debug, thiserror::Error)]
pub enum JunitError {
    /// The record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The XML can't be made.
    #[error("can't make JUnit XML of the run")]
    Xml(#[from] quick_junit::SerializeError),
}

/// The JUnit XML of a run, as far as it has got.
pub fn junit(events: RecordedEvents, machines: &Selection) -> Result<String, JunitError> {
    let mut run = Run::default();
    for event in events {
        let Some(event) = event?.event else { continue };
        if let Some(selected) = machines.of(event.event) {
            run.take(&TimedEvent { at: event.at, event: selected });
        }
    }
    Ok(run.into_report().to_string()?)
}

#[derive(Default)]
struct Run {
    name: String,
    properties: Vec<Property>,
    started: Option<Timestamp>,
    seconds: Option<f64>,
    machines: IndexMap<String, Machine>,
}

/// What has happened to a machine.
#[derive(Default)]
struct Machine {
    started: Option<Timestamp>,
    seconds: Option<f64>,
    failure: Option<Failure>,
    /// The names of the operations that were not begun.
    left: Vec<String>,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    begun: Timestamp,
    seconds: Option<f64>,
    end: Option<End>,
    stdout: Tail,
    stderr: Tail,
}

enum End {
    Passed,
    Failed(Failure),
}

impl Run {
    fn take(&mut self, TimedEvent { at, event }: &TimedEvent) {
        match event {
            Event::RunStarted { run, farmhand, project, plans, .. } => {
                self.name = project.clone();
                self.started = Some(*at);
                self.properties =
                    vec![Property::new("run", run.as_str()), Property::new("farmhand", farmhand.as_str())];
                self.machines = plans
                    .iter()
                    .map(|plan| {
                        let left = plan.operations.iter().map(ToString::to_string).collect();
                        (plan.machine.clone(), Machine { left, ..Machine::default() })
                    })
                    .collect();
            }
            Event::RunFinished { seconds, .. } => self.seconds = Some(*seconds),
            event => {
                if let Some(machine) = event.machine() {
                    self.machines.entry(machine.to_owned()).or_default().take(*at, event);
                }
            }
        }
    }

    fn into_report(self) -> Report {
        let mut report = Report::new(self.name);
        report.timestamp = self.started.and_then(in_xml);
        report.time = self.seconds.map(duration);
        let finished = self.seconds.is_some();
        for (name, machine) in self.machines {
            let mut suite = machine.into_suite(&name, finished);
            suite.add_properties(self.properties.clone());
            report.add_test_suite(suite);
        }
        report
    }
}

impl Machine {
    fn take(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::MachineStarted { .. } => self.started = Some(at),
            Event::OperationStarted { operation, .. } => {
                let name = operation.to_string();
                if let Some(place) = self.left.iter().position(|left| *left == name) {
                    self.left.remove(place);
                }
                self.cases.push(Case::new(name, at));
            }
            Event::StepStarted { phase, index, name, .. } => {
                let name = format!("{phase} {index}: {name}");
                match self.cases.last_mut().filter(|case| case.end.is_none()) {
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
                    case.end(End::Passed, Some(*seconds));
                }
            }
            Event::OperationFinished { seconds, .. } => {
                if let Some(case) = self.open() {
                    case.end(End::Passed, Some(*seconds));
                }
            }
            Event::OperationFailed { failure, .. } => self.fail(at, failure),
            Event::MachineFinished { failure, seconds, .. } => {
                self.seconds = Some(*seconds);
                self.failure = failure.clone();
                let failed = self.cases.iter().any(|case| matches!(case.end, Some(End::Failed(_))));
                if let Some(failure) = failure.as_ref().filter(|_| !failed) {
                    self.fail(at, failure);
                }
            }
            Event::Progress { .. } | Event::RunStarted { .. } | Event::RunFinished { .. } => {}
        }
    }

    /// The case that is worked on.
    fn open(&mut self) -> Option<&mut Case> {
        self.cases.last_mut().filter(|case| case.end.is_none())
    }

    /// The case that is worked on failed; without one, what failed becomes a case.
    fn fail(&mut self, at: Timestamp, failure: &Failure) {
        if self.open().is_none() {
            self.cases.push(Case::new(failure.during.clone(), at));
        }
        if let Some(case) = self.open() {
            let seconds = at.duration_since(case.begun).as_secs_f64();
            case.end(End::Failed(failure.clone()), Some(seconds));
        }
    }

    fn into_suite(self, name: &str, finished: bool) -> TestSuite {
        let mut suite = TestSuite::new(name);
        suite.timestamp = self.started.and_then(in_xml);
        suite.time = self.seconds.map(duration);
        for case in self.cases {
            suite.add_test_case(case.into_test_case(name, finished));
        }
        let reason = match &self.failure {
            Some(failure) => format!("{}{} failed before", failure.during, in_step(failure)),
            None if self.started.is_none() => "the machine's turn did not come".to_owned(),
            None if self.seconds.is_none() => "the run did not come to this".to_owned(),
            None => "it was left out".to_owned(),
        };
        for operation in self.left {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason.as_str());
            let mut case = TestCase::new(operation, status);
            case.set_classname(name);
            suite.add_test_case(case);
        }
        suite
    }
}

impl Case {
    fn new(name: String, begun: Timestamp) -> Self {
        Self { name, begun, seconds: None, end: None, stdout: Tail::default(), stderr: Tail::default() }
    }

    fn end(&mut self, end: End, seconds: Option<f64>) {
        self.end = Some(end);
        self.seconds = seconds;
    }

    fn into_test_case(self, machine: &str, finished: bool) -> TestCase {
        let status = match self.end {
            Some(End::Passed) => TestCaseStatus::success(),
            Some(End::Failed(failure)) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                // The innermost cause says most.
                let message = failure.causes.last().and_then(|cause| cause.lines().next());
                status.set_message(message.unwrap_or("it failed").trim_end_matches(':'));
                let help = failure.help.map(|help| format!("help: {help}"));
                let lines: Vec<_> = failure.causes.into_iter().chain(help).collect();
                status.set_description(lines.join("\n"));
                status
            }
            None => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                let message = if finished {
                    "it did not come to an end"
                } else {
                    "the run did not come to the end of this"
                };
                status.set_message(message);
                status
            }
        };
        let mut case = TestCase::new(self.name, status);
        case.set_classname(machine);
        case.timestamp = in_xml(self.begun);
        case.time = self.seconds.map(duration);
        if let Some(text) = self.stdout.into_text() {
            case.set_system_out(text);
        }
        if let Some(text) = self.stderr.into_text() {
            case.set_system_err(text);
        }
        case
    }
}

/// The last lines of an output.
#[derive(Default)]
struct Tail {
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

    fn into_text(self) -> Option<String> {
        let note = (self.left_out > 0)
            .then(|| format!("({} lines before these are only in the run's folder)", self.left_out));
        let lines: Vec<_> = note.into_iter().chain(self.lines).collect();
        (!lines.is_empty()).then(|| lines.join("\n") + "\n")
    }
}

/// A time as quick-junit takes it.
fn in_xml<T: std::str::FromStr>(at: Timestamp) -> Option<T> {
    at.to_string().parse().ok()
}

/// Whatever a file says, without a panic.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

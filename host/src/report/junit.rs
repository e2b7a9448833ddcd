//! JUnit XML: a test suite a machine, a test case an operation, and for phases a test case a step.

use std::time::Duration;

use jiff::Timestamp;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::{
    RecordError, RecordedEvents, Selection,
    cases::{Case, Cases, End, Machine},
};

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
    let Cases { run, farmhand, project, started, seconds, machines } = Cases::read(events, machines)?;
    let mut report = Report::new(project);
    report.timestamp = started.and_then(in_xml);
    report.time = seconds.map(duration);
    for (name, machine) in machines {
        let mut suite = suite(&name, machine);
        suite.add_property(Property::new("run", run.as_str()));
        suite.add_property(Property::new("farmhand", farmhand.as_str()));
        report.add_test_suite(suite);
    }
    Ok(report.to_string()?)
}

fn suite(name: &str, machine: Machine) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.timestamp = machine.started.and_then(in_xml);
    suite.time = machine.seconds.map(duration);
    for case in machine.cases {
        suite.add_test_case(test_case(name, case));
    }
    for operation in machine.left_out {
        let mut status = TestCaseStatus::skipped();
        status.set_message(machine.reason.as_str());
        let mut case = TestCase::new(operation, status);
        case.set_classname(name);
        suite.add_test_case(case);
    }
    suite
}

fn test_case(machine: &str, case: Case) -> TestCase {
    let status = match case.end {
        End::Passed => TestCaseStatus::success(),
        End::Failed(failure) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            // The innermost cause says most.
            let message = failure.causes.last().and_then(|cause| cause.lines().next());
            status.set_message(message.unwrap_or("it failed").trim_end_matches(':'));
            let help = failure.help.map(|help| format!("help: {help}"));
            let lines: Vec<_> = failure.causes.into_iter().chain(help).collect();
            status.set_description(lines.join("\n"));
            status
        }
        End::Open => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message("the run did not come to the end of this");
            status
        }
    };
    let mut test = TestCase::new(case.name, status);
    test.set_classname(machine);
    test.timestamp = in_xml(case.begun);
    test.time = case.seconds.map(duration);
    if let Some(text) = Option::<String>::from(case.stdout) {
        test.set_system_out(text);
    }
    if let Some(text) = Option::<String>::from(case.stderr) {
        test.set_system_err(text);
    }
    test
}

/// A time as quick-junit takes it.
fn in_xml<T: std::str::FromStr>(at: Timestamp) -> Option<T> {
    at.to_string().parse().ok()
}

/// Whatever a file says, without a panic.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

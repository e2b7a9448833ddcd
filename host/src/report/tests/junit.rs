//! Runs as JUnit XML, and as a page.

use std::io::Write as _;

use camino::Utf8Path;

use super::*;
use crate::report::{RecordedEvents, Selection, html, junit as write};

/// Events of some machines, as they are read from a record.
fn recorded(events: Vec<Event>, machines: &[&str]) -> (RecordedEvents, Selection) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for event in timed(events) {
        writeln!(file, "{}", serde_json::to_string(&event).unwrap()).unwrap();
    }
    let events = RecordedEvents::open(Utf8Path::from_path(file.path()).unwrap()).unwrap();
    let machines = machines.iter().map(|name| (*name).to_owned()).collect();
    let selection = Selection::new(machines, &events).unwrap();
    (events, selection)
}

/// The XML of a run, which can be read back.
fn junit(events: Vec<Event>, machines: &[&str]) -> String {
    let (events, selection) = recorded(events, machines);
    let xml = write(events, &selection).unwrap();
    quick_junit::Report::deserialize_from_str(&xml).unwrap();
    xml
}

#[test]
fn of_a_run() {
    insta::assert_snapshot!("junit", junit(events(), &[]));
}

#[test]
fn of_one_machine() {
    let xml = junit(events(), &["debian_vs_amd64"]);
    assert!(xml.contains("debian_vs_amd64") && !xml.contains("Arch"), "{xml}");
}

#[test]
fn machine_that_the_run_only_put_right_is_none_of_its_own() {
    let mut events = events();
    let line = "powered off: a run was killed that worked on it".to_owned();
    events.insert(1, Event::Log { machine: "another".into(), level: Level::Info, line });
    let xml = junit(events, &[]);
    assert!(!xml.contains("another"), "{xml}");
}

#[test]
fn of_a_run_that_was_cut_off() {
    let events = events();
    let until = events.iter().position(|event| matches!(event, Event::OperationFailed { .. })).unwrap();
    insta::assert_snapshot!("junit_cut_off", junit(events[..until].to_vec(), &[]));
}

#[test]
fn what_fails_outside_of_operations_is_a_case_of_its_own() {
    let plan = plan([Verdict::Valid, Verdict::Valid, Verdict::Valid], vec![Operation::Shutdown]);
    let failure = Failure {
        during: "lock".into(),
        step: None,
        causes: vec!["another farmhand works on it <now> & \u{1b}[31mlong\u{0}".into()],
        help: None,
        last_output: vec![],
    };
    let machine = || "debian_vs_amd64".to_owned();
    let xml = junit(
        vec![
            started(vec![plan]),
            Event::MachineStarted { machine: machine() },
            Event::OperationFailed { machine: machine(), failure: failure.clone() },
            Event::MachineFinished { machine: machine(), failure: Some(failure), seconds: 0.0 },
            Event::RunFinished { passed: 0, failed: 1, skipped: 0, seconds: 0.1 },
        ],
        &[],
    );
    insta::assert_snapshot!("junit_lock", xml);
}

#[test]
fn a_phase_that_was_tried_again_has_each_step_once() {
    let machine = || "debian_vs_amd64".to_owned();
    let main = || Operation::Phase { phase: Phase::Main };
    let step = |index, name: &str| {
        let name = name.to_owned();
        Event::StepStarted { machine: machine(), phase: Phase::Main, index, count: 2, name }
    };
    let finished = |index, name: &str| {
        let (name, phase, summary) = (name.to_owned(), Phase::Main, String::new());
        Event::StepFinished { machine: machine(), phase, index, name, changed: true, summary, seconds: 1.0 }
    };
    let line = "1 of 42 failed".to_owned();
    let retried = Retried { retry: 1, retries: 2, causes: vec!["step `Test` failed".to_owned()] };
    let reason = String::new();
    let events = vec![
        started(vec![plan([Verdict::Valid, Verdict::Valid, Verdict::Valid], vec![main()])]),
        Event::MachineStarted { machine: machine() },
        Event::OperationStarted { machine: machine(), operation: main(), reason },
        step(1, "Build"),
        finished(1, "Build"),
        step(2, "Test"),
        Event::Output { machine: machine(), stream: Stream::Stderr, line },
        Event::PhaseRetried { machine: machine(), phase: Phase::Main, retried },
        step(1, "Build"),
        finished(1, "Build"),
        step(2, "Test"),
        finished(2, "Test"),
        Event::OperationFinished { machine: machine(), operation: main(), seconds: 9.0 },
        Event::MachineFinished { machine: machine(), failure: None, seconds: 9.0 },
        Event::RunFinished { passed: 1, failed: 0, skipped: 0, seconds: 9.1 },
    ];
    insta::assert_snapshot!("junit_retried", junit(events, &[]));
}

#[test]
fn of_much_output_the_end_is_kept() {
    let machine = || "debian_vs_amd64".to_owned();
    let plan = plan([Verdict::Valid, Verdict::Valid, Verdict::Valid], vec![phase(Phase::Main)]);
    let mut events = vec![
        started(vec![plan]),
        Event::MachineStarted { machine: machine() },
        Event::OperationStarted { machine: machine(), operation: phase(Phase::Main), reason: String::new() },
    ];
    events.extend((0..10_000).map(|number| Event::Output {
        machine: machine(),
        stream: Stream::Stdout,
        line: format!("line {number}"),
    }));
    let xml = junit(events, &[]);
    assert!(xml.contains("lines before these)") && xml.contains("line 9999"));
    assert!(!xml.contains("line 12\n") && xml.len() < 64 << 10, "{}", xml.len());
}

#[test]
fn as_a_page() {
    let mut events = events();
    events.truncate(events.len() - 1);
    events.push(Event::Log {
        machine: "debian_vs_amd64".into(),
        level: Level::Info,
        line: "said when nothing is done".into(),
    });
    let place = events.iter().position(|event| matches!(event, Event::Output { .. })).unwrap();
    let hostile = "</pre><script>alert(1)</script>";
    let machine = "debian_vs_amd64".to_owned();
    events.insert(place, Event::Output { machine, stream: Stream::Stdout, line: hostile.into() });
    let (recorded, selection) = recorded(events, &[]);
    let page = html(recorded, &selection).unwrap();
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("http"), "{page}");
    insta::assert_snapshot!("page", page);
}

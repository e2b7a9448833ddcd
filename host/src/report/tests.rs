mod junit;
mod summary;

use jiff::{SignedDuration, Timestamp};

use super::{
    lines::{Detail, lines},
    plan_text, rehearsal_text,
    text::Text,
};
use crate::{
    base::{Checkpoint, Phase},
    guest::Stream,
    plan::{MachinePlan, Operation, PlannedOperation, Retry, Verdict},
    run::{EVENT_FORMAT, Event, Failure, Level, Retried, RunId, TimedEvent},
};

pub(super) const RUN: &str = "2026-11-25T18-27-03.412Z-4f1c";

/// The first event of a run.
pub(super) fn started(plans: Vec<MachinePlan>) -> Event {
    Event::RunStarted {
        format: EVENT_FORMAT,
        run: RUN.parse().unwrap(),
        farmhand: "0.1.0".into(),
        project: "p".into(),
        plans,
    }
}

/// Events at times that are always the same.
pub(super) fn timed(events: Vec<Event>) -> Vec<TimedEvent> {
    let begun: Timestamp = "2026-11-25T18:27:03.412Z".parse().unwrap();
    let at = |number: usize| begun + SignedDuration::from_millis(1_250 * number as i64);
    events.into_iter().enumerate().map(|(number, event)| TimedEvent { at: at(number), event }).collect()
}

fn plan(verdicts: [Verdict; 3], operations: Vec<Operation>) -> MachinePlan {
    let checkpoints = Checkpoint::ALL.into_iter().zip(verdicts).collect();
    let reason = |operation| match operation {
        Operation::Install => "its disk 0 changed (1b2c3d4e -> 5f6a7b8c)".to_owned(),
        Operation::Phase { .. } => "it is done in every run".to_owned(),
        _ => "it is needed".to_owned(),
    };
    let retry = |operation| match operation {
        Operation::Phase { phase: Phase::Main } => Some(Retry { times: 2, from: Some(Checkpoint::Init) }),
        _ => None,
    };
    let planned =
        |operation| PlannedOperation { operation, reason: reason(operation), retry: retry(operation) };
    let operations = operations.into_iter().map(planned).collect();
    MachinePlan { machine: "debian_vs_amd64".into(), checkpoints, operations }
}

fn phase(phase: Phase) -> Operation {
    Operation::Phase { phase }
}

fn restore(checkpoint: Checkpoint) -> Operation {
    Operation::Restore { checkpoint }
}

fn create(checkpoint: Checkpoint) -> Operation {
    Operation::Create { checkpoint }
}

#[test]
fn plans() {
    use Verdict::{Missing, Stale, Unused, Valid};
    let last = [phase(Phase::Main), phase(Phase::Terminate), Operation::Shutdown];
    let with = |first: Vec<Operation>| [first, last.to_vec()].concat();
    let reason = "dependencies: step 1 (debian-apt) changed: packages +wget".to_owned();
    let above = "it stands on dependencies, which is stale".to_owned();
    let install = Operation::Install;
    let plans = [
        plan([Valid, Valid, Valid], with(vec![restore(Checkpoint::Init)])),
        plan(
            [Valid, Stale(reason), Stale(above)],
            with(vec![
                restore(Checkpoint::Clean),
                phase(Phase::Dependencies),
                Operation::Discard { checkpoint: Checkpoint::Dependencies },
                create(Checkpoint::Dependencies),
            ]),
        ),
        plan([Valid, Unused, Missing], with(vec![restore(Checkpoint::Clean), phase(Phase::Init)])),
        plan([Missing, Missing, Missing], with(vec![install, Operation::Startup, create(Checkpoint::Clean)])),
        plan([Valid, Valid, Valid], vec![]),
    ];
    let texts =
        |verbose| plans.iter().map(|plan| plan_text(plan, None, verbose)).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("plans", texts(false));
    insta::assert_snapshot!("plans_verbose", texts(true));
    assert!(plan_text(&plans[0], Some("near"), false).starts_with("debian_vs_amd64 on near\n  clean "));
}

/// A run of two machines: one passes, one fails in a step.
pub(super) fn events() -> Vec<Event> {
    let (good, bad) = (|| "debian_vs_amd64".to_owned(), || "Arch-Linux_amd64".to_owned());
    let install = || Operation::Install;
    let plans = |machine: String| {
        let first = if machine == good() { restore(Checkpoint::Init) } else { install() };
        let operations = vec![first, phase(Phase::Main), phase(Phase::Terminate), Operation::Shutdown];
        MachinePlan { machine, ..plan([Verdict::Valid, Verdict::Valid, Verdict::Valid], operations) }
    };
    let begin = |machine: String, operation| {
        let reason = match operation {
            Operation::Install => "it does not exist",
            _ => "it is needed",
        };
        Event::OperationStarted { machine, operation, reason: reason.to_owned() }
    };
    let end = |machine: String, operation, seconds| Event::OperationFinished { machine, operation, seconds };
    let step = |machine, name: &str| Event::StepStarted {
        machine,
        phase: Phase::Main,
        index: 1,
        count: 2,
        name: name.to_owned(),
    };
    let log = |level, line: &str| Event::Log { machine: good(), level, line: line.into() };
    let output = |machine, stream, line: &str| Event::Output { machine, stream, line: line.into() };
    let finished = |name: &str, changed, summary: &str, seconds| Event::StepFinished {
        machine: good(),
        phase: Phase::Main,
        index: 1,
        name: name.into(),
        changed,
        summary: summary.into(),
        seconds,
    };
    let failure = Failure {
        during: "main".into(),
        step: Some("Build".into()),
        causes: vec![
            "step `Build` failed".into(),
            "`make` ended with exit status 2:\nmake: *** No rule to make target 'all'.  Stop.".into(),
        ],
        help: Some("look at its console: virsh console 'Arch-Linux_amd64'".into()),
        last_output: vec!["checking for cc... cc".into(), "make: *** No rule to make target 'all'.".into()],
    };
    vec![
        started(vec![plans(good()), plans(bad())]),
        Event::MachineStarted { machine: good() },
        begin(good(), restore(Checkpoint::Init)),
        Event::MachineStarted { machine: bad() },
        begin(bad(), install()),
        Event::Progress { machine: bad(), message: "disk 0: 40 of 120 MB".into() },
        end(good(), restore(Checkpoint::Init), 1.24),
        begin(good(), phase(Phase::Main)),
        step(good(), "Run the tests"),
        output(good(), Stream::Stdout, "42 passed"),
        log(Level::Debug, "exec make check"),
        log(Level::Info, "all tests were run"),
        log(Level::Warn, "2 were slow"),
        log(Level::Error, "1 was very slow"),
        finished("Run the tests", true, "42 tests", 12.0),
        finished("Clean up", false, "", 0.04),
        end(good(), phase(Phase::Main), 12.3),
        end(bad(), install(), 8.0),
        begin(bad(), phase(Phase::Main)),
        step(bad(), "Build"),
        output(bad(), Stream::Stdout, "checking for cc... cc"),
        output(bad(), Stream::Stderr, "make: *** No rule to make target 'all'."),
        Event::OperationFailed { machine: bad(), failure: failure.clone() },
        begin(good(), Operation::Shutdown),
        end(good(), Operation::Shutdown, 2.5),
        Event::MachineFinished { machine: good(), failure: None, seconds: 16.1 },
        Event::MachineFinished { machine: bad(), failure: Some(failure), seconds: 63.0 },
        Event::RunFinished { passed: 1, failed: 1, skipped: 0, seconds: 63.2 },
    ]
}

fn shown(detail: Detail) -> String {
    events().iter().flat_map(|event| lines(event, detail)).collect::<Vec<_>>().join("\n")
}

#[test]
fn lines_of_a_run() {
    insta::assert_snapshot!("lines", shown(Detail { verbose: false }));
    insta::assert_snapshot!("lines_verbose", shown(Detail { verbose: true }));
}

#[test]
fn events_are_one_json_object_a_line_and_come_back() {
    let events = timed(events());
    let text: Vec<_> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    assert!(text.iter().all(|line| !line.contains('\n')));
    let back: Vec<TimedEvent> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back, events);
    insta::assert_snapshot!("json", text.join("\n"));
}

#[test]
fn times_have_three_digits_and_come_back() {
    let event = TimedEvent::now(Event::MachineStarted { machine: "m".into() });
    let text = serde_json::to_string(&event).unwrap();
    let (at, _) = text.strip_prefix("{\"at\":\"").unwrap().split_once('"').unwrap();
    assert_eq!(at.len(), "2026-11-25T18:27:03.412Z".len(), "{at}");
    assert_eq!(serde_json::from_str::<TimedEvent>(&text).unwrap(), event);
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let line = r#"{"at":"2026-11-25T18:27:03.412Z","event":"machine-started","machine":"m","mood":"fine"}"#;
    let event: TimedEvent = serde_json::from_str(line).unwrap();
    assert_eq!(event.event, Event::MachineStarted { machine: "m".into() });
}

#[test]
fn a_rehearsal_says_what_would_be_done_and_what_is_not_known() {
    use crate::{
        base::Phase,
        module::{CheckedAnswer, CheckedCall, CommandCall, GuestCall, in_words},
        run::{RehearsedEnd, RehearsedPhase, RehearsedStep},
    };
    let call = |argv: &[&str], answer: CheckedAnswer| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let read_only = answer != CheckedAnswer::HeldBack;
        let call = GuestCall::Exec(CommandCall { argv, read_only, r#become: true, ..CommandCall::default() });
        CheckedCall { text: in_words(&call), call, answer }
    };
    let query = |answer| call(&["dpkg-query", "-W"], answer);
    let install = || call(&["apt-get", "install", "--", "curl"], CheckedAnswer::HeldBack);
    let step = |name: &str, calls: Vec<CheckedCall>, end: RehearsedEnd| RehearsedStep {
        name: name.to_owned(),
        module: "debian-apt".to_owned(),
        calls,
        end,
    };
    use CheckedAnswer::{Assumed, Known, Unknown};
    let steps = vec![
        step("known", vec![query(Known), install(), query(Assumed)], RehearsedEnd::Changes),
        step("assumed", vec![query(Assumed), install(), query(Assumed)], RehearsedEnd::Changes),
        step("assumed to be done", vec![query(Assumed)], RehearsedEnd::Unchanged),
        step("done", vec![query(Known), query(Known)], RehearsedEnd::Unchanged),
        step("not known", vec![query(Unknown)], RehearsedEnd::Unknown("not known".to_owned())),
        step("facts", vec![], RehearsedEnd::Unknown("nothing is known of the guest yet".to_owned())),
        step("wrong", vec![query(Known)], RehearsedEnd::Fails("no such package\nor so".to_owned())),
    ];
    insta::assert_snapshot!(rehearsal_text(&[RehearsedPhase { phase: Phase::Dependencies, steps }]));
}

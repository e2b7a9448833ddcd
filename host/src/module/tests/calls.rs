//! Calls: grants, the guest, the log, time.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::support::*;
use crate::{base::Grants, module::*};

/// Runs `true` in the guest and fails with the guest's error if that fails.
const EXEC: &str = "
    local.get $guest i32.const 96 i32.const 1 i32.const 300 call $exec
    (if (i32.load8_u (i32.const 300)) (then
        ;; err(guest(error)): the error (20 bytes) is moved from 304 to 408.
        (i32.store (i32.const 400) (i32.const 1)) (i32.store (i32.const 404) (i32.const 3))
        (i64.store (i32.const 408) (i64.load (i32.const 304))) (i64.store (i32.const 416) (i64.load (i32.const 312)))
        (i32.store (i32.const 424) (i32.load (i32.const 320)))
        (return (i32.const 400))))
    i32.const 64";

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anything_runs() {
    let module = Wat { capabilities: vec![0, 1], ..wat(EXEC) }.load().await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, Vec::new())));
    let grants = Grants { exec: true, ..Grants::default() };
    let error = module.run(Call { grants, ..call_on(guest.clone()) }).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "module test asks for what it was not granted:\n  become: wants it\nif you trust it, add to farm.yaml:\n\
         modules:\n  test:\n    grants: { exec: true, become: true }"
    );
    assert_eq!(error.blame(), Blame::Operator);
    assert!(guest.run().is_empty());
}

#[tokio::test]
async fn a_capability_that_was_not_asked_for_is_denied() {
    let module = wat(EXEC).load().await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, Vec::new())));
    let error = module.run(call_on(guest.clone())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "module test asks for what it was not granted:\n  exec: one of its calls needs it\nif you trust it, add to \
         farm.yaml:\nmodules:\n  test:\n    grants: { exec: true }"
    );
    assert_eq!(error.blame(), Blame::Operator);
    assert!(guest.run().is_empty());
}

#[tokio::test]
async fn a_granted_command_is_run_and_its_output_logged() {
    let module = Wat { capabilities: vec![0], ..wat(EXEC) }.load().await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, b"one\n\x1b[31mtwo".to_vec())));
    let log = Arc::new(Lines::default());
    let call = Call { grants: granted(), log: log.clone(), ..call_on(guest.clone()) };
    let outcome = module.run(call).await.unwrap();
    assert_eq!(outcome, Outcome { changed: false, summary: "done".to_owned() });
    assert_eq!(guest.run(), ["true"]);
    assert_eq!(log.all(), ["Stdout: one", "Stdout: two"]);
}

#[tokio::test]
async fn logged_output_is_limited() {
    let module = Wat { capabilities: vec![0], ..wat(EXEC) }.load().await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, b"123456789\n".repeat(50))));
    let log = Arc::new(Lines::default());
    // A line of nine bytes counts for 137.
    let limits = Limits { logged_output: 300, ..Limits::default() };
    module.run(Call { grants: granted(), limits, log: log.clone(), ..call_on(guest) }).await.unwrap();
    let told = "Warn: further output is not shown (limit: 300 bytes in a step)";
    assert_eq!(log.all(), ["Stdout: 123456789", "Stdout: 123456789", told]);
}

#[tokio::test]
async fn captured_output_is_limited() {
    // The length of standard output, at 316 in ok(output), becomes the length of the summary.
    let module = Wat {
        capabilities: vec![0],
        ..wat(&EXEC.replace(
            "    i32.const 64",
            "(i32.store (i32.const 76) (i32.shr_u (i32.load (i32.const 320)) (i32.const 10))) i32.const 64",
        ))
    };
    let module = module.load().await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, vec![b'x'; 100_000])));
    let limits = Limits { captured_output: 3 << 10, ..Limits::default() };
    let outcome = module.run(Call { grants: granted(), limits, ..call_on(guest) }).await.unwrap();
    assert_eq!(outcome.summary, "don");
}

#[tokio::test]
async fn waiting_for_the_guest_is_not_computing() {
    let module = Wat { capabilities: vec![0], ..wat(EXEC) }.load().await.unwrap();
    let mut guest = FakeGuest::new(|_| (0, Vec::new()));
    guest.takes = Duration::from_millis(400);
    let limits = Limits { cpu_time: Duration::from_millis(50), ..Limits::default() };
    module.run(Call { grants: granted(), limits, ..call_on(Arc::new(guest)) }).await.unwrap();
}

#[tokio::test]
async fn a_command_ends_with_the_step() {
    let module = Wat { capabilities: vec![0], ..wat(EXEC) }.load().await.unwrap();
    let mut guest = FakeGuest::new(|_| (0, b"last words".to_vec()));
    guest.takes = Duration::MAX;
    let dropped = guest.dropped.clone();
    let log = Arc::new(Lines::default());
    let timeout = Some(Duration::from_millis(50));
    let call = Call { grants: granted(), timeout, log: log.clone(), ..call_on(Arc::new(guest)) };
    let error = module.run(call).await.unwrap_err();
    assert!(matches!(error, ModuleError::Limit { limit: LimitHit::WallTime(_), .. }), "{error}");
    assert_eq!(*dropped.lock().unwrap(), 1);
    assert_eq!(log.all(), ["Stdout: last words"]);
}

#[tokio::test]
async fn a_flood_of_lines_is_cut_and_counted() {
    let module = Wat {
        more: r#"(data (i32.const 200) "flood")"#.to_owned(),
        ..wat("(loop $l i32.const 1 i32.const 200 i32.const 5 call $log
                (local.tee $i (i32.add (local.get $i) (i32.const 1))) i32.const 50 i32.lt_u br_if $l) i32.const 64")
    };
    let module = module.load().await.unwrap();
    let log = Arc::new(Lines::default());
    let limits = Limits { log_burst: 10, log_rate: 0, ..Limits::default() };
    module.run(Call { limits, log: log.clone(), ..call() }).await.unwrap();
    let mut expected = vec!["Info: flood".to_owned(); 10];
    expected.push("Warn: 40 lines were dropped (limit: 10 lines at once, 0 a second)".to_owned());
    assert_eq!(log.all(), expected);
}

#[tokio::test]
async fn wrong_settings_are_told_by_place() {
    let schema = json!({
        "type": "object",
        "properties": { "packages": { "type": "array", "items": { "type": "string" } } },
        "additionalProperties": false,
    });
    let module = Wat { schema: schema.to_string(), ..wat("i32.const 64") }.load().await.unwrap();
    assert_eq!(module.check_settings(&json!({ "packages": ["curl"] })), Ok(()));
    let problems = module.check_settings(&json!({ "packages": ["curl", 7] })).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, "/packages/1");

    let mut call = call();
    call.context.settings = json!({ "pakages": [] });
    let error = module.run(call).await.unwrap_err();
    assert!(
        matches!(&error, ModuleError::Settings { .. }) && error.to_string().contains("pakages"),
        "{error}"
    );
}

#[tokio::test]
async fn every_call_starts_afresh() {
    // A counter in the module's memory: the second call would fail.
    let module = wat(
        "(if (i32.load (i32.const 500)) (then unreachable)) (i32.store (i32.const 500) (i32.const 1)) i32.const 64",
    );
    let module = module.load().await.unwrap();
    for _ in 0..2 {
        module.run(call()).await.unwrap();
    }
}

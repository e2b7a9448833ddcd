#![allow(clippy::unwrap_used, clippy::panic)]

use farmhand_sdk::{
    GuestError,
    testing::{Script, context},
};
use serde_json::json;

use super::*;

#[test]
fn the_script_is_run_as_the_step_says() {
    let guest = Script::new();
    guest.expect(["/bin/sh", "-e", "-c", "make check"]).check(|command| {
        assert_eq!(command.cwd.as_deref(), Some("/src"));
        let env: Vec<_> = command.env.iter().map(|it| (it.name.as_str(), it.value.clone())).collect();
        let secret = Content::Secret("DEPLOY_TOKEN".to_owned());
        assert_eq!(
            env,
            [("CI", "true".into()), ("JOBS", "4".into()), ("NAME", "x y".into()), ("TOKEN", secret)]
        );
        assert!(command.log_output);
    });
    let env = json!({ "JOBS": 4, "CI": true, "NAME": "x y", "TOKEN": { "secret": "DEPLOY_TOKEN" } });
    let settings = json!({ "run": "make check", "cwd": "/src", "env": env });
    let outcome = guest.run_module::<Shell>(&context(), settings).unwrap();
    assert_eq!(outcome, Outcome::changed("exit code 0"));
}

#[test]
fn become_comes_from_the_step() {
    let guest = Script::new();
    guest.expect(["bash", "-e", "-c", "true"]).as_root();
    guest.run_module::<Shell>(&context().as_root(), json!({ "run": "true", "shell": "bash" })).unwrap();
}

#[test]
fn other_exit_codes_can_be_a_success() {
    let run = |codes: serde_json::Value| {
        let guest = Script::new();
        guest.expect(["/bin/sh", "…"]).exits(3).stdout("checking\n").stderr("E: no\nE: really not\n");
        guest.run_module::<Shell>(&context(), json!({ "run": "exit 3", "exit_codes": codes }))
    };
    assert_eq!(run(json!([0, 3])).unwrap(), Outcome::changed("exit code 3"));
    let expected = "the script exited with status 3\nE: no\nE: really not".to_owned();
    assert_eq!(run(json!([0])).unwrap_err(), Failure::CommandFailed(expected));
}

#[test]
fn nothing_is_run_when_its_result_exists() {
    let guest = Script::new();
    guest.expect(["test", "-e", "out"]).check(|command| assert_eq!(command.cwd.as_deref(), Some("/src")));
    let settings = json!({ "run": "make", "creates": "out", "cwd": "/src" });
    assert_eq!(guest.run_module::<Shell>(&context(), settings).unwrap(), Outcome::unchanged("out exists"));

    let guest = Script::new();
    guest.expect(["test", "-e", "out"]).exits(1);
    guest.expect(["/bin/sh", "…"]);
    assert!(
        guest.run_module::<Shell>(&context(), json!({ "run": "make", "creates": "out" })).unwrap().changed
    );
}

#[test]
fn a_lost_connection_is_passed_on() {
    let guest = Script::new();
    guest.expect(["/bin/sh", "…"]).fails(GuestError::Disconnected("reset by peer".to_owned()));
    let failure = guest.run_module::<Shell>(&context(), json!({ "run": "reboot" })).unwrap_err();
    assert_eq!(failure, Failure::Guest(GuestError::Disconnected("reset by peer".to_owned())));
}

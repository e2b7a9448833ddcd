//! The deny matrix, and what modules are told of failed calls, on the simulated guest.

use std::sync::Arc;

use super::*;
use crate::{
    base::{Become, BecomeMethod, Credential, Grants, Login, Secret},
    guest::{
        Connector as _, Endpoint, Guest,
        simulated::{Answer, SimulatedConnector, SimulatedGuest},
    },
    module::limits::Limits,
};

async fn connect(simulated: &SimulatedGuest) -> Arc<dyn Guest> {
    let connector = SimulatedConnector::new();
    connector.add("guest", 22, simulated);
    let endpoint = Endpoint { host: "guest".to_owned(), port: 22, host_key: None };
    let password = Credential::Password(Secret::new("x"));
    let r#become = Become { method: BecomeMethod::Sudo, user: "root".to_owned(), password: None };
    let login = Login { user: "ci".to_owned(), credentials: vec![password], r#become };
    connector.connect(&endpoint, &login, std::time::Duration::from_secs(1)).await.unwrap().guest
}

fn state(grants: Grants, limits: Limits) -> State {
    let gate = LogGate::closed(&limits);
    State::new(grants, limits, gate)
}

fn command(r#become: bool) -> wit::Command {
    wit::Command {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        cwd: None,
        stdin: Vec::new(),
        become_: r#become,
        timeout: None,
        log_output: false,
    }
}

fn denied(error: wit::GuestError) -> Capability {
    match error {
        wit::GuestError::Denied(capability) => capability.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_call_needs_its_grants_and_nothing_else() {
    for bits in 0..8 {
        let grants = Grants { exec: bits & 1 != 0, r#become: bits & 2 != 0, files: bits & 4 != 0 };
        for r#become in [false, true] {
            let simulated = SimulatedGuest::new();
            simulated.on(["true"], Answer::ok());
            let guest = connect(&simulated).await;
            let mut state = state(grants.clone(), Limits::default());
            let missing = |granted: bool, capability| match (granted, r#become && !grants.r#become) {
                (false, _) => Some(capability),
                (true, true) => Some(Capability::Become),
                (true, false) => None,
            };
            let ran = exec::exec(&mut state, guest.as_ref(), command(r#become)).await;
            assert_eq!(ran.err().map(denied), missing(grants.exec, Capability::Exec), "{grants:?} {become}");
            let ran = simulated.calls().len();
            assert_eq!(
                ran,
                usize::from(missing(grants.exec, Capability::Exec).is_none()),
                "{grants:?} {become}"
            );

            let path = "/tmp/file";
            let wrote = files::write(&mut state, guest.as_ref(), path, b"x", 0o600, r#become).await;
            let expected = missing(grants.files, Capability::Files);
            assert_eq!(wrote.err().map(denied), expected, "{grants:?} {become}");
            assert_eq!(simulated.files().contains_key(path), expected.is_none(), "{grants:?} {become}");
            let read = files::read(&mut state, guest.as_ref(), path, 100, r#become).await;
            match expected {
                None => assert_eq!(read.unwrap(), b"x"),
                Some(capability) => assert_eq!(denied(read.unwrap_err()), capability),
            }
        }
    }
}

fn all() -> Grants {
    Grants { exec: true, r#become: true, files: true }
}

#[tokio::test]
async fn modules_are_told_why_a_call_failed() {
    let simulated = SimulatedGuest::new();
    simulated.on(["true"], Answer::ok());
    let guest = connect(&simulated).await;
    let mut state = state(all(), Limits::default());
    let error = files::read(&mut state, guest.as_ref(), "/missing", 10, false).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::NotFound(_)), "{error:?}");
    files::write(&mut state, guest.as_ref(), "/file", b"0123456789", 0o600, false).await.unwrap();
    let error = files::read(&mut state, guest.as_ref(), "/file", 9, false).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::LimitExceeded(_)), "{error:?}");

    simulated.refuse_become(Some("sudo: a password is required"));
    let error = exec::exec(&mut state, guest.as_ref(), command(true)).await.unwrap_err();
    assert!(matches!(&error, wit::GuestError::BecomeRefused(text) if text.contains("password")), "{error:?}");
    simulated.disconnect();
    let error = exec::exec(&mut state, guest.as_ref(), command(false)).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::Disconnected(_)), "{error:?}");
}

#[tokio::test]
async fn what_goes_over_a_bound_does_not_reach_the_guest() {
    let simulated = SimulatedGuest::new();
    let guest = connect(&simulated).await;
    let mut state = state(all(), Limits { file_size: 10, ..Limits::default() });
    let limited = |error: &wit::GuestError| matches!(error, wit::GuestError::LimitExceeded(_));
    let long = wit::Command { argv: vec!["x".repeat(2 << 20)], ..command(false) };
    assert!(limited(&exec::exec(&mut state, guest.as_ref(), long).await.unwrap_err()));
    let fed = wit::Command { stdin: vec![0; 11], ..command(false) };
    assert!(limited(&exec::exec(&mut state, guest.as_ref(), fed).await.unwrap_err()));
    let nothing = wit::Command { argv: Vec::new(), ..command(false) };
    assert!(exec::exec(&mut state, guest.as_ref(), nothing).await.is_err());
    assert!(simulated.calls().is_empty());
    assert!(limited(
        &files::write(&mut state, guest.as_ref(), "/f", &[0; 11], 0o600, false).await.unwrap_err()
    ));
    for (path, mode) in [("", 0o600), ("/f\0", 0o600), ("/f", 0o10_000)] {
        assert!(files::write(&mut state, guest.as_ref(), path, b"", mode, false).await.is_err(), "{path:?}");
    }
    assert!(simulated.files().is_empty());
}

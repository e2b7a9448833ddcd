//! The deny matrix, and what modules are told of failed calls, on the simulated guest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use camino::Utf8Path;

use super::*;
use crate::{
    base::{Become, BecomeMethod, Credential, Grants, Login, Secret},
    guest::{
        Connector as _, Endpoint, Facts, Guest,
        simulated::{Answer as Does, SimulatedConnector, SimulatedFile, SimulatedGuest},
    },
    module::{limits::Limits, notes::Notes, secrets::Secrets, transcript::Recording},
};

async fn connect(simulated: &SimulatedGuest) -> Lent {
    let connector = SimulatedConnector::new();
    connector.add("guest", 22, simulated);
    let endpoint = Endpoint { host: "guest".to_owned(), port: 22, jump: None, host_key: None };
    let password = Credential::Password(Secret::new("x"));
    let r#become = Become { method: BecomeMethod::Sudo, user: "root".to_owned(), password: None };
    let login = Login { user: "ci".to_owned(), credentials: vec![password], r#become };
    let guest: Arc<dyn Guest> =
        connector.connect(&endpoint, &login, Duration::from_secs(1)).await.unwrap().guest;
    Lent::Live { guest, notes: Notes::default() }
}

fn state(grants: Grants, limits: Limits) -> State {
    let gate = LogGate::closed(&limits);
    State::new(grants, limits, gate)
}

fn grants(text: &str) -> Grants {
    serde_yaml::from_str(text).unwrap()
}

fn all() -> Grants {
    grants("{ exec: true, become: true, files: ['/**'], secrets: [TOKEN], artifacts: true, facts: true }")
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
        read_only: false,
    }
}

fn bytes(bytes: &[u8]) -> Vec<wit::Content> {
    vec![wit::Content::Bytes(bytes.to_vec())]
}

fn secret() -> wit::Content {
    wit::Content::Secret("TOKEN".to_owned())
}

/// What a call was denied, in words; nothing when it was not.
fn denied<T>(result: Told<T>) -> Option<String> {
    match result.err()? {
        wit::GuestError::Denied(denial) => {
            Some(Denial { capability: denial.capability.into(), value: denial.value }.to_string())
        }
        _ => None,
    }
}

/// Begins to write a file as a module does.
fn create(state: &mut State, lent: &Lent, path: &str) -> Told<Resource<FileWriter>> {
    let writer = writer::create(state, lent, path.to_owned(), 0o600, false)?;
    Ok(state.table.push(writer).unwrap())
}

/// Every call of the contract that needs a grant, by name. Gives what it was denied.
async fn call(name: &str, state: &mut State, lent: &Lent) -> Option<String> {
    let file = || "/etc/motd".to_owned();
    match name {
        "exec" => denied(exec::exec(state, lent, command(false)).await),
        "exec as root" => denied(exec::exec(state, lent, command(true)).await),
        "exec with a secret in its environment" => {
            let env = vec![wit::Variable { name: "T".to_owned(), value: secret() }];
            denied(exec::exec(state, lent, wit::Command { env, ..command(false) }).await)
        }
        "exec with a secret as its input" => {
            denied(exec::exec(state, lent, wit::Command { stdin: vec![secret()], ..command(false) }).await)
        }
        "start" => denied(process::start(state, lent, command(false))),
        "start as root" => denied(process::start(state, lent, command(true))),
        "read" => denied(files::read(state, lent, file(), 100, false).await),
        "read as root" => denied(files::read(state, lent, file(), 100, true).await),
        "write" => denied(files::write(state, lent, file(), bytes(b"x"), 0o600, false).await),
        "write as root" => denied(files::write(state, lent, file(), bytes(b"x"), 0o600, true).await),
        "write a secret" => denied(files::write(state, lent, file(), vec![secret()], 0o600, false).await),
        "read piece by piece" => denied(reader::open(state, lent, file(), false).await),
        "read piece by piece as root" => denied(reader::open(state, lent, file(), true).await),
        "write piece by piece" => denied(writer::create(state, lent, file(), 0o600, false)),
        "write piece by piece as root" => denied(writer::create(state, lent, file(), 0o600, true)),
        "write a secret piece by piece" => match create(state, lent, "/etc/motd") {
            Err(error) => denied::<()>(Err(error)),
            Ok(writer) => denied(writer::write(state, &writer, secret()).await.unwrap()),
        },
        "keep bytes" => denied(artifacts::save(state, lent, "a.txt".to_owned(), b"x".to_vec()).await),
        "keep a file" => denied(artifacts::save_file(state, lent, "a.txt".to_owned(), file(), false).await),
        "facts" => {
            let guest = LentGuest { lent: lent.clone(), facts: Some(Facts::default()) };
            let guest = state.table.push(guest).unwrap();
            denied(wit::HostGuest::facts(state, guest).await.unwrap())
        }
        other => panic!("{other}"),
    }
}

const CALLS: [&str; 19] = [
    "exec",
    "exec as root",
    "exec with a secret in its environment",
    "exec with a secret as its input",
    "start",
    "start as root",
    "read",
    "read as root",
    "write",
    "write as root",
    "write a secret",
    "read piece by piece",
    "read piece by piece as root",
    "write piece by piece",
    "write piece by piece as root",
    "write a secret piece by piece",
    "keep bytes",
    "keep a file",
    "facts",
];

#[tokio::test]
async fn each_call_needs_its_grants_and_nothing_else() {
    let cases = [
        "{}",
        "{ exec: true }",
        "{ become: true }",
        "{ exec: true, become: true }",
        "{ files: ['/etc/*'] }",
        "{ files: ['/srv/**'] }",
        "{ files: ['/etc/motd'], become: true }",
        "{ exec: true, secrets: [TOKEN] }",
        "{ exec: true, secrets: [OTHER] }",
        "{ files: ['/**'], secrets: [TOKEN] }",
        "{ artifacts: true }",
        "{ artifacts: true, files: ['/etc/motd'] }",
        "{ facts: true }",
        "{ exec: true, become: true, files: ['/**'], secrets: [TOKEN], artifacts: true, facts: true }",
    ];
    let mut table = String::new();
    for text in cases {
        table += &format!("{text}\n");
        for name in CALLS {
            let simulated = SimulatedGuest::new();
            simulated.on(["true"], Does::ok());
            let lent = connect(&simulated).await;
            let outcome = call(name, &mut state(grants(text), Limits::default()), &lent).await;
            if outcome.is_some() {
                tokio::task::yield_now().await;
                assert!(simulated.calls().is_empty() && simulated.files().is_empty(), "{text}: {name}");
            }
            let outcome = outcome.map_or_else(|| "may".to_owned(), |denied| format!("is denied {denied}"));
            table += &format!("  {name}: {outcome}\n");
        }
    }
    insta::assert_snapshot!(table);
}

#[tokio::test]
async fn modules_are_told_why_a_call_failed() {
    let simulated = SimulatedGuest::new();
    simulated.on(["true"], Does::ok());
    let lent = connect(&simulated).await;
    let mut state = state(all(), Limits::default());
    let error = files::read(&mut state, &lent, "/missing".to_owned(), 10, false).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::NotFound(_)), "{error:?}");
    let file = || "/file".to_owned();
    files::write(&mut state, &lent, file(), bytes(b"0123456789"), 0o600, false).await.unwrap();
    let error = files::read(&mut state, &lent, file(), 9, false).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::LimitExceeded(_)), "{error:?}");

    simulated.refuse_become(Some("sudo: a password is required"));
    let error = exec::exec(&mut state, &lent, command(true)).await.unwrap_err();
    assert!(matches!(&error, wit::GuestError::BecomeRefused(text) if text.contains("password")), "{error:?}");
    simulated.disconnect();
    let error = exec::exec(&mut state, &lent, command(false)).await.unwrap_err();
    assert!(matches!(error, wit::GuestError::Disconnected(_)), "{error:?}");
}

#[tokio::test]
async fn what_goes_over_a_bound_does_not_reach_the_guest() {
    let simulated = SimulatedGuest::new();
    let lent = connect(&simulated).await;
    let limits = Limits { file_size: 10, commands: 1, artifacts: 1, artifact_data: 5, ..Limits::default() };
    let mut state = state(all(), limits);
    let limited = |error: &wit::GuestError| matches!(error, wit::GuestError::LimitExceeded(_));
    let long = wit::Command { argv: vec!["x".repeat(2 << 20)], ..command(false) };
    assert!(limited(&exec::exec(&mut state, &lent, long).await.unwrap_err()));
    let fed = wit::Command { stdin: bytes(&[0; 11]), ..command(false) };
    assert!(limited(&exec::exec(&mut state, &lent, fed).await.unwrap_err()));
    // Names of a few bytes that stand for 40 GB.
    state.secrets = Secrets::new(BTreeMap::from([("TOKEN".to_owned(), Secret::new("x".repeat(64 << 10)))]));
    let many = || vec![secret(); 600_000];
    let fed = wit::Command { stdin: many(), ..command(false) };
    assert!(limited(&exec::exec(&mut state, &lent, fed).await.unwrap_err()));
    let env = many().into_iter().map(|value| wit::Variable { name: "T".to_owned(), value }).collect();
    let told = wit::Command { env, ..command(false) };
    assert!(limited(&exec::exec(&mut state, &lent, told).await.unwrap_err()));
    let wrote = files::write(&mut state, &lent, "/f".to_owned(), many(), 0o600, false).await;
    assert!(limited(&wrote.unwrap_err()));
    let nothing = wit::Command { argv: Vec::new(), ..command(false) };
    assert!(exec::exec(&mut state, &lent, nothing).await.is_err());
    assert!(simulated.calls().is_empty());

    let write = |path: &str, content: &[u8], mode| (path.to_owned(), bytes(content), mode);
    for (path, content, mode) in [
        write("/f", &[0; 11], 0o600),
        write("", b"", 0o600),
        write("/f\0", b"", 0o600),
        write("/f", b"", 0o10_000),
        write("f", b"", 0o600),
        write("/etc/../f", b"", 0o600),
        write("/etc/./f", b"", 0o600),
        write("/etc//f", b"", 0o600),
        write("/etc/", b"", 0o600),
    ] {
        let wrote = files::write(&mut state, &lent, path.clone(), content, mode, false).await;
        assert!(wrote.is_err(), "{path:?}");
    }
    assert!(simulated.files().is_empty());

    let home = tempfile::tempdir().unwrap();
    let home = Utf8Path::from_path(home.path()).unwrap();
    state.artifacts = Some(home.join("artifacts"));
    let save = async |state: &mut State, name: &str, content: &[u8]| {
        artifacts::save(state, &lent, name.to_owned(), content.to_vec()).await
    };
    for name in ["", ".", "..", ".hidden", "a/b", "../a", "a\0", &"x".repeat(129)] {
        assert!(save(&mut state, name, b"x").await.is_err(), "{name:?}");
    }
    assert!(limited(&save(&mut state, "a", b"123456").await.unwrap_err()));
    save(&mut state, "a", b"1234").await.unwrap();
    save(&mut state, "a", b"12345").await.unwrap();
    assert!(limited(&save(&mut state, "b", b"").await.unwrap_err()));
    assert_eq!(std::fs::read(home.join("artifacts/a")).unwrap(), b"12345");
}

#[tokio::test]
async fn a_secret_is_put_in_and_never_comes_out() {
    let simulated = SimulatedGuest::new();
    simulated.on_any(
        |command| command.argv[0] == "env",
        |command, _| {
            let stdin = String::from_utf8_lossy(&command.stdin).into_owned();
            Does::ok().stdout(format!("T={} stdin={stdin}\n", command.env[0].1))
        },
    );
    let mut lent = connect(&simulated).await;
    let recording = Arc::new(Recording::default());
    if let Lent::Live { notes, .. } = &mut lent {
        *notes = Notes::new(Some(recording.clone()), None);
    }
    let mut state = state(all(), Limits::default());
    state.secrets = Secrets::new(BTreeMap::from([("TOKEN".to_owned(), Secret::new("hunter2"))]));
    let env = vec![wit::Variable { name: "T".to_owned(), value: secret() }];
    let printing =
        wit::Command { argv: vec!["env".to_owned()], env, stdin: vec![secret()], ..command(false) };
    let output = exec::exec(&mut state, &lent, printing).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "T=*** stdin=***\n");
    let call = &simulated.calls()[0];
    assert_eq!((call.env[0].1.as_str(), call.stdin.as_slice()), ("hunter2", &b"hunter2"[..]));

    let parts = vec![wit::Content::Bytes(b"token: ".to_vec()), secret()];
    files::write(&mut state, &lent, "/f".to_owned(), parts, 0o600, false).await.unwrap();
    assert_eq!(simulated.files()["/f"].content, b"token: hunter2");
    let read = files::read(&mut state, &lent, "/f".to_owned(), 100, false).await.unwrap();
    assert_eq!(read, b"token: ***");

    let recorded = serde_json::to_string_pretty(&recording.take().0).unwrap();
    assert!(!recorded.contains("hunter2"), "{recorded}");
    insta::assert_snapshot!(recorded);
}

async fn events(process: &mut Process) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        match process.next().await {
            Ok(wit::Event::Stdout(bytes)) => events.push(format!("out {}", String::from_utf8_lossy(&bytes))),
            Ok(wit::Event::Stderr(bytes)) => events.push(format!("err {}", String::from_utf8_lossy(&bytes))),
            end => {
                events.push(format!("{end:?}"));
                return events;
            }
        }
    }
}

#[tokio::test]
async fn output_streams_and_the_end_comes_last() {
    let simulated = SimulatedGuest::new();
    simulated.on(["true"], Does::status(3).stdout("one").stderr("two"));
    let lent = connect(&simulated).await;
    let mut state = state(all(), Limits::default());
    let mut process = process::start(&mut state, &lent, command(false)).unwrap();
    assert_eq!(events(&mut process).await, ["out one", "err two", "Ok(Event::Exited(Exit::Status(3)))"]);
    // After the end it gives the same again.
    assert_eq!(events(&mut process).await, ["Ok(Event::Exited(Exit::Status(3)))"]);
}

#[tokio::test]
async fn a_command_that_is_dropped_is_ended_and_makes_room() {
    let simulated = SimulatedGuest::new();
    simulated.on(["true"], Does::hang().stdout("begun"));
    let lent = connect(&simulated).await;
    let mut state = state(all(), Limits { commands: 1, ..Limits::default() });
    let mut process = process::start(&mut state, &lent, command(false)).unwrap();
    assert!(matches!(process.next().await, Ok(wit::Event::Stdout(_))));
    let second = process::start(&mut state, &lent, command(false)).map(|_| ());
    assert!(
        matches!(second, Err(wit::GuestError::LimitExceeded(text)) if text.contains("more than 1 commands"))
    );
    drop(process);
    while simulated.ended().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(process::start(&mut state, &lent, command(false)).is_ok());
}

/// Writes megabytes at once, as a guest without flow control would, and counts how often it was asked for more.
struct Flood(Arc<std::sync::atomic::AtomicUsize>);

#[async_trait::async_trait]
impl Guest for Flood {
    async fn exec(
        &self,
        _: &crate::guest::Command,
        output: &mut dyn crate::guest::OutputSink,
    ) -> Result<crate::guest::Exit, GuestError> {
        for _ in 0..100 {
            output.write(crate::guest::Stream::Stdout, &[b'x'; 100_000]);
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        Ok(crate::guest::Exit::Status(0))
    }

    async fn stream_from_file(
        &self,
        _: &str,
        _: u64,
        _: bool,
        _: &mut crate::guest::FileSink<'_>,
    ) -> Result<(), GuestError> {
        unreachable!("nothing is read")
    }

    async fn stream_to_file(
        &self,
        _: &str,
        _: crate::guest::FileContent<'_>,
        _: u32,
        _: bool,
    ) -> Result<(), GuestError> {
        unreachable!("nothing is written")
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn a_command_whose_output_nobody_takes_is_held_up() {
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let lent = Lent::Live { guest: Arc::new(Flood(written.clone())), notes: Notes::default() };
    let mut state = state(all(), Limits::default());
    let mut process = process::start(&mut state, &lent, command(false)).unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let held_up = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(held_up <= 4, "{held_up}");
    let size: usize =
        events(&mut process).await.iter().filter_map(|event| event.strip_prefix("out ")).map(str::len).sum();
    assert_eq!(size, 10_000_000);
}

#[path = "streaming_tests.rs"]
mod streaming;

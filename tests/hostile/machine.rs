//! A machine as a module sees it: a simulated guest, a log, a folder for artifacts.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use camino::Utf8Path;
use farmhand::{
    base::{Become, BecomeMethod, Credential, Grants, Login, Phase, Secret},
    guest::{
        Connector as _, Endpoint, Facts, Stream,
        simulated::{Answer, SimulatedConnector, SimulatedGuest},
    },
    module::{Call, Context, Level, Limits, ModuleLog, Secrets},
};
use tempfile::TempDir;

/// The value of the secret `TOKEN`.
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// One machine.
pub(crate) struct Machine {
    name: String,
    pub(crate) guest: SimulatedGuest,
    pub(crate) log: Arc<Log>,
    artifacts: TempDir,
}

impl Machine {
    /// A machine whose guest knows the commands that modules here use.
    pub(crate) fn new(name: &str) -> Self {
        let guest = SimulatedGuest::new();
        guest.on(["true"], Answer::ok());
        guest.on(["sleep", "infinity"], Answer::hang());
        guest.on(["yes"], Answer::ok().stdout("y\n".repeat(1 << 20)));
        guest.on(["codes"], Answer::ok().stdout("x\x1b[2Jy\r\u{202e}z\n"));
        guest.on(["left"], Answer::ok().stdout(format!("TOKEN={TOKEN}\n")));
        guest.on(["torn"], Answer::ok().stdout(TOKEN.replace('-', "\x1b[m-") + "\n"));
        guest.on(["ps"], Answer::ok().stdout("  PID COMMAND\n    1 init\n"));
        guest.on_any(
            |command| command.argv[0] == "echo",
            |command, _| Answer::ok().stdout(command.argv[1..].join(" ") + "\n"),
        );
        guest.on_any(
            |command| command.argv[0] == "env",
            |command, _| {
                let variables = command.env.iter().map(|(name, value)| format!("{name}={value}\n"));
                let input = String::from_utf8_lossy(&command.stdin).into_owned();
                Answer::ok().stdout(variables.collect::<String>() + &input).stderr(input)
            },
        );
        Self { name: name.to_owned(), guest, log: Arc::default(), artifacts: tempfile::tempdir().unwrap() }
    }

    /// A call of a module on this machine.
    pub(crate) async fn call(&self, settings: serde_json::Value, grants: &str, limits: Limits) -> Call {
        let grants: Grants = serde_yaml::from_str(grants).unwrap();
        let connector = SimulatedConnector::new();
        connector.add("guest", 22, &self.guest);
        let endpoint = Endpoint { host: "guest".to_owned(), port: 22, jump: None, host_key: None };
        let r#become = Become { method: BecomeMethod::Sudo, user: "root".to_owned(), password: None };
        let credentials = vec![Credential::Password(Secret::new("x"))];
        let login = Login { user: "ci".to_owned(), credentials, r#become };
        let connection = connector.connect(&endpoint, &login, Duration::from_secs(1)).await.unwrap();
        // Also where it was not granted: another step's module was.
        let token = ("TOKEN".to_owned(), Secret::new(TOKEN));
        Call {
            context: Context {
                phase: Phase::Main,
                platform: "debian_vs".to_owned(),
                target: "amd64".to_owned(),
                machine: self.name.clone(),
                settings,
                r#become: false,
            },
            guest: connection.guest,
            facts: Facts { os_id: "debian".to_owned(), ..Facts::default() },
            grants,
            secrets: Secrets::new([token].into()),
            timeout: Some(limits.wall_time),
            limits,
            log: self.log.clone(),
            artifacts: Some(self.artifacts().join("kept")),
            record: None,
            probes: None,
        }
    }

    fn artifacts(&self) -> &Utf8Path {
        Utf8Path::from_path(self.artifacts.path()).unwrap()
    }

    /// What was kept, by path below the folder that encloses that of the artifacts.
    pub(crate) fn kept(&self) -> Vec<(String, Vec<u8>)> {
        fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, found);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.push((name, std::fs::read(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.artifacts.path(), self.artifacts.path(), &mut found);
        found.sort();
        found
    }
}

/// Keeps all that a machine has to say.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl ModuleLog for Log {
    fn line(&self, level: Level, line: &str) {
        self.push(format!("{level:?}: {line}"));
    }

    fn output(&self, stream: Stream, line: &str) {
        self.push(format!("{stream:?}: {line}"));
    }

    fn progress(&self, message: &str, percent: Option<u8>) {
        self.push(format!("Progress: {message} {percent:?}"));
    }
}

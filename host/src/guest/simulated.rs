//! Guests in memory, for tests of everything that works with guests. They obey the same contract tests as the real ones.
//!
//! ```
//! # use farmhand::guest::simulated::{Answer, SimulatedConnector, SimulatedGuest};
//! let guest = SimulatedGuest::new();
//! guest.on(["apt-get", "update"], Answer::ok());
//! guest.on_any(|command| command.argv[0] == "false", |_, _| Answer::status(1));
//! let connector = SimulatedConnector::new();
//! connector.add("127.0.0.1", 2201, &guest);
//! ```

mod connection;

pub use connection::SimulatedConnector;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{Command, Exit, Facts, facts};
use crate::base::Secret;

/// The host key of a simulated guest, unless it is told another.
pub const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

/// The files of a simulated guest, by path.
pub type Files = BTreeMap<String, SimulatedFile>;

/// A file of a simulated guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimulatedFile {
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Whether only root can read and replace it.
    pub root_only: bool,
}

/// What a simulated command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    after: Duration,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Exit(Exit),
    Never,
    Disconnect,
}

impl Answer {
    /// Exits with status 0.
    pub fn ok() -> Self {
        Self::status(0)
    }

    /// Exits with this status.
    pub fn status(status: u32) -> Self {
        Self::new(End::Exit(Exit::Status(status)))
    }

    /// Is ended by this signal (without `SIG`).
    pub fn signal(name: &str) -> Self {
        Self::new(End::Exit(Exit::Signal(name.into())))
    }

    /// Runs until it is ended.
    pub fn hang() -> Self {
        Self::new(End::Never)
    }

    /// Breaks all connections to the guest.
    pub fn disconnect() -> Self {
        Self::new(End::Disconnect)
    }

    fn new(end: End) -> Self {
        Self { stdout: vec![], stderr: vec![], after: Duration::ZERO, end }
    }

    /// Writes this to standard output first.
    pub fn stdout(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdout = bytes.into();
        self
    }

    /// Writes this to standard error first.
    pub fn stderr(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stderr = bytes.into();
        self
    }

    /// Takes so long, after it has written.
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

/// How a command in a simulated guest goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFault {
    /// It does nothing and exits with status 1.
    Fail,
    /// It never ends by itself.
    Hang,
    /// It does nothing and says that all went well.
    Pretend,
    /// All connections break instead of an answer.
    Disconnect,
}

type Matches = Box<dyn Fn(&Command) -> bool + Send + Sync>;
type Answers = Arc<dyn Fn(&Command, &mut Files) -> Answer + Send + Sync>;

/// A guest in memory. Clones are the same guest. Safe to change while it is in use.
#[derive(Clone)]
pub struct SimulatedGuest {
    state: Arc<Mutex<State>>,
    /// Counts how often all connections were broken.
    generation: Arc<watch::Sender<u64>>,
}

struct State {
    host_key: String,
    only_user: Option<(String, Secret)>,
    handlers: Vec<(Matches, Answers)>,
    files: Files,
    calls: Vec<Command>,
    ended: Vec<Command>,
    connections: usize,
    refuse_connections: usize,
    refuse_become: Option<String>,
    /// Faults, and how many commands are spared before each meets one.
    faults: Vec<(usize, GuestFault)>,
}

impl Default for SimulatedGuest {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedGuest {
    /// A guest that lets everyone in, has no files, and knows two commands: [`facts::probe_command`] (it is Debian 12 on
    /// amd64) and `date`.
    pub fn new() -> Self {
        let state = State {
            host_key: HOST_KEY.into(),
            only_user: None,
            handlers: vec![],
            files: Files::new(),
            calls: vec![],
            ended: vec![],
            connections: 0,
            refuse_connections: 0,
            refuse_become: None,
            faults: vec![],
        };
        let guest = Self { state: Arc::new(Mutex::new(state)), generation: Arc::new(watch::Sender::new(0)) };
        guest.set_facts(&Facts {
            os_id: "debian".into(),
            os_id_like: vec![],
            os_version_id: Some("12".into()),
            os_pretty_name: "Debian GNU/Linux 12 (bookworm)".into(),
            kernel: "6.1.0-31-cloud-amd64".into(),
            architecture: "x86_64".into(),
            package_manager: Some("apt-get".into()),
        });
        guest.on_any(|command| command.argv[0] == "date", |_, _| Answer::ok());
        guest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a command with exactly these arguments gets this answer.
    pub fn on(&self, argv: impl IntoIterator<Item = impl Into<String>>, answer: Answer) {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        self.on_any(move |command| command.argv == argv, move |_, _| answer.clone());
    }

    /// From now on a command for which `matches` holds is answered by `answer`, which may change the guest's files. What was
    /// added last comes first. A command that nothing matches is not found: status 127.
    pub fn on_any(
        &self,
        matches: impl Fn(&Command) -> bool + Send + Sync + 'static,
        answer: impl Fn(&Command, &mut Files) -> Answer + Send + Sync + 'static,
    ) {
        self.state().handlers.push((Box::new(matches), Arc::new(answer)));
    }

    /// Sets what [`facts::probe`] finds.
    pub fn set_facts(&self, facts: &Facts) {
        let version = facts
            .os_version_id
            .as_ref()
            .map(|version| format!("VERSION_ID='{version}'\n"))
            .unwrap_or_default();
        let text = format!(
            "{}\n{}\n{}\nID='{}'\nID_LIKE='{}'\nPRETTY_NAME='{}'\n{version}",
            facts.kernel,
            facts.architecture,
            facts.package_manager.as_deref().unwrap_or_default(),
            facts.os_id,
            facts.os_id_like.join(" "),
            facts.os_pretty_name
        );
        self.on(facts::probe_command().argv, Answer::ok().stdout(text));
    }

    /// Only this user may log in, with this password.
    pub fn only_user(&self, user: &str, password: &str) {
        self.state().only_user = Some((user.into(), Secret::new(password)));
    }

    /// Gives the guest another host key, as a reinstallation does.
    pub fn set_host_key(&self, line: &str) {
        self.state().host_key = line.into();
    }

    /// The next `count` tries to connect fail, as while the guest boots.
    pub fn refuse_connections(&self, count: usize) {
        self.state().refuse_connections = count;
    }

    /// From now on nobody becomes root (`Some`: the program's words), or everybody does (`None`).
    pub fn refuse_become(&self, words: Option<&str>) {
        self.state().refuse_become = words.map(str::to_owned);
    }

    /// The command number `count` from now on (0 is the next one) breaks all connections instead of being answered.
    pub fn disconnect_at(&self, count: usize) {
        self.inject(count, GuestFault::Disconnect);
    }

    /// The command number `count` from now on (0 is the next one) goes wrong.
    pub fn inject(&self, count: usize, fault: GuestFault) {
        self.state().faults.push((count, fault));
    }

    /// Forgets the faults that have not met a command yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Faults that have not met a command yet.
    pub fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// Breaks all connections, as a revert does.
    pub fn disconnect(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// All commands that were begun, in order.
    pub fn calls(&self) -> Vec<Command> {
        self.state().calls.clone()
    }

    /// The commands that were ended before they exited: by their time-out, or because they were no longer waited for.
    pub fn ended(&self) -> Vec<Command> {
        self.state().ended.clone()
    }

    /// How often someone logged in.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// The files.
    pub fn files(&self) -> Files {
        self.state().files.clone()
    }

    /// Replaces all files, as a revert does.
    pub fn set_files(&self, files: Files) {
        self.state().files = files;
    }

    fn answer(&self, command: &Command) -> Answer {
        let mut state = self.state();
        state.calls.push(command.clone());
        let met = state.faults.iter().position(|(spared, _)| *spared == 0);
        let met = met.map(|index| state.faults.remove(index));
        state.faults.iter_mut().for_each(|(spared, _)| *spared = spared.saturating_sub(1));
        match met {
            Some((_, GuestFault::Fail)) => return Answer::status(1),
            Some((_, GuestFault::Hang)) => return Answer::hang(),
            Some((_, GuestFault::Pretend)) => return Answer::ok(),
            Some((_, GuestFault::Disconnect)) => return Answer::disconnect(),
            None => {}
        }
        let handler = state
            .handlers
            .iter()
            .rev()
            .find(|(matches, _)| matches(command))
            .map(|(_, answer)| answer.clone());
        match handler {
            Some(answer) => answer(command, &mut state.files),
            None => Answer::status(127).stderr(format!("sh: 1: exec: {}: not found\n", command.argv[0])),
        }
    }
}

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

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::timeout};

use super::{
    Command, Connection, Connector, Endpoint, Exit, Facts, Guest, GuestError, OutputSink, Stream, facts,
};
use crate::base::{Credential, Login, Secret};

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

/// Opens connections to simulated guests.
#[derive(Default)]
pub struct SimulatedConnector {
    guests: Mutex<HashMap<(String, u16), SimulatedGuest>>,
}

impl SimulatedConnector {
    /// Reaches nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a guest at an address.
    pub fn add(&self, host: &str, port: u16, guest: &SimulatedGuest) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).insert((host.into(), port), guest.clone());
    }
}

#[async_trait]
impl Connector for SimulatedConnector {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        limit: Duration,
    ) -> Result<Connection, GuestError> {
        let address = format!("{}:{}", endpoint.host, endpoint.port);
        let unreachable = |message: &str| GuestError::Unreachable {
            address: address.clone(),
            waited: limit,
            message: message.into(),
        };
        let at = (endpoint.host.clone(), endpoint.port);
        let guest = self.guests.lock().unwrap_or_else(PoisonError::into_inner).get(&at).cloned();
        let guest = guest.ok_or_else(|| unreachable("there is no such simulated guest"))?;
        // As the real one: a try a second, until the limit.
        let tries = usize::try_from(limit.as_secs()).unwrap_or(usize::MAX).saturating_add(1);
        let mut state = guest.state();
        if state.refuse_connections >= tries {
            state.refuse_connections -= tries;
            return Err(unreachable("Connection refused"));
        }
        state.refuse_connections = 0;
        if let Some(pinned) = endpoint.host_key.as_ref().filter(|pinned| **pinned != state.host_key) {
            let (found, pinned) = (state.host_key.clone(), pinned.clone());
            return Err(GuestError::HostKeyChanged { address, found, pinned });
        }
        if let Some((user, password)) = &state.only_user
            && (login.user != *user || !login.credentials.contains(&Credential::Password(password.clone())))
        {
            return Err(GuestError::LoginRefused {
                address,
                user: login.user.clone(),
                tried: "password".into(),
            });
        }
        state.connections += 1;
        let host_key = state.host_key.clone();
        drop(state);
        let generation = *guest.generation.borrow();
        let connection = SimulatedConnection {
            login: login.clone(),
            generation,
            closed: watch::Sender::new(false),
            guest,
        };
        Ok(Connection { guest: Arc::new(connection), host_key })
    }
}

/// A connection to a simulated guest.
struct SimulatedConnection {
    guest: SimulatedGuest,
    login: Login,
    generation: u64,
    closed: watch::Sender<bool>,
}

impl SimulatedConnection {
    /// Waits until the connection is broken or closed.
    async fn lost(&self) -> GuestError {
        let (mut generation, mut closed) = (self.guest.generation.subscribe(), self.closed.subscribe());
        // The senders live as long as `self`.
        tokio::select! {
            _ = generation.wait_for(|generation| *generation != self.generation) => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
        GuestError::Disconnected("the simulated guest closed it".into())
    }

    fn check_open(&self) -> Result<(), GuestError> {
        if *self.guest.generation.borrow() != self.generation || *self.closed.borrow() {
            return Err(GuestError::Disconnected("the simulated guest closed it".into()));
        }
        Ok(())
    }

    fn check_become(&self, wanted: bool) -> Result<(), GuestError> {
        let other = &self.login.r#become;
        if wanted
            && other.user != self.login.user
            && let Some(message) = self.guest.state().refuse_become.clone()
        {
            return Err(GuestError::BecomeRefused {
                method: other.method,
                user: other.user.clone(),
                message,
            });
        }
        Ok(())
    }

    fn reaches(&self, file: &SimulatedFile, r#become: bool) -> bool {
        !file.root_only || r#become || self.login.user == "root"
    }
}

/// Notes a command as ended, unless it exited.
struct Begun<'a>(&'a SimulatedGuest, Option<&'a Command>);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(command) = self.1 {
            self.0.state().ended.push(command.clone());
        }
    }
}

#[async_trait]
impl Guest for SimulatedConnection {
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        command.check()?;
        self.check_open()?;
        self.check_become(command.r#become)?;
        let answer = self.guest.answer(command);
        if answer.end == End::Disconnect {
            self.guest.disconnect();
        }
        self.check_open()?;
        let mut begun = Begun(&self.guest, Some(command));
        for (stream, bytes) in [(Stream::Stdout, &answer.stdout), (Stream::Stderr, &answer.stderr)] {
            for chunk in bytes.chunks(32 << 10) {
                output.write(stream, chunk);
            }
        }
        let work = async {
            tokio::time::sleep(answer.after).await;
            match answer.end {
                End::Exit(exit) => exit,
                End::Never | End::Disconnect => std::future::pending().await,
            }
        };
        let exit = tokio::select! {
            exit = timeout(command.timeout.unwrap_or(Duration::MAX), work) => exit,
            lost = self.lost() => {
                begun.1 = None;
                return Err(lost);
            }
        };
        match (exit, command.timeout) {
            (Ok(exit), _) => {
                begun.1 = None;
                Ok(exit)
            }
            (Err(_), limit) => Err(GuestError::TimedOut(limit.unwrap_or(Duration::MAX))),
        }
    }

    async fn read_file(&self, path: &str, max_size: u64, r#become: bool) -> Result<Vec<u8>, GuestError> {
        self.check_open()?;
        self.check_become(r#become)?;
        let error = |message: &str| GuestError::File { path: path.to_owned(), message: message.to_owned() };
        let state = self.guest.state();
        let file = state.files.get(path).ok_or_else(|| error("No such file or directory"))?;
        if !self.reaches(file, r#become) {
            return Err(error("Permission denied"));
        }
        if file.content.len() as u64 > max_size {
            return Err(GuestError::TooLarge { path: path.to_owned(), max_size });
        }
        Ok(file.content.clone())
    }

    async fn write_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        self.check_open()?;
        self.check_become(r#become)?;
        let mut state = self.guest.state();
        if state.files.get(path).is_some_and(|file| !self.reaches(file, r#become)) {
            return Err(GuestError::File { path: path.to_owned(), message: "Permission denied".to_owned() });
        }
        let root_only = r#become && mode & 0o044 == 0;
        let file = SimulatedFile { content: content.to_vec(), mode: mode & 0o7777, root_only };
        state.files.insert(path.to_owned(), file);
        Ok(())
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

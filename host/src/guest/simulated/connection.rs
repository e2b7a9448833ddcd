use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use tokio::{sync::watch, time::timeout};

use super::{End, SimulatedFile, SimulatedGuest};
use crate::{
    base::{Credential, Login},
    guest::{
        Command, Connection, Connector, Endpoint, Exit, FileContent, FileSink, Guest, GuestError, OutputSink,
        Stream,
    },
};

/// What comes at once.
const PIECE: usize = 32 << 10;

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
            for chunk in bytes.chunks(PIECE) {
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

    async fn stream_from_file(
        &self,
        path: &str,
        max_size: u64,
        r#become: bool,
        sink: &mut FileSink<'_>,
    ) -> Result<(), GuestError> {
        self.check_open()?;
        self.check_become(r#become)?;
        let file = self.guest.state().files.get(path).cloned();
        let file = file.ok_or_else(|| unreachable_file(path, "No such file or directory"))?;
        if !self.reaches(&file, r#become) {
            return Err(unreachable_file(path, "Permission denied"));
        }
        let size = usize::try_from(max_size).unwrap_or(usize::MAX).min(file.content.len());
        for piece in file.content[..size].chunks(PIECE) {
            sink(piece);
            // A reader that is behind is waited for here.
            tokio::task::yield_now().await;
            self.check_open()?;
        }
        if size < file.content.len() {
            return Err(GuestError::TooLarge { path: path.to_owned(), max_size });
        }
        Ok(())
    }

    async fn stream_to_file(
        &self,
        path: &str,
        content: FileContent<'_>,
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        self.check_open()?;
        self.check_become(r#become)?;
        if self.guest.state().files.get(path).is_some_and(|file| !self.reaches(file, r#become)) {
            return Err(unreachable_file(path, "Permission denied"));
        }
        let whole = content.fold(Vec::new(), async |mut whole, piece| {
            whole.extend_from_slice(&piece);
            whole
        });
        let content = tokio::select! {
            whole = whole => whole,
            lost = self.lost() => return Err(lost),
        };
        let root_only = r#become && mode & 0o044 == 0;
        let file = SimulatedFile { content, mode: mode & 0o7777, root_only };
        self.guest.state().files.insert(path.to_owned(), file);
        Ok(())
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

fn unreachable_file(path: &str, message: &str) -> GuestError {
    GuestError::File { path: path.to_owned(), message: message.to_owned() }
}

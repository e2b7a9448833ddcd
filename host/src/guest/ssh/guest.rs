//! A guest at the other end of an SSH connection.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{future::join_all, stream};
use russh::{
    Channel, Disconnect,
    client::{Handle, Msg},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    client::{Client, Notes},
    connector,
    running::Running,
    script::Invocation,
    stream::KeepOpen,
};
use crate::{
    base::Login,
    guest::{
        Command, Endpoint, Exit, FileContent, FileSink, Guest, GuestError, OutputSink,
        files::{self, Feed},
    },
};

/// So many commands run at once; more wait. OpenSSH's server allows 10 channels (`MaxSessions`); the rest are for ending
/// commands.
const COMMANDS: usize = 8;
/// How long the guest may take to open a channel.
const OPENING: Duration = Duration::from_secs(60);
/// How long a server may refuse one because it has too many, and the pauses between asking.
const BUSY: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long is waited, before a connection is ended, for commands that are being ended: TERM, KILL and their pauses.
const ENDING: Duration = Duration::from_secs(12);
/// How long another connection to a guest that has one may take.
const ANOTHER: Duration = Duration::from_secs(60);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A guest at the other end of an SSH connection. Dropping it ends the connection.
pub struct SshGuest {
    link: Arc<Link>,
    /// Where it is, with the host key that it has shown.
    endpoint: Endpoint,
    /// The connections for what may be left unread; those that nobody has any more are used again. None once it is closed.
    others: Mutex<Option<Vec<Arc<Link>>>>,
}

/// A connection that a guest and its commands share.
pub(super) struct Link {
    handle: Handle<Client>,
    notes: Arc<Notes>,
    login: Login,
    commands: Arc<Semaphore>,
    endings: Arc<Semaphore>,
    being_ended: TaskTracker,
    // Dropped last, so that what the others have still to say is read.
    _keep_open: KeepOpen,
}

impl Link {
    pub(super) fn new(
        handle: Handle<Client>,
        keep_open: KeepOpen,
        notes: Arc<Notes>,
        login: Login,
    ) -> Arc<Self> {
        Arc::new(Self {
            handle,
            notes,
            login,
            commands: Arc::new(Semaphore::new(COMMANDS)),
            endings: Arc::new(Semaphore::new(1)),
            being_ended: TaskTracker::new(),
            _keep_open: keep_open,
        })
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// Commands that wait for their turn are told that it is closed. Then it waits for those that are being ended: without a
    /// connection, what was given up would go on in the guest.
    async fn close(&self) {
        self.notes.lock().end.get_or_insert_with(|| "it was closed".into());
        self.commands.close();
        self.being_ended.close();
        let _ = timeout(ENDING, self.being_ended.wait()).await;
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "");
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// The connection is gone: why.
    pub(super) fn lost(&self) -> GuestError {
        GuestError::Disconnected(self.notes.end())
    }

    /// Opens a channel. A refusal is taken for a server that has none free just now: OpenSSH's frees one only some time after
    /// it has answered that it is closed.
    pub(super) async fn open(&self) -> Result<Channel<Msg>, GuestError> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match timeout(OPENING, self.handle.channel_open_session()).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(russh::Error::ChannelOpenFailure(_))) if start.elapsed() < BUSY => sleep(pause).await,
                Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
                    let message = format!("the guest's SSH server refuses to open a session ({reason:?})");
                    return Err(GuestError::Disconnected(message));
                }
                Ok(Err(_)) => return Err(self.lost()),
                Err(_) => {
                    let message =
                        format!("the guest's SSH server opened no session within {} s", OPENING.as_secs());
                    return Err(GuestError::Disconnected(message));
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The commands that nobody waits for any more and that are being ended.
    pub(super) fn being_ended(&self) -> &TaskTracker {
        &self.being_ended
    }

    /// Leave to open a channel that ends a command.
    pub(super) async fn ending(&self) -> Option<OwnedSemaphorePermit> {
        self.endings.clone().acquire_owned().await.ok()
    }
}

impl SshGuest {
    /// A guest at `endpoint`, whose host key is pinned, over an open connection.
    pub(super) fn new(link: Arc<Link>, endpoint: Endpoint) -> Self {
        Self { link, endpoint, others: Mutex::new(Some(Vec::new())) }
    }

    fn others(&self) -> MutexGuard<'_, Option<Vec<Arc<Link>>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that no command has, also none that is being ended.
    fn spare(&self) -> Option<Arc<Link>> {
        let mut others = self.others();
        let others = others.as_mut()?;
        others.retain(|link| !link.handle.is_closed());
        others.iter().find(|link| Arc::strong_count(link) == 1).cloned()
    }
}

impl fmt::Debug for SshGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshGuest").field("user", &self.link.login.user).finish_non_exhaustive()
    }
}

#[async_trait]
impl Guest for SshGuest {
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        self.feed(command, &mut stream::empty(), output).await
    }

    async fn stream_from_file(
        &self,
        path: &str,
        max_size: u64,
        r#become: bool,
        sink: &mut FileSink<'_>,
    ) -> Result<(), GuestError> {
        files::read(self, path, max_size, r#become, sink).await
    }

    async fn stream_to_file(
        &self,
        path: &str,
        content: FileContent<'_>,
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        files::write(self, path, content, mode, r#become).await
    }

    /// russh reads a connection in one task, which waits with all channels for the one whose reader is behind; and it opens a
    /// channel's window anew when data comes, not when it is read. So nothing less than a connection is held up.
    async fn apart(&self) -> Result<Option<Arc<dyn Guest>>, GuestError> {
        let link = match self.spare() {
            Some(link) => link,
            None => {
                let (link, _) = connector::connect(&self.endpoint, &self.link.login, ANOTHER).await?;
                self.others().as_mut().ok_or_else(|| self.link.lost())?.push(link.clone());
                link
            }
        };
        Ok(Some(Arc::new(Self::new(link, self.endpoint.clone()))))
    }

    async fn close(&self) {
        let others = self.others().take().unwrap_or_default();
        join_all(others.iter().chain([&self.link]).map(|link| link.close())).await;
    }
}

#[async_trait]
impl Feed for SshGuest {
    async fn feed(
        &self,
        command: &Command,
        input: FileContent<'_>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError> {
        let invocation = Invocation::new(command, &self.link.login)?;
        let leave = self.link.commands.clone().acquire_owned().await.map_err(|_| self.link.lost())?;
        let mut running = Running::start(&self.link, invocation, command.r#become, leave).await?;
        let running_on = running.run(&command.stdin, input, output);
        let Some(limit) = command.timeout else { return running_on.await };
        match timeout(limit, running_on).await {
            Ok(result) => result,
            Err(_) => {
                running.end().await;
                Err(GuestError::TimedOut(limit))
            }
        }
    }
}

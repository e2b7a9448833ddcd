//! A guest at the other end of an SSH connection.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream;
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
    running::Running,
    script::Invocation,
    stream::KeepOpen,
};
use crate::{
    base::Login,
    guest::{
        Command, Exit, FileContent, FileSink, Guest, GuestError, OutputSink,
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
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A guest at the other end of an SSH connection. Dropping it ends the connection.
pub struct SshGuest {
    link: Arc<Link>,
}

/// The connection that a guest and its commands share.
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
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
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

    async fn close(&self) {
        self.link.notes.lock().end.get_or_insert_with(|| "it was closed".into());
        // Commands that wait for their turn are told as well.
        self.link.commands.close();
        // Without a connection, what was given up would go on in the guest.
        self.link.being_ended.close();
        let _ = timeout(ENDING, self.link.being_ended.wait()).await;
        let goodbye = self.link.handle.disconnect(Disconnect::ByApplication, "", "");
        let _ = timeout(GOODBYE, goodbye).await;
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

//! A command that runs in a guest.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{guest::Link, preface::Preface, script::Invocation};
use crate::{
    base::Secret,
    guest::{Command, Exit, FileContent, GuestError, OutputSink, Stream},
};

/// How long `su` or `sudo` may take to let the user become another one. PAM delays a refusal by some seconds.
const BECOMING: Duration = Duration::from_secs(60);
/// A command that has exited while others hold its output open (daemons that it started) is waited for as long as something
/// comes within this time.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a command may take to go after TERM, and then after KILL.
const GRACE: Duration = Duration::from_secs(3);
/// How long it may take to send a signal.
const SIGNALLING: Duration = Duration::from_secs(15);
/// Standard input is sent in pieces of this size.
const PIECE: usize = 32 << 10;
/// SSH_EXTENDED_DATA_STDERR (RFC 4254, section 5.2)
const STDERR: u32 = 1;

/// A command that runs in a guest. When it is dropped before its end, it is ended in the background.
pub(super) struct Running(Option<Inner>);

struct Inner {
    link: Arc<Link>,
    write: ChannelWriteHalf<Msg>,
    incoming: Incoming,
    invocation: Invocation,
    /// Whether the command was asked to run as another user, who then has to end it.
    r#become: bool,
    /// Whether all of its input, and the end of it, was sent.
    written: bool,
    /// Whether it is ended by signals. The command that sends them is not.
    killable: bool,
    _leave: Option<OwnedSemaphorePermit>,
}

/// What comes from a command.
struct Incoming {
    read: ChannelReadHalf,
    preface: Preface,
    exit: Option<Exit>,
    closed: bool,
}

/// What comes from the guest.
enum Event {
    Output(Stream, Bytes),
    Exited,
    Closed,
    Refused,
}

impl Running {
    /// Opens a channel and starts the shell that will become the command. `leave` is given back at the command's end.
    pub(super) async fn start(
        link: &Arc<Link>,
        invocation: Invocation,
        r#become: bool,
        leave: OwnedSemaphorePermit,
    ) -> Result<Self, GuestError> {
        Self::open(link, invocation, r#become, Some(leave), true).await
    }

    async fn open(
        link: &Arc<Link>,
        invocation: Invocation,
        r#become: bool,
        leave: Option<OwnedSemaphorePermit>,
        killable: bool,
    ) -> Result<Self, GuestError> {
        let link = link.clone();
        let (opened, waiting) = oneshot::channel();
        // In a task, so that a channel that opens when nobody waits for it any more is closed: the server has few.
        tokio::spawn(async move {
            let channel = match link.open().await {
                Ok(channel) => channel,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let (read, write) = channel.split();
            let preface = Preface::new(&invocation);
            let inner = Inner {
                link,
                write,
                incoming: Incoming { read, preface, exit: None, closed: false },
                invocation,
                r#become,
                written: false,
                killable,
                _leave: leave,
            };
            let running = Self(Some(inner));
            if let Some(inner) = &running.0 {
                // What fails here shows in what comes from the guest.
                let _ = inner.write.exec(true, inner.invocation.request.as_str()).await;
            }
            drop(opened.send(Ok(running)));
        });
        waiting.await.unwrap_or_else(|_| Err(GuestError::Disconnected("the runtime is shutting down".into())))
    }

    /// Runs the command to its end. It reads `stdin`, and then what comes from `input`.
    pub(super) async fn run(
        &mut self,
        stdin: &[u8],
        input: FileContent<'_>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError> {
        // Nothing is left of a command that has ended.
        let Some(inner) = &mut self.0 else {
            return Err(GuestError::Disconnected("the command has ended".into()));
        };
        let result = inner.run(stdin, input, output).await;
        if inner.incoming.closed {
            self.0 = None;
        }
        result
    }

    /// Ends the command, and waits until it is gone, for a bounded time.
    pub(super) async fn end(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.end().await;
            self.0 = None;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(mut inner), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let link = inner.link.clone();
            link.being_ended().spawn_on(async move { inner.end().await }, &runtime);
        }
    }
}

impl Inner {
    async fn run(
        &mut self,
        stdin: &[u8],
        input: FileContent<'_>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError> {
        if self.invocation.r#become.is_some() {
            self.r#become().await?;
        }
        // Both directions at once: a command may fill its output before it reads its input.
        let Self { link, write, incoming, invocation, written, .. } = self;
        let Incoming { read, preface, exit, closed } = incoming;
        let mut writing = pin!(write_all(write, invocation.line(), stdin, input));
        loop {
            let event = tokio::select! {
                // What fails here shows in what comes from the guest.
                _ = &mut writing, if !*written => {
                    *written = true;
                    continue;
                }
                event = next_or_silence(read, exit) => event,
            };
            match event {
                Some(Event::Output(stream, chunk)) => {
                    let own = preface.push(stream, chunk)?;
                    if !own.is_empty() {
                        output.write(stream, &own);
                    }
                }
                Some(Event::Exited) => {}
                Some(Event::Refused) => {
                    let _ = write.close().await;
                    *closed = true;
                    return Err(GuestError::Disconnected(
                        "the guest's SSH server refuses to run commands".into(),
                    ));
                }
                None if exit.is_none() => {
                    *closed = true;
                    return Err(link.lost());
                }
                Some(Event::Closed) | None => {
                    let _ = write.close().await;
                    *closed = true;
                    break;
                }
            }
        }
        // Where the shell never started, what the login shell said is all there is.
        for stream in [Stream::Stdout, Stream::Stderr] {
            let unmarked = preface.take_unmarked(stream);
            if !unmarked.is_empty() {
                output.write(stream, &unmarked);
            }
        }
        exit.take()
            .ok_or_else(|| GuestError::Disconnected("the guest did not say how the command ended".into()))
    }

    /// Becomes the other user: gives the password, and waits until the other user's shell has started.
    async fn r#become(&mut self) -> Result<(), GuestError> {
        let password = self.invocation.password_line();
        let password = password.as_ref().map(Secret::reveal).unwrap_or_default();
        let _ = self.write.data_bytes(Bytes::copy_from_slice(password.as_bytes())).await;
        let deadline = Instant::now() + BECOMING;
        while !self.incoming.preface.is_over() {
            let Ok(event) = timeout_at(deadline, self.incoming.next()).await else {
                let words = self.incoming.preface.words();
                return Err(
                    self.refused(format!("no answer within {} s; so far: {words}", BECOMING.as_secs()))
                );
            };
            match event {
                // The shell has printed nothing of the command yet.
                Some(Event::Output(stream, chunk)) => drop(self.incoming.preface.push(stream, chunk)?),
                Some(Event::Exited) => {}
                Some(Event::Refused | Event::Closed) => {
                    self.incoming.closed = true;
                    let words = self.incoming.preface.words();
                    let ended =
                        || self.incoming.exit.as_ref().map_or_else(|| "it ended".into(), Exit::to_string);
                    return Err(self.refused(if words.is_empty() { ended() } else { words }));
                }
                None => {
                    self.incoming.closed = true;
                    return Err(self.link.lost());
                }
            }
            // sudo asks again after a wrong password; there is no other.
            if self.incoming.preface.prompts() > 1 {
                write_end(&self.write, &mut self.written).await;
            }
        }
        Ok(())
    }

    fn refused(&self, message: String) -> GuestError {
        let other = &self.link.login().r#become;
        GuestError::BecomeRefused { method: other.method, user: other.user.clone(), message }
    }

    /// Ends the command: its process group gets TERM, and after some time KILL; its channel is closed.
    ///
    /// The signals are sent by a command of their own: OpenSSH's server passes on none to root's commands, and a login user may
    /// send none to another user's.
    async fn end(&mut self) {
        // A shell that waits for its line, and a program that waits for a password, end by that.
        let Self { write, incoming, written, .. } = self;
        incoming.while_read(write_end(write, written)).await;
        if self.killable {
            let _ =
                timeout(GRACE, self.incoming.read_until(|incoming| incoming.preface.group().is_some())).await;
            for signal in ["TERM", "KILL"] {
                let Self { link, incoming, r#become, .. } = self;
                let running = incoming.exit.is_none() && !incoming.closed;
                let Some(group) = incoming.preface.group().filter(|_| running) else { break };
                let _ = timeout(SIGNALLING, incoming.while_read(send(link, *r#become, signal, group))).await;
                // The server closes the channel itself: until then it counts for it.
                let _ = timeout(GRACE, incoming.read_until(|_| false)).await;
            }
        }
        let Self { write, incoming, .. } = self;
        if !incoming.closed {
            let _ = timeout(GRACE, incoming.while_read(write.close())).await;
            incoming.closed = true;
        }
    }
}

impl Incoming {
    /// The next event; `None` when the connection is lost.
    async fn next(&mut self) -> Option<Event> {
        next(&mut self.read, &mut self.exit).await
    }

    /// Reads on, so that a command that waits to be read can go, until `enough` or until the channel is closed.
    async fn read_until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !self.closed && !enough(self) {
            match self.next().await {
                Some(Event::Output(stream, chunk)) => drop(self.preface.push(stream, chunk)),
                Some(Event::Exited) => {}
                Some(Event::Refused | Event::Closed) | None => self.closed = true,
            }
        }
    }

    /// Does something and reads on meanwhile: what is not read holds up the whole connection.
    async fn while_read<R>(&mut self, work: impl Future<Output = R>) -> R {
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = self.read_until(|_| false) => work.await,
        }
    }
}

async fn write_end(write: &ChannelWriteHalf<Msg>, written: &mut bool) {
    if !*written {
        *written = true;
        let _ = timeout(GRACE, write.eof()).await;
    }
}

/// Sends a signal to a process group, as root where the command was asked to run so.
async fn send(link: &Arc<Link>, r#become: bool, signal: &str, group: u32) -> Result<(), GuestError> {
    let text = format!("kill -{signal} -{group}");
    let command = Command { r#become, ..Command::new(["sh", "-c", &text]) };
    let invocation = Invocation::new(&command, link.login())?;
    let leave = link.ending().await;
    let mut killer = Running::open(link, invocation, r#become, leave, false).await?;
    killer.run(&[], &mut stream::empty(), &mut Nowhere).await.map(drop)
}

/// Each piece is sent when the guest has room for it.
async fn write_all(
    write: &ChannelWriteHalf<Msg>,
    line: &str,
    stdin: &[u8],
    input: FileContent<'_>,
) -> Result<(), russh::Error> {
    for piece in [line.as_bytes()].into_iter().chain(stdin.chunks(PIECE)) {
        write.data_bytes(Bytes::copy_from_slice(piece)).await?;
    }
    while let Some(piece) = input.next().await {
        if !piece.is_empty() {
            write.data_bytes(piece).await?;
        }
    }
    write.eof().await
}

/// The next event; `None` when the connection is lost. How the command ended goes to `exit`. Dropping it loses nothing.
async fn next(read: &mut ChannelReadHalf, exit: &mut Option<Exit>) -> Option<Event> {
    loop {
        return Some(match read.wait().await? {
            ChannelMsg::Data { data } => Event::Output(Stream::Stdout, data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => Event::Output(Stream::Stderr, data),
            ChannelMsg::ExitStatus { exit_status } => {
                *exit = Some(Exit::Status(exit_status));
                Event::Exited
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                *exit = Some(Exit::Signal(signal_name_of(&signal_name)));
                Event::Exited
            }
            ChannelMsg::Failure => Event::Refused,
            ChannelMsg::Close => Event::Closed,
            _ => continue,
        });
    }
}

/// The next event. Once the command has exited, nothing more for [`SILENCE`] counts as [`Event::Closed`].
async fn next_or_silence(read: &mut ChannelReadHalf, exit: &mut Option<Exit>) -> Option<Event> {
    if exit.is_none() {
        return next(read, exit).await;
    }
    timeout(SILENCE, next(read, exit)).await.unwrap_or(Some(Event::Closed))
}

/// The name without `SIG`, as RFC 4254 has it. It is the guest's text: short and plain, or it is no signal.
fn signal_name_of(signal: &russh::Sig) -> String {
    let name = match signal {
        russh::Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    };
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "@.-_".contains(*c)).take(32).collect()
}

/// A sink for output that nobody wants.
struct Nowhere;

impl OutputSink for Nowhere {
    fn write(&mut self, _: Stream, _: &[u8]) {}
}

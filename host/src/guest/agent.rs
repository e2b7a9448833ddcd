//! Guests by the QEMU guest agent: for guests that have no network or no SSH server. No library speaks its protocol
//! (<https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>) but libvirt's, which carries single commands; so whatever carries
//! them is an [`AgentChannel`].
//!
//! The agent can start a program and tell how it ended, but keeps its output to the end, and little of it. So a command reads
//! from and writes to files in a folder that only root can enter, and these are read while they grow. They take room in the
//! guest until the connection ends or the next command begins.

mod script;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    sync::{OnceCell, Semaphore, oneshot, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    Command, Exit, FileContent, FileSink, Guest, GuestError, OutputSink, Stream,
    files::{self, Feed},
    ssh::script::quote,
};
use crate::base::Login;

/// Bytes that go in one message. libvirt's own messages carry 4 MiB.
const CHUNK: usize = 1 << 20;
/// Between two looks at a command that runs: the agent has no events.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// From when on a command's output is read before it has ended.
const SHORT: Duration = Duration::from_millis(200);
/// How long a command that is to end may take to do so before it is killed, in seconds.
const PATIENCE: u32 = 5;
/// How long the agent's own small programs may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long ending the connection may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// Commands that run at once.
const COMMANDS: usize = 8;
/// Signals by their numbers in Linux (signal(7)); others are told by number.
const SIGNALS: [(u64, &str); 9] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (6, "ABRT"),
    (9, "KILL"),
    (11, "SEGV"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
];

/// Carries commands to a guest agent.
#[async_trait]
pub trait AgentChannel: Send + Sync {
    /// Sends one command and gives the agent's whole answer (`{"return": ...}`), or why there is none.
    async fn command(&self, command: &Value) -> Result<Value, String>;
}

/// A guest by its agent.
pub struct AgentGuest {
    link: Arc<Link>,
}

struct Link {
    channel: Arc<dyn AgentChannel>,
    login: Login,
    /// The folder of the commands' files; made when it is first needed.
    folder: OnceCell<String>,
    number: AtomicU64,
    /// Files that nobody reads any more.
    done: Mutex<Vec<String>>,
    places: Semaphore,
    closed: watch::Sender<bool>,
}

impl AgentGuest {
    /// A guest by this channel. Commands run as the login's user, and as root where they ask for it: the agent is root, so no
    /// password is needed.
    pub fn new(channel: Arc<dyn AgentChannel>, login: Login) -> Self {
        let link = Link {
            channel,
            login,
            folder: OnceCell::new(),
            number: AtomicU64::new(0),
            done: Mutex::default(),
            places: Semaphore::new(COMMANDS),
            closed: watch::Sender::new(false),
        };
        Self { link: Arc::new(link) }
    }
}

impl fmt::Debug for AgentGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentGuest").field("user", &self.link.login.user).finish_non_exhaustive()
    }
}

#[async_trait]
impl Guest for AgentGuest {
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        if command.stdin.is_empty() {
            return self.run(command, None, output).await;
        }
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
        if !self.link.closed.send_replace(true)
            && let Some(folder) = self.link.folder.get()
        {
            // A folder that stays in the guest is root's and harmless.
            let _ = timeout(GOODBYE, self.link.small(&format!("rm -rf {}", quote(folder)))).await;
        }
    }
}

/// The command begins when all of its input is in the guest.
#[async_trait]
impl Feed for AgentGuest {
    async fn feed(
        &self,
        command: &Command,
        input: FileContent<'_>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError> {
        let mut input = stream::iter([Bytes::copy_from_slice(&command.stdin)]).chain(input);
        self.run(command, Some(&mut input), output).await
    }
}

impl AgentGuest {
    async fn run(
        &self,
        command: &Command,
        input: Option<FileContent<'_>>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError> {
        command.check()?;
        let mut closed = self.link.closed.subscribe();
        let run = async {
            let _place = self.link.places.acquire().await.map_err(|_| lost("it was closed"))?;
            let mut running = Running::start(&self.link, command, input).await?;
            let Some(limit) = command.timeout else { return running.wait(output).await };
            match timeout(limit, running.wait(output)).await {
                Ok(result) => result,
                Err(_) => {
                    running.end().await;
                    Err(GuestError::TimedOut(limit))
                }
            }
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(lost("it was closed")),
            result = run => result,
        }
    }
}

fn lost(why: impl Into<String>) -> GuestError {
    GuestError::Disconnected(why.into())
}

impl Link {
    /// One command of the protocol.
    async fn ask(&self, verb: &str, arguments: Value) -> Result<Value, GuestError> {
        let command = json!({ "execute": verb, "arguments": arguments });
        let answer = self.channel.command(&command).await.map_err(lost)?;
        if let Some(error) = answer.get("error") {
            let words = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
            return Err(lost(format!("the guest agent refuses {verb}: {words}")));
        }
        answer
            .get("return")
            .cloned()
            .ok_or_else(|| lost(format!("the guest agent's answer to {verb} is none")))
    }

    /// Starts `/bin/sh`, the leader of its own process group, on a script. The script goes through standard input: nothing of it
    /// is in the guest's process list.
    async fn spawn(&self, script: &str) -> Result<u64, GuestError> {
        let arguments = json!({
            "path": "setsid",
            "arg": ["/bin/sh"],
            "input-data": BASE64_STANDARD.encode(script),
            "capture-output": false,
        });
        let started = self.ask("guest-exec", arguments).await?;
        started.get("pid").and_then(Value::as_u64).ok_or_else(|| lost("the guest agent tells no process"))
    }

    /// How a process ended, if it has.
    async fn status(&self, pid: u64) -> Result<Option<Exit>, GuestError> {
        let status = self.ask("guest-exec-status", json!({ "pid": pid })).await?;
        if status.get("exited").and_then(Value::as_bool) != Some(true) {
            return Ok(None);
        }
        if let Some(signal) = status.get("signal").and_then(Value::as_u64) {
            let name = SIGNALS.iter().find(|(number, _)| *number == signal);
            return Ok(Some(Exit::Signal(
                name.map_or_else(|| signal.to_string(), |(_, name)| (*name).to_owned()),
            )));
        }
        let status = status.get("exitcode").and_then(Value::as_u64).and_then(|code| u32::try_from(code).ok());
        Ok(Some(Exit::Status(status.unwrap_or(u32::MAX))))
    }

    /// Runs a small script of our own to its end.
    async fn small(&self, script: &str) -> Result<Exit, GuestError> {
        let pid = self.spawn(script).await?;
        let wait = async {
            let mut pause = FIRST_PAUSE;
            loop {
                if let Some(exit) = self.status(pid).await? {
                    return Ok(exit);
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| Err(lost("the guest does not finish a small program")))
    }

    /// The folder of the commands' files.
    async fn folder(&self) -> Result<&str, GuestError> {
        let make = async || {
            let folder = format!("/var/tmp/farmhand-{}", Uuid::new_v4().simple());
            match self.small(&format!("umask 077; mkdir {folder}")).await? {
                Exit::Status(0) => Ok(folder),
                exit => Err(lost(format!("the guest can't make the folder {folder}: {exit}"))),
            }
        };
        self.folder.get_or_try_init(make).await.map(String::as_str)
    }

    /// Files that nobody reads any more, to be removed by the next script.
    fn take_done(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn open(&self, path: &str, mode: &str) -> Result<Value, GuestError> {
        self.ask("guest-file-open", json!({ "path": path, "mode": mode })).await
    }

    /// Writes the next bytes of an open file.
    async fn write(&self, path: &str, handle: &Value, mut rest: &[u8]) -> Result<(), GuestError> {
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(CHUNK)];
            let arguments = json!({ "handle": handle, "buf-b64": BASE64_STANDARD.encode(chunk) });
            let written = self.ask("guest-file-write", arguments).await?;
            let count =
                written.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
            rest = count
                .filter(|count| *count > 0)
                .and_then(|count| rest.get(count..))
                .ok_or_else(|| lost(format!("the guest agent could not write to {path}")))?;
        }
        Ok(())
    }

    async fn close_file(&self, handle: &Value) -> Result<(), GuestError> {
        self.ask("guest-file-close", json!({ "handle": handle })).await.map(drop)
    }

    /// A file that nobody reads any more.
    fn done(&self, path: String) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }
}

/// A command's input while it is written. Dropped before its end, it is closed and removed.
struct InputFile {
    link: Arc<Link>,
    path: String,
    handle: Value,
    whole: bool,
}

impl InputFile {
    async fn write(link: &Arc<Link>, path: &str, content: FileContent<'_>) -> Result<(), GuestError> {
        let handle = link.open(path, "w").await?;
        let mut file = Self { link: Arc::clone(link), path: path.to_owned(), handle, whole: false };
        while let Some(piece) = content.next().await {
            link.write(path, &file.handle, &piece).await?;
        }
        link.close_file(&file.handle).await?;
        file.whole = true;
        Ok(())
    }
}

impl Drop for InputFile {
    fn drop(&mut self) {
        if self.whole {
            return;
        }
        self.link.done(std::mem::take(&mut self.path));
        // Without a runtime there is nobody left to ask the agent.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (link, handle) = (Arc::clone(&self.link), self.handle.clone());
            runtime.spawn(async move { link.close_file(&handle).await });
        }
    }
}

/// A command that runs.
struct Running {
    link: Arc<Link>,
    pid: u64,
    /// Its output files, and what is open of them.
    files: BTreeMap<&'static str, (Stream, String, Option<Value>)>,
    ended: bool,
}

impl Running {
    async fn start(
        link: &Arc<Link>,
        command: &Command,
        content: Option<FileContent<'_>>,
    ) -> Result<Self, GuestError> {
        let number = link.number.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/{number}", link.folder().await?);
        let mut input = None;
        if let Some(content) = content {
            let input = input.insert(format!("{path}.in"));
            InputFile::write(link, input, content).await?;
        }
        let (out, err) = (format!("{path}.out"), format!("{path}.err"));
        let script = script::script(command, &link.login, input.as_deref(), &out, &err, &link.take_done())?;
        let pid = start(link, script).await?;
        let files =
            BTreeMap::from([("out", (Stream::Stdout, out, None)), ("err", (Stream::Stderr, err, None))]);
        Ok(Self { link: Arc::clone(link), pid, files, ended: false })
    }

    async fn wait(&mut self, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        let begun = tokio::time::Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let exit = self.link.status(self.pid).await?;
            self.ended = exit.is_some();
            let came =
                if exit.is_some() || begun.elapsed() > SHORT { self.read(output).await? } else { false };
            if let Some(exit) = exit {
                for (_, (_, path, handle)) in std::mem::take(&mut self.files) {
                    if let Some(handle) = handle {
                        self.link.close_file(&handle).await?;
                    }
                    self.link.done(path);
                }
                return Ok(exit);
            }
            pause = if came { FIRST_PAUSE } else { LONGEST_PAUSE.min(pause * 2) };
            sleep(pause).await;
        }
    }

    /// Reads what is new, and gives whether there was anything.
    async fn read(&mut self, output: &mut dyn OutputSink) -> Result<bool, GuestError> {
        let mut came = false;
        for (stream, path, handle) in self.files.values_mut() {
            let handle = match handle {
                Some(handle) => handle,
                None => match self.link.open(path, "r").await {
                    Ok(opened) => handle.insert(opened),
                    // A guest that is busy has not begun yet. Whether the agent is there at all shows when it is next asked.
                    Err(_) if !self.ended => continue,
                    Err(error) => return Err(error),
                },
            };
            loop {
                let read =
                    self.link.ask("guest-file-read", json!({ "handle": handle, "count": CHUNK })).await?;
                let text = read.get("buf-b64").and_then(Value::as_str).unwrap_or_default();
                let bytes = BASE64_STANDARD.decode(text).map_err(|error| lost(error.to_string()))?;
                if bytes.is_empty() {
                    break;
                }
                came = true;
                output.write(*stream, &bytes);
            }
        }
        Ok(came)
    }

    /// Ends its process group.
    async fn end(&mut self) {
        self.ended = true;
        end(&self.link, self.pid).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Without a runtime there is nobody left to ask the agent.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (link, pid) = (Arc::clone(&self.link), self.pid);
            runtime.spawn(async move { end(&link, pid).await });
        }
    }
}

/// Starts a script as [`Link::spawn`] does. When nobody waits for it any more by the time that it has started, it is ended.
async fn start(link: &Arc<Link>, script: String) -> Result<u64, GuestError> {
    let (sender, started) = oneshot::channel();
    let link = Arc::clone(link);
    tokio::spawn(async move {
        if let Err(Ok(pid)) = sender.send(link.spawn(&script).await) {
            end(&link, pid).await;
        }
    });
    started.await.map_err(|_| lost("the task that starts commands ended"))?
}

/// Ends a process group, by TERM and then by KILL. That it is gone already is no error, and a guest that can't be asked any more
/// is told of by the next command.
async fn end(link: &Link, pid: u64) {
    let script = format!(
        "kill -TERM -{pid} || exit 0; n=0; while kill -0 -{pid} && [ $n -lt {PATIENCE}0 ]; do sleep 0.1 || sleep 1; n=$((n+1)); done; \
         kill -KILL -{pid}"
    );
    if link.small(&script).await.is_ok() {
        // Asked once more, the agent forgets it.
        let _ = link.status(pid).await;
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;

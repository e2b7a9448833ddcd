//! Guests: commands and files inside a machine. Only this room knows SSH.
//!
//! [`Guest`] has three implementations that obey the same contract tests: two real ones, [`ssh`] and [`agent`], and [`simulated`].

pub mod agent;
pub mod clock;
pub mod facts;
pub mod jump;
pub mod keypair;
pub mod openssh;
pub mod simulated;
pub mod ssh;

mod capture;
#[cfg(test)]
mod contract;
mod files;

pub use capture::{Captured, capture, one_line};
pub use jump::{Jump, Way};

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};

use crate::base::{BecomeMethod, Login};

/// An open connection to a guest. Cheap to share: commands may run beside each other.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Runs a command to its end, giving its output to `output` as it comes.
    ///
    /// When the future is dropped, or `command.timeout` passes, the command's process group is ended in the guest: by TERM,
    /// and by KILL if that does not help.
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError>;

    /// Reads a file and gives it to `sink` as it comes, cut anywhere. Of a file of more than `max_size` bytes the first ones
    /// are given before the error. When the future is not polled, the guest is held up.
    async fn stream_from_file(
        &self,
        path: &str,
        max_size: u64,
        r#become: bool,
        sink: &mut FileSink<'_>,
    ) -> Result<(), GuestError>;

    /// Replaces a file's content in one step (a temporary file in the same folder, renamed) with permission bits `mode`.
    /// `content` is taken as fast as the guest takes it. When the future is dropped before its end, the temporary file is
    /// removed, and the file stays as it was.
    async fn stream_to_file(
        &self,
        path: &str,
        content: FileContent<'_>,
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError>;

    /// The guest for a command or a file that may be left unread for a while: on a connection of its own, where that is what
    /// would be held up by it. `None`: this one is not held up.
    async fn apart(&self) -> Result<Option<Arc<dyn Guest>>, GuestError> {
        Ok(None)
    }

    /// Reads a file of at most `max_size` bytes as a whole; a larger one is an error.
    async fn read_file(&self, path: &str, max_size: u64, r#become: bool) -> Result<Vec<u8>, GuestError> {
        let mut content = Vec::new();
        let mut sink = |piece: &[u8]| content.extend_from_slice(piece);
        let reading = self.stream_from_file(path, max_size, r#become, &mut sink);
        files::in_time(reading).await?;
        Ok(content)
    }

    /// Replaces a file's content as [`stream_to_file`](Self::stream_to_file) does.
    async fn write_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        let mut content = stream::iter([Bytes::copy_from_slice(content)]);
        files::in_time(self.stream_to_file(path, &mut content, mode, r#become)).await
    }

    /// Ends the connection, and those that came [apart](Self::apart) from it. Commands that still run are no longer heard of; what
    /// they do in the guest is not ended.
    async fn close(&self);
}

/// Takes the pieces of a file that is read.
pub type FileSink<'a> = dyn FnMut(&[u8]) + Send + 'a;

/// Gives the pieces of a file that is written.
pub type FileContent<'a> = &'a mut (dyn futures::Stream<Item = Bytes> + Send + Unpin);

/// A command to run in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Environment variables beside those of the login user.
    pub env: Vec<(String, String)>,
    /// The folder it runs in; the login user's home if absent.
    pub cwd: Option<String>,
    /// What it reads from standard input.
    pub stdin: Vec<u8>,
    /// Run it as root.
    pub r#become: bool,
    /// When it is ended; never if absent.
    pub timeout: Option<Duration>,
}

impl Command {
    /// A command with these arguments and nothing else set.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Whether it can be sent to a guest: it has a program, whose name does not begin with a dash, names of variables are such
    /// that a shell can export them, and there is no NUL. [`GuestError::Invalid`] says what is wrong.
    pub fn check(&self) -> Result<(), GuestError> {
        let invalid = |what: String| Err(GuestError::Invalid(what));
        let mut texts = self.argv.iter().chain(&self.cwd).chain(self.env.iter().map(|(_, value)| value));
        if texts.any(|text| text.contains('\0')) {
            return invalid("a command's arguments, environment and folder can't hold a NUL".into());
        }
        let program = self.argv.first().map(String::as_str).unwrap_or_default();
        if program.is_empty() {
            return invalid("a command without a program".into());
        }
        if program.starts_with('-') {
            return invalid(format!("a program whose name begins with a dash: `{}`", program.escape_debug()));
        }
        let bad = |name: &str| {
            name.is_empty()
                || name.starts_with(|c: char| c.is_ascii_digit())
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match self.env.iter().find(|(name, _)| bad(name)) {
            Some((name, _)) => {
                invalid(format!("`{}` is not the name of an environment variable", name.escape_debug()))
            }
            None => Ok(()),
        }
    }
}

/// Where a command's output goes as it comes. Chunks are cut anywhere, also inside a character.
pub trait OutputSink: Send {
    /// Takes the next chunk of one stream.
    fn write(&mut self, stream: Stream, chunk: &[u8]);
}

impl<F: FnMut(Stream, &[u8]) + Send> OutputSink for F {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        self(stream, chunk);
    }
}

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// It exited with this status.
    Status(u32),
    /// This signal ended it: its name without `SIG` (RFC 4254, section 6.10), e.g. `KILL`.
    Signal(String),
}

impl Exit {
    /// Whether it exited with status 0.
    pub fn success(&self) -> bool {
        *self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What is known of a guest's operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `ID` of os-release(5), e.g. `debian`; `linux` when it is not set.
    pub os_id: String,
    /// `ID_LIKE` of os-release(5), split at blanks.
    pub os_id_like: Vec<String>,
    /// `VERSION_ID` of os-release(5).
    pub os_version_id: Option<String>,
    /// `PRETTY_NAME` of os-release(5).
    pub os_pretty_name: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// The first of [`facts::PACKAGE_MANAGERS`] that the login user can run.
    #[serde(default)]
    pub package_manager: Option<String>,
}

/// Where a guest listens for SSH, and who it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The host that the connection goes through, if host and port are reached from there only.
    pub jump: Option<Jump>,
    /// The pinned host key in OpenSSH's one-line form. Absent only at a machine's first boot: then the key that the guest
    /// shows is taken, and it is given back in [`Connection::host_key`] to be pinned.
    pub host_key: Option<String>,
}

impl Endpoint {
    /// Host and port, as people write them.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// An open connection and the key that the guest proved to hold.
pub struct Connection {
    /// The guest.
    pub guest: Arc<dyn Guest>,
    /// Its host key in OpenSSH's one-line form, without a comment.
    pub host_key: String,
}

/// Opens connections to guests: by SSH, or simulated ones.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Connects and logs in. Tries again with backoff until `limit` has passed, as long as the guest can't be reached; a
    /// refused login or a wrong host key ends it at once. The first try is short: after a revert the first packet to a
    /// user-mode network is lost.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        limit: Duration,
    ) -> Result<Connection, GuestError>;
}

/// Why a call to a guest failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// No SSH connection could be made in time.
    #[error("no SSH connection to {address} after {} s: {message}", waited.as_secs())]
    Unreachable {
        /// Host and port.
        address: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last try said.
        message: String,
    },
    /// The way to the guest leads through a host that can't be reached.
    #[error("can't get to the guest through {host} by SSH: {message}")]
    Jump {
        /// The host.
        host: String,
        /// The OpenSSH client's own words.
        message: String,
    },
    /// The guest showed another host key than the pinned one.
    #[error("the SSH host key of {address} is {found}, but {pinned} was pinned when the machine was made")]
    HostKeyChanged {
        /// Host and port.
        address: String,
        /// Fingerprint of the key that was shown.
        found: String,
        /// Fingerprint of the pinned key.
        pinned: String,
    },
    /// The guest did not accept the login.
    #[error("login as {user} at {address} was refused (tried: {tried})")]
    LoginRefused {
        /// Host and port.
        address: String,
        /// The login user.
        user: String,
        /// The methods that were tried.
        tried: String,
    },
    /// A private key can't be used.
    #[error("can't use the SSH key {path}: {message}")]
    Key {
        /// Its file.
        path: camino::Utf8PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The guest did not let the user become root.
    #[error("{method:?} to {user} was refused: {message}")]
    BecomeRefused {
        /// With which program.
        method: BecomeMethod,
        /// Which user.
        user: String,
        /// The program's own words.
        message: String,
    },
    /// The command ran longer than its time-out.
    #[error("the command ran longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke.
    #[error("the connection to the guest was lost: {0}")]
    Disconnected(String),
    /// There is no such file, or this user can't reach it.
    #[error("can't reach {path} in the guest: {message}")]
    File {
        /// Its path.
        path: String,
        /// The guest's own words.
        message: String,
    },
    /// A file is larger than the caller allows.
    #[error("{path} in the guest is larger than {max_size} bytes")]
    TooLarge {
        /// Its path.
        path: String,
        /// The bound.
        max_size: u64,
    },
    /// A command that farmhand itself runs to look after a guest (not a phase's) failed.
    #[error("can't {purpose} in the guest: {message}")]
    Failed {
        /// What it was run for, e.g. `set the clock`.
        purpose: &'static str,
        /// The command's own words and how it ended.
        message: String,
    },
    /// A command, variable or path can't be sent (e.g. it holds a NUL).
    #[error("can't be sent to the guest: {0}")]
    Invalid(String),
}

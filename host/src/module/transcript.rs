//! What a module asked of the guest in one call of `run`, and what it was answered: recorded, and played back.

mod recording;
mod replay;
mod streamed;
mod words;

pub use recording::Recording;
pub use replay::Replay;
pub(super) use streamed::StreamedContent;
pub use words::in_words;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use camino::Utf8Path;

use super::{
    bindings::farmhand::phase::{guest as wit, types},
    call::{Context, Outcome},
    error::ModuleError,
};
use crate::{
    base::{Digest, Phase},
    guest::{Exit, Facts},
};

/// So many bytes of calls and answers are kept of a step; what comes after that is left out. A transcript says so then, and
/// can't be replayed.
pub(super) const MAX_DATA: usize = 16 << 20;

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// One call of a module's `run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// The version of this format: 1.
    pub version: u32,
    /// The module's name.
    pub module: String,
    /// The digest of its file.
    pub digest: Digest,
    /// For what it was run.
    pub context: RecordedContext,
    /// What was known of the guest.
    pub facts: Facts,
    /// What it asked of the guest, in order, and what it was answered.
    pub calls: Vec<RecordedCall>,
    /// How it ended: its summary, or its failure's text.
    pub ended: Ended,
    /// Whether calls were left out because there was too much to keep.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl Transcript {
    /// What was taken down of a call of the named module, and how the call ended.
    pub(super) fn new(
        (module, digest): (String, Digest),
        context: Context,
        facts: Facts,
        recording: &Recording,
        outcome: &Result<Outcome, ModuleError>,
    ) -> Self {
        let Context { phase, platform, target, machine, settings, r#become } = context;
        let (calls, truncated) = recording.take();
        let ended = match outcome {
            Ok(outcome) => Ended::Done { changed: outcome.changed, summary: outcome.summary.clone() },
            Err(error) => Ended::Failed(error.to_string()),
        };
        let context = RecordedContext { phase, platform, target, machine, settings, r#become };
        Self { version: VERSION, module, digest, context, facts, calls, ended, truncated }
    }

    /// Writes it to a file that only this user can read, in one step.
    pub fn write(&self, path: &Utf8Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Utf8Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?; // Mode 0600.
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path)?;
        Ok(())
    }

    /// Reads one that can be played back. The error says why it can't.
    pub fn read(path: &Utf8Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let transcript: Self = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
        if transcript.version != VERSION || transcript.truncated {
            return Err(format!("{path}: it is of another version, or answers were left out"));
        }
        Ok(transcript)
    }
}

/// For what and with what a module was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedContext {
    /// The phase.
    pub phase: Phase,
    /// The platform's name.
    pub platform: String,
    /// The target's name.
    pub target: String,
    /// The machine's name.
    pub machine: String,
    /// The step's settings.
    pub settings: Value,
    /// Whether the step asks for root.
    pub r#become: bool,
}

/// How a call of a module ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It did its work.
    Done {
        /// Whether it changed the guest.
        changed: bool,
        /// What it did, in one line.
        summary: String,
    },
    /// It did not.
    Failed(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done { changed: true, summary } => write!(f, "changed: {summary}"),
            Self::Done { changed: false, summary } => write!(f, "unchanged: {summary}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// A call and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCall {
    /// What the module asked.
    pub call: GuestCall,
    /// What it was answered. Absent when the module did not wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// Something that a module asks of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestCall {
    /// To run a command.
    Exec(CommandCall),
    /// To read a file.
    ReadFile {
        /// Its path.
        path: String,
        /// As root.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        r#become: bool,
    },
    /// To replace a file.
    WriteFile {
        /// Its path.
        path: String,
        /// What is to be in it.
        content: Vec<Content>,
        /// Its permission bits.
        mode: u32,
        /// As root.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        r#become: bool,
    },
    /// To keep bytes in the run's folder.
    SaveArtifact {
        /// Under which name.
        name: String,
        /// The digest of the bytes.
        digest: Digest,
    },
    /// To keep a file of the guest's in the run's folder.
    SaveFile {
        /// Under which name.
        name: String,
        /// Its path.
        path: String,
        /// As root.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        r#become: bool,
    },
}

impl GuestCall {
    /// How many bytes it takes, about.
    pub(super) fn size(&self) -> usize {
        let texts = match self {
            Self::Exec(command) => command.size(),
            Self::ReadFile { path, .. } => path.len(),
            Self::WriteFile { path, content, .. } => path.len() + size_of_contents(content),
            Self::SaveArtifact { name, .. } => name.len(),
            Self::SaveFile { name, path, .. } => name.len() + path.len(),
        };
        size_of::<RecordedCall>() + texts
    }
}

fn size_of_contents(content: &[Content]) -> usize {
    let size = |part: &Content| match part {
        Content::Secret { secret } => secret.len(),
        Content::Large { .. } => 0,
        Content::Bytes(bytes) => bytes.0.len(),
    };
    size_of_val(content) + content.iter().map(size).sum::<usize>()
}

/// A command that a module runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandCall {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, Content)>,
    /// The folder it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdin: Vec<Content>,
    /// As root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub r#become: bool,
    /// Seconds after which it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Whether it only looks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

impl CommandCall {
    fn size(&self) -> usize {
        let text = |text: &String| size_of::<String>() + text.len();
        let variable =
            |(name, value): &(String, Content)| text(name) + size_of_contents(std::slice::from_ref(value));
        self.argv.iter().map(text).sum::<usize>()
            + self.env.iter().map(variable).sum::<usize>()
            + self.cwd.as_ref().map_or(0, String::len)
            + size_of_contents(&self.stdin)
    }
}

/// Bytes, or the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum Content {
    /// The name of a secret.
    Secret {
        /// The name.
        secret: String,
    },
    /// What was written to a file piece by piece and is too large to be kept.
    Large {
        /// How many bytes it has.
        size: u64,
        /// The digest of all parts, in which `<secret NAME>` stands where a secret does.
        digest: Digest,
    },
    /// Bytes.
    Bytes(Bytes),
}

/// Bytes, written as text where they are UTF-8 and as Base64 where not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenBytes", into = "WrittenBytes")]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenBytes {
    Text(String),
    Base64 { base64: String },
}

impl From<WrittenBytes> for Bytes {
    fn from(written: WrittenBytes) -> Self {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        Self(match written {
            WrittenBytes::Text(text) => text.into_bytes(),
            WrittenBytes::Base64 { base64 } => BASE64_STANDARD.decode(base64).unwrap_or_default(),
        })
    }
}

impl From<Bytes> for WrittenBytes {
    fn from(bytes: Bytes) -> Self {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        match String::from_utf8(bytes.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64 { base64: BASE64_STANDARD.encode(error.into_bytes()) },
        }
    }
}

/// What a module is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done,
    /// How a command ended, and what it wrote.
    Ended {
        /// How.
        exit: Exit,
        /// Its standard output.
        #[serde(default)]
        stdout: Bytes,
        /// Its standard error.
        #[serde(default)]
        stderr: Bytes,
        /// Whether output was left out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// What is in a file.
    Content(Bytes),
    /// The call failed.
    Failed(CallError),
}

/// Why a call to the guest failed; denied calls don't get this far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // As in `wit/phase.wit`.
pub enum CallError {
    LimitExceeded(String),
    TimedOut,
    NotFound(String),
    Disconnected(String),
    BecomeRefused(String),
    Other(String),
}

impl Answer {
    /// How many bytes of output or content it carries.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Ended { stdout, stderr, .. } => stdout.0.len() + stderr.0.len(),
            Self::Content(content) => content.0.len(),
            Self::Done | Self::Failed(_) => 0,
        }
    }
}

/// Answers a module's calls in the guest's place.
pub trait Answers: Send + Sync {
    /// The answer to a call.
    fn answer(&self, call: &GuestCall) -> Answer;
}

impl From<&wit::Content> for Content {
    fn from(content: &wit::Content) -> Self {
        match content {
            wit::Content::Bytes(bytes) => Self::Bytes(Bytes(bytes.clone())),
            wit::Content::Secret(name) => Self::Secret { secret: name.clone() },
        }
    }
}

impl From<&wit::Command> for CommandCall {
    fn from(command: &wit::Command) -> Self {
        Self {
            argv: command.argv.clone(),
            env: command.env.iter().map(|it| (it.name.clone(), (&it.value).into())).collect(),
            cwd: command.cwd.clone(),
            stdin: command.stdin.iter().map(Into::into).collect(),
            r#become: command.become_,
            timeout: command.timeout,
            read_only: command.read_only,
        }
    }
}

impl From<CallError> for types::GuestError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::LimitExceeded(text) => Self::LimitExceeded(text),
            CallError::TimedOut => Self::TimedOut,
            CallError::NotFound(text) => Self::NotFound(text),
            CallError::Disconnected(text) => Self::Disconnected(text),
            CallError::BecomeRefused(text) => Self::BecomeRefused(text),
            CallError::Other(text) => Self::Other(text),
        }
    }
}

#[cfg(test)]
mod tests;

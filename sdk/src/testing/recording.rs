use std::{cell::RefCell, collections::VecDeque, path::Path};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    script::Events,
    streamed::{InPieces, Parts},
};
use crate::{
    Backend, Command, CommandOutput, Content, Context, Exit, Facts, Failure, Guest, GuestError, Outcome,
    Phase, PhaseModule, Pieces, Running, Writing, export,
};

/// What a module asked of a real guest, and what it was answered: `farmhand up --record DIR` writes such files. Played back,
/// the module's calls must be those that were recorded; the first one that is not ends the test.
pub struct Recording {
    context: Context,
    settings: Value,
    facts: Facts,
    calls: RefCell<VecDeque<Call>>,
    count: usize,
    difference: RefCell<Option<String>>,
}

#[derive(Deserialize)]
struct Transcript {
    version: u32,
    context: RecordedContext,
    facts: RecordedFacts,
    calls: VecDeque<Call>,
    #[serde(default)]
    truncated: bool,
}

#[derive(Deserialize)]
struct RecordedContext {
    phase: String,
    platform: String,
    target: String,
    machine: String,
    settings: Value,
    r#become: bool,
}

#[derive(Deserialize)]
struct RecordedFacts {
    os_id: String,
    os_id_like: Vec<String>,
    os_version_id: Option<String>,
    os_pretty_name: String,
    kernel: String,
    architecture: String,
    package_manager: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    /// Compared as a whole with what the module does now.
    call: Value,
    answer: Option<Answer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done,
    Ended {
        exit: RecordedExit,
        #[serde(default, deserialize_with = "bytes")]
        stdout: Vec<u8>,
        #[serde(default, deserialize_with = "bytes")]
        stderr: Vec<u8>,
        #[serde(default)]
        truncated: bool,
    },
    Content(#[serde(deserialize_with = "bytes")] Vec<u8>),
    Failed(RecordedError),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordedExit {
    Status(u32),
    Signal(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RecordedError {
    LimitExceeded(String),
    TimedOut,
    NotFound(String),
    Disconnected(String),
    BecomeRefused(String),
    Other(String),
}

impl From<RecordedError> for GuestError {
    fn from(error: RecordedError) -> Self {
        match error {
            RecordedError::LimitExceeded(text) => Self::LimitExceeded(text),
            RecordedError::TimedOut => Self::TimedOut,
            RecordedError::NotFound(text) => Self::NotFound(text),
            RecordedError::Disconnected(text) => Self::Disconnected(text),
            RecordedError::BecomeRefused(text) => Self::BecomeRefused(text),
            RecordedError::Other(text) => Self::Other(text),
        }
    }
}

/// Text, or Base64 where bytes are no text.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Base64 { base64: String },
    }
    match Written::deserialize(deserializer)? {
        Written::Text(text) => Ok(text.into_bytes()),
        Written::Base64 { base64 } => {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            BASE64_STANDARD.decode(base64).map_err(serde::de::Error::custom)
        }
    }
}

impl Recording {
    /// Reads a recording.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, String> {
        let path = path.as_ref();
        let fail = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    /// Reads a recording from its text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let transcript: Transcript = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if transcript.version != 1 || transcript.truncated {
            return Err(
                "it can't be played back: it is of another version, or answers were left out".to_owned()
            );
        }
        let phases = [Phase::Dependencies, Phase::Init, Phase::Main, Phase::Terminate];
        let names = ["dependencies", "init", "main", "terminate"];
        let RecordedContext { phase, platform, target, machine, settings, r#become } = transcript.context;
        let phase = names.iter().position(|name| *name == phase).map(|index| phases[index]);
        let phase = phase.ok_or("it is of a phase that does not exist")?;
        let facts = transcript.facts;
        Ok(Self {
            context: Context { phase, platform, target, machine, r#become },
            settings,
            facts: Facts {
                os_id: facts.os_id,
                os_id_like: facts.os_id_like,
                os_version_id: facts.os_version_id,
                os_pretty_name: facts.os_pretty_name,
                kernel: facts.kernel,
                architecture: facts.architecture,
                package_manager: facts.package_manager,
            },
            count: transcript.calls.len(),
            calls: RefCell::new(transcript.calls),
            difference: RefCell::new(None),
        })
    }

    /// Runs a module with the context and the settings of the recording. `Err` is the first difference.
    pub fn replay<M: PhaseModule>(&self) -> Result<Result<Outcome, Failure>, String> {
        let settings =
            export::parse::<M>(&self.settings.to_string()).map_err(|failure| format!("{failure:?}"))?;
        let outcome = M::run(&self.context, settings, &Guest::new(self, self.context.r#become));
        if let Some(difference) = self.difference.borrow().clone() {
            return Err(difference);
        }
        match self.calls.borrow().front() {
            Some(left) => Err(format!("call {} was not made:\n  recorded: {}", self.number(), left.call)),
            None => Ok(outcome),
        }
    }

    /// The number of the next call, from 1.
    fn number(&self) -> usize {
        self.count - self.calls.borrow().len() + 1
    }

    fn answer(&self, now: &Value) -> Result<Answer, GuestError> {
        let number = self.number();
        let mut difference = self.difference.borrow_mut();
        if difference.is_none() {
            match self.calls.borrow_mut().pop_front() {
                Some(recorded) if recorded.call == *now => {
                    let missing = || GuestError::Disconnected("nothing was recorded".to_owned());
                    return recorded.answer.ok_or_else(missing);
                }
                recorded => {
                    let recorded =
                        recorded.map_or_else(|| "nothing more".to_owned(), |it| it.call.to_string());
                    *difference =
                        Some(format!("call {number} differs:\n  recorded: {recorded}\n  now:      {now}"));
                }
            }
        }
        Err(GuestError::Other(format!("call {number} is not the one that was recorded")))
    }

    fn write(&self, path: &str, content: Value, mode: u32, r#become: bool) -> Result<(), GuestError> {
        let fields =
            [("path", path.into()), ("content", content), ("mode", mode.into()), ("become", r#become.into())];
        self.done(&written("write-file", fields))
    }

    /// A file that was written piece by piece.
    fn write_streamed(
        &self,
        path: &str,
        parts: &[Content],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        // A large content was recorded by its digest, which follows from the answers before it, and its size. What is put for
        // a secret has a size that nobody here knows.
        let calls = self.calls.borrow();
        let recorded = calls.front().and_then(|next| next.call.get("write-file")?.get("content").cloned());
        drop(calls);
        let bytes = |part: &Content| match part {
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Secret(_) => None,
        };
        let size = parts.iter().map(bytes).sum::<Option<u64>>();
        let is_large = |recorded: &Value| {
            let large = recorded.get(0).and_then(|part| part.get("size")?.as_u64());
            large.is_some_and(|large| size.is_none_or(|size| size == large))
        };
        let content = recorded.filter(is_large).unwrap_or_else(|| contents(parts));
        self.write(path, content, mode, r#become)
    }

    fn done(&self, now: &Value) -> Result<(), GuestError> {
        match self.answer(now)? {
            Answer::Done => Ok(()),
            Answer::Failed(error) => Err(error.into()),
            Answer::Ended { .. } | Answer::Content(_) => Err(misfit()),
        }
    }
}

fn misfit() -> GuestError {
    GuestError::Other("the answer does not fit the call".to_owned())
}

/// A call as recordings have it: what is not set is not written.
fn written(name: &str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let unset = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let fields = fields.into_iter().filter(|(name, value)| *name == "argv" || !unset(value));
    let fields: serde_json::Map<_, _> = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    Value::Object([(name.to_owned(), Value::Object(fields))].into_iter().collect())
}

fn content(content: &Content) -> Value {
    match content {
        Content::Secret(name) => serde_json::json!({ "secret": name }),
        Content::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => {
                use base64::{Engine as _, prelude::BASE64_STANDARD};
                serde_json::json!({ "base64": BASE64_STANDARD.encode(bytes) })
            }
        },
    }
}

fn contents(parts: &[Content]) -> Value {
    parts.iter().map(content).collect()
}

impl Backend for Recording {
    fn facts(&self) -> Result<Facts, GuestError> {
        Ok(self.facts.clone())
    }

    fn exec(&self, command: &Command) -> Result<CommandOutput, GuestError> {
        let env = command.env.iter().map(|it| serde_json::json!([it.name, content(&it.value)]));
        let now = written(
            "exec",
            [
                ("argv", command.argv.clone().into()),
                ("env", env.collect()),
                ("cwd", command.cwd.clone().into()),
                ("stdin", contents(&command.stdin)),
                ("become", command.become_.into()),
                ("timeout", command.timeout.into()),
                ("read_only", command.read_only.into()),
            ],
        );
        match self.answer(&now)? {
            Answer::Ended { exit, stdout, stderr, truncated } => {
                let exit = match exit {
                    RecordedExit::Status(status) => Exit::Status(status),
                    RecordedExit::Signal(signal) => Exit::Signal(signal),
                };
                Ok(CommandOutput { exit, stdout, stderr, truncated })
            }
            Answer::Failed(error) => Err(error.into()),
            Answer::Done | Answer::Content(_) => Err(misfit()),
        }
    }

    fn start(&self, command: &Command) -> Result<Box<dyn Running>, GuestError> {
        Ok(Box::new(Events::of(self.exec(command)?)))
    }

    fn read_file(&self, path: &str, _max_size: u32, r#become: bool) -> Result<Vec<u8>, GuestError> {
        match self.answer(&written("read-file", [("path", path.into()), ("become", r#become.into())]))? {
            Answer::Content(content) => Ok(content),
            Answer::Failed(error) => Err(error.into()),
            Answer::Done | Answer::Ended { .. } => Err(misfit()),
        }
    }

    fn write_file(
        &self,
        path: &str,
        content: &[Content],
        mode: u32,
        r#become: bool,
    ) -> Result<(), GuestError> {
        self.write(path, contents(content), mode, r#become)
    }

    fn open_file(&self, path: &str, r#become: bool) -> Result<Box<dyn Pieces + '_>, GuestError> {
        Ok(Box::new(InPieces::of(self.read_file(path, u32::MAX, r#become)?)))
    }

    fn create_file(
        &self,
        path: &str,
        mode: u32,
        r#become: bool,
    ) -> Result<Box<dyn Writing + '_>, GuestError> {
        let path = path.to_owned();
        Ok(Box::new(Parts::new(move |parts| self.write_streamed(&path, parts, mode, r#become))))
    }

    fn save_artifact(&self, name: &str, _content: &[u8]) -> Result<(), GuestError> {
        // What is in it follows from the answers before it; only its digest was recorded.
        let digest = self
            .calls
            .borrow()
            .front()
            .and_then(|next| next.call.get("save-artifact")?.get("digest").cloned());
        let fields = [("name", name.into()), ("digest", digest.unwrap_or_default())];
        self.done(&written("save-artifact", fields))
    }

    fn save_file(&self, name: &str, path: &str, r#become: bool) -> Result<(), GuestError> {
        let fields = [("name", name.into()), ("path", path.into()), ("become", r#become.into())];
        self.done(&written("save-file", fields))
    }
}

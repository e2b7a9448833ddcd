use std::{fmt, time::Duration};

use camino::Utf8PathBuf;

use super::{
    KnownAs,
    bindings::farmhand::phase::types as wit,
    grants::{Denial, NotGranted},
    schema::SettingsProblem,
    secrets::Secrets,
    text,
};
use crate::base::{Grants, Phase};

/// Why a phase module could not be used, or did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// Its file can't be read.
    #[error("can't read phase module {path}: {source}")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its file, or a function in it, is larger than allowed.
    #[error("phase module {module}: {what} is larger than {limit} bytes (limit: {name})")]
    TooLarge {
        /// The module.
        module: String,
        /// What is too large.
        what: &'static str,
        /// The name of the limit.
        name: &'static str,
        /// The limit.
        limit: usize,
    },
    /// It is a core module, as compilers make them.
    #[error(
        "phase module {module} is a core WebAssembly module, not a component: build it with `farmhand module build`, or turn \
         it into one with `wasm-tools component new`"
    )]
    NotAComponent {
        /// The module.
        module: String,
    },
    /// It is not valid, or uses what is turned off.
    #[error("phase module {module} is not valid: {message}")]
    Invalid {
        /// The module.
        module: String,
        /// What is wrong, and where.
        message: String,
    },
    /// It wants something from the host that modules don't get.
    #[error(
        "phase module {module} imports {imports}, which farmhand does not provide: a module gets `farmhand:phase` \
         and, with nothing granted, WASI 0.2"
    )]
    WrongImports {
        /// The module.
        module: String,
        /// The imports that are not provided.
        imports: String,
    },
    /// It is a component, but not of world `farmhand:phase/phase-module`.
    #[error("{module} is not a phase module: {message}")]
    NotAPhaseModule {
        /// The module.
        module: String,
        /// What does not fit.
        message: String,
    },
    /// What it says of itself does not hold.
    #[error("phase module {module} describes itself wrongly: {message}")]
    Descriptor {
        /// The module.
        module: String,
        /// What is wrong.
        message: String,
    },
    /// It asks for more than it was granted.
    #[error(transparent)]
    NotGranted(#[from] NotGranted),
    /// It can't carry out this phase.
    #[error("module {module} can't carry out phase {phase}: it is made for {supported}")]
    WrongPhase {
        /// The module.
        module: String,
        /// The phase.
        phase: Phase,
        /// The phases that it can carry out.
        supported: String,
    },
    /// It does not take these settings.
    #[error("module {module} does not take these settings: {}", list(problems))]
    Settings {
        /// The module.
        module: String,
        /// What is wrong with them.
        problems: Vec<SettingsProblem>,
    },
    /// It hit a limit.
    #[error("module {module} was stopped: {limit}")]
    Limit {
        /// The module.
        module: String,
        /// The limit and its value.
        limit: LimitHit,
    },
    /// It crashed.
    #[error("module {module} crashed: {message}{}", last_words(last_line))]
    Trapped {
        /// The module.
        module: String,
        /// What happened.
        message: String,
        /// The last error or warning that it logged: with the SDK, the message of its panic.
        last_line: Option<String>,
    },
    /// It says why it could not do its work.
    #[error("{}", in_its_own_words(module, failure))]
    Failed {
        /// The module.
        module: String,
        /// Its reason.
        failure: Failure,
    },
    /// Something in farmhand, or on this host.
    #[error("can't run module {module}: {message}")]
    Host {
        /// The module.
        module: String,
        /// What went wrong.
        message: String,
    },
}

fn list(problems: &[SettingsProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A failure speaks for itself, but for a limit: what the host says of one names no module.
fn in_its_own_words(module: &str, failure: &Failure) -> String {
    match failure {
        Failure::LimitExceeded(message) => format!("module {module} went over a limit: {message}"),
        other => other.to_string(),
    }
}

fn last_words(line: &Option<String>) -> String {
    line.as_ref().map(|line| format!("; its last words: {line}")).unwrap_or_default()
}

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The module's author.
    Module,
    /// The operator: settings, grants, files.
    Operator,
    /// What happened in the guest.
    Guest,
    /// farmhand, or this host.
    Host,
}

impl ModuleError {
    /// The same of a module that the farm knows by this: where lines for `farm.yaml` are shown, they are about it.
    pub(super) fn known_as(self, known_as: &KnownAs) -> Self {
        match self {
            Self::NotGranted(missing) => Self::NotGranted(missing.known_as(known_as)),
            Self::Failed { module, failure: Failure::Denied(missing) } => {
                Self::Failed { module, failure: Failure::Denied(Box::new(missing.known_as(known_as))) }
            }
            other => other,
        }
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::TooLarge { .. }
            | Self::NotAComponent { .. }
            | Self::Invalid { .. }
            | Self::WrongImports { .. }
            | Self::NotAPhaseModule { .. }
            | Self::Descriptor { .. }
            | Self::Trapped { .. } => Blame::Module,
            // Only the time that the step was given is about what the guest does.
            Self::Limit { limit: LimitHit::WallTime(_), .. } => Blame::Guest,
            Self::Limit { .. } => Blame::Module,
            Self::Read { .. } | Self::NotGranted(_) | Self::WrongPhase { .. } | Self::Settings { .. } => {
                Blame::Operator
            }
            Self::Failed { failure, .. } => failure.blame(),
            Self::Host { .. } => Blame::Host,
        }
    }
}

/// A limit that a module hit, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitHit {
    /// It computed for too long.
    #[error("it computed for longer than {} s (limit: CPU time)", .0.as_secs_f64())]
    CpuTime(Duration),
    /// The call took too long.
    #[error("it took longer than {} s (limit: time-out of the step)", .0.as_secs_f64())]
    WallTime(Duration),
    /// It wanted more memory.
    #[error("it needs more than {} MiB of memory (limit: memory)", .0 >> 20)]
    Memory(usize),
    /// Its calls nested too deeply.
    #[error("its calls nest deeper than {} KiB of stack (limit: stack)", .0 >> 10)]
    Stack(usize),
    /// It is made of too many parts.
    #[error("it has more than {0} core instances, tables or memories (limit: instances)")]
    Instances(usize),
    /// Compiling it took too long.
    #[error("compiling it took longer than {} s (limit: compile time)", .0.as_secs_f64())]
    CompileTime(Duration),
    /// Compiling it took too much memory.
    #[error("compiling it takes more than {} MiB (limit: compile memory)", .0 >> 20)]
    CompileMemory(usize),
    /// It wanted larger tables.
    #[error("it needs more than {0} table elements (limit: table elements)")]
    TableElements(usize),
    /// It held too many resources.
    #[error("it holds more than {0} resources at once (limit: handles)")]
    Handles(usize),
    /// One call carried too much.
    #[error("one of its calls carried more than {} MiB (limit: data of a call to the host)", .0 >> 20)]
    HostCallData(usize),
}

/// Why a module could not do its work, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The settings make no sense together, or not on this guest.
    InvalidSettings(String),
    /// A command in the guest ended otherwise than it should.
    CommandFailed(String),
    /// The guest lacks something that the module needs.
    UnsupportedGuest(String),
    /// It used what it was not granted (and had not asked for).
    Denied(Box<NotGranted>),
    /// A call went over a limit of the host.
    LimitExceeded(String),
    /// A command ran longer than the module's own time-out for it.
    TimedOut,
    /// There is no such file, or it can't be reached.
    NotFound(String),
    /// The connection to the guest was lost.
    Disconnected(String),
    /// The guest refused to let the user become root.
    BecomeRefused(String),
    /// Another call to the guest failed.
    Guest(String),
    /// Anything else.
    Other(String),
}

/// A failure's text is cut at so many lines.
const MAX_LINES: usize = 40;

/// A path or a name in it is cut at so many characters.
const MAX_VALUE: usize = 1024;

impl Failure {
    pub(super) fn from_module(
        failure: wit::Failure,
        module: &str,
        grants: &Grants,
        secrets: &Secrets,
    ) -> Self {
        let text = |text: String| secrets.mask_text(&text::some_lines(&text, MAX_LINES)).into_owned();
        match failure {
            wit::Failure::InvalidSettings(message) => Self::InvalidSettings(text(message)),
            wit::Failure::CommandFailed(message) => Self::CommandFailed(text(message)),
            wit::Failure::UnsupportedGuest(message) => Self::UnsupportedGuest(text(message)),
            wit::Failure::Other(message) => Self::Other(text(message)),
            wit::Failure::Guest(error) => match error {
                wit::GuestError::Denied(denied) => {
                    let value = denied.value.map(|value| text::one_line(&value, MAX_VALUE));
                    let value = value.map(|value| secrets.mask_text(&value).into_owned());
                    let denial = Denial { capability: denied.capability.into(), value };
                    Self::Denied(Box::new(NotGranted::of_call(module, denial, grants)))
                }
                wit::GuestError::LimitExceeded(message) => Self::LimitExceeded(text(message)),
                wit::GuestError::TimedOut => Self::TimedOut,
                wit::GuestError::NotFound(message) => Self::NotFound(text(message)),
                wit::GuestError::Disconnected(message) => Self::Disconnected(text(message)),
                wit::GuestError::BecomeRefused(message) => Self::BecomeRefused(text(message)),
                wit::GuestError::Other(message) => Self::Guest(text(message)),
            },
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Self::InvalidSettings(_) | Self::Denied(_) => Blame::Operator,
            Self::LimitExceeded(_) => Blame::Module,
            _ => Blame::Guest,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidSettings(message) => write!(f, "the settings can't be used: {message}"),
            Self::CommandFailed(message) | Self::Other(message) => f.write_str(message),
            Self::UnsupportedGuest(message) => write!(f, "the guest can't be worked on: {message}"),
            Self::Denied(not_granted) => not_granted.fmt(f),
            Self::LimitExceeded(message) => write!(f, "a limit was exceeded: {message}"),
            Self::TimedOut => f.write_str("a command did not end in time"),
            Self::NotFound(message) | Self::Guest(message) => f.write_str(message),
            Self::Disconnected(message) => write!(f, "the connection to the guest was lost: {message}"),
            Self::BecomeRefused(message) => {
                write!(f, "the guest refused to let the user become root: {message}")
            }
        }
    }
}

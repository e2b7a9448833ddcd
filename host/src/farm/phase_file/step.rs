use std::time::Duration;

use camino::Utf8PathBuf;
use serde_json::Value;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml::{self, Key},
};

/// How long is waited before a step is tried again, unless it says otherwise: Ansible's `delay`.
pub(super) const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// One use of a phase module.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is for: its `name`, else what it uses or runs.
    pub name: String,
    /// The phase module.
    pub uses: Uses,
    /// The module's settings: always a mapping.
    pub with: Value,
    /// Whether the module may act as root in the guest.
    pub r#become: bool,
    /// How long it may take; the farm's `step_timeout` when absent.
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure, on the guest as it then is.
    pub retries: u32,
    /// How long is waited before each further try.
    pub delay: Duration,
    /// The file that it stands in and its place there.
    pub(super) file: SourceFile,
    pub(super) place: Vec<Key>,
}

/// How a step names its phase module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uses {
    /// By name: of a module, or of what the platform's module provides (`package`).
    Name(String),
    /// By its file's absolute path.
    Path(Utf8PathBuf),
}

impl std::fmt::Display for Uses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{path}"),
        }
    }
}

impl Step {
    pub(super) fn new(name: String, uses: Uses, with: Value, file: SourceFile, place: Vec<Key>) -> Self {
        let (timeout, delay) = (None, DEFAULT_DELAY);
        Self { name, uses, with, r#become: false, timeout, retries: 0, delay, file, place }
    }

    /// A problem with this step, or with one of its settings.
    pub fn problem<'a>(
        &self,
        path: impl IntoIterator<Item = &'a str>,
        message: impl Into<String>,
    ) -> Problem {
        self.file.problem(yaml::find(&self.file, &self.at(path)), message)
    }

    /// As [`Self::problem`], with the last key on the way itself and not with its value.
    pub fn key_problem<'a>(
        &self,
        path: impl IntoIterator<Item = &'a str>,
        message: impl Into<String>,
    ) -> Problem {
        self.file.problem(yaml::find_key(&self.file, &self.at(path)), message)
    }

    fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Vec<Key> {
        let key = |name: &str| name.parse().map(Key::Index).unwrap_or_else(|_| Key::from(name));
        self.place.iter().cloned().chain(path.into_iter().map(key)).collect()
    }
}

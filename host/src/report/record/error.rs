use camino::{Utf8Path, Utf8PathBuf};

use crate::run::{EVENT_FORMAT, RunId};

/// Why a record can't be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file or folder can't be written.
    #[error("can't write {path}")]
    Write {
        /// The file or folder.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder can't be read.
    #[error("can't read {path}")]
    Read {
        /// The file or folder.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An old record can't be removed.
    #[error("can't remove the old record {path}")]
    Remove {
        /// Its folder.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not begin as a record does.
    #[error("{path} is not the record of a run: its first line is no run-started event")]
    NoRecord {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong with the first line.
        source: Option<serde_json::Error>,
    },
    /// A later version of farmhand wrote the record, in another format.
    #[error(
        "{run} was recorded by farmhand {farmhand} in format {format}; this farmhand reads {EVENT_FORMAT}"
    )]
    Format {
        /// The run.
        run: RunId,
        /// The version that wrote it.
        farmhand: String,
        /// The version of its format.
        format: u32,
    },
    /// No run has been recorded.
    #[error("there is no record of a run yet")]
    NoRuns,
    /// There is no record of the run.
    #[error("there is no record of a run `{wanted}`")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The runs whose names are nearest to it.
        nearest: Vec<RunId>,
    },
    /// More than one run has a name that begins so.
    #[error("`{wanted}` stands for more than one run")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The newest of those runs.
        matching: Vec<RunId>,
        /// How many there are.
        count: usize,
    },
    /// The run has no such machine.
    #[error("the run had no machine `{wanted}`")]
    UnknownMachine {
        /// What was asked for.
        wanted: String,
        /// The machines whose names are nearest to it.
        nearest: Vec<String>,
    },
}

impl RecordError {
    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<String> {
        let names = |runs: &[RunId]| runs.iter().map(RunId::as_str).collect::<Vec<_>>().join(", ");
        Some(match self {
            Self::NoRuns => "`farmhand up` makes one".to_owned(),
            Self::Unknown { nearest, .. } => {
                format!("the nearest are: {}; `farmhand report --list` shows all", names(nearest))
            }
            Self::Ambiguous { matching, count, .. } if matching.len() < *count => {
                format!("the newest of {count} are: {}; `farmhand report --list` shows all", names(matching))
            }
            Self::Ambiguous { matching, .. } => format!("it could be: {}", names(matching)),
            Self::UnknownMachine { nearest, .. } => format!("the nearest are: {}", nearest.join(", ")),
            Self::Format { farmhand, .. } => format!("show it with farmhand {farmhand} or later"),
            _ => return None,
        })
    }

    pub(super) fn write(path: &Utf8Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    pub(super) fn read(path: &Utf8Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }
}

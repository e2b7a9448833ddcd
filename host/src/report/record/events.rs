use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::RecordError;
use crate::run::{EVENT_FORMAT, RunId, TimedEvent};

/// The longest line that is read. The longest one by far is the first, with the plans of all machines: some 500 bytes each.
const MAX_LINE: u64 = 64 << 20;

/// An event as it stands in a record.
#[derive(Debug, Clone)]
pub struct RecordedEvent {
    /// Its line, without the newline.
    pub line: String,
    /// What the line says; `None` when it is an event that this version of farmhand does not know.
    pub event: Option<TimedEvent>,
}

/// The first line of a record, as far as it is needed to tell what comes.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) at: jiff::Timestamp,
    event: String,
    format: u32,
    pub(super) run: RunId,
    pub(super) farmhand: String,
    pub(super) project: String,
    pub(super) plans: Vec<PlanHead>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PlanHead {
    pub(super) machine: String,
}

/// The events of a record, in order. A last line that was cut off is left out.
#[derive(Debug)]
pub struct RecordedEvents {
    path: Utf8PathBuf,
    file: BufReader<File>,
    head: Head,
    first: Option<String>,
}

impl RecordedEvents {
    /// Opens a file of events, and reads its first line.
    pub fn open(path: &Utf8Path) -> Result<Self, RecordError> {
        let mut file = BufReader::new(File::open(path).map_err(RecordError::read(path))?);
        let no_record = |source| RecordError::NoRecord { path: path.to_owned(), source };
        let line = line(&mut file).map_err(RecordError::read(path))?.ok_or_else(|| no_record(None))?;
        let head: Head = serde_json::from_str(&line).map_err(|error| no_record(Some(error)))?;
        if head.event != "run-started" {
            return Err(no_record(None));
        }
        if head.format != EVENT_FORMAT {
            return Err(RecordError::Format { run: head.run, farmhand: head.farmhand, format: head.format });
        }
        Ok(Self { path: path.to_owned(), file, head, first: Some(line) })
    }

    /// The run's name.
    pub fn run(&self) -> &RunId {
        &self.head.run
    }

    /// The names of the machines that the run was to work on.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.head.plans.iter().map(|plan| plan.machine.as_str())
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The file behind these events. Its position is anywhere, and moving it loses events.
    pub(super) fn file(&mut self) -> &mut File {
        self.file.get_mut()
    }

    pub(super) fn into_path(self) -> Utf8PathBuf {
        self.path
    }
}

impl Iterator for RecordedEvents {
    type Item = Result<RecordedEvent, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.first.take() {
            Some(line) => line,
            None => match line(&mut self.file).transpose()? {
                Ok(line) => line,
                Err(error) => return Some(Err(RecordError::read(&self.path)(error))),
            },
        };
        let event = serde_json::from_str(&line).ok();
        Some(Ok(RecordedEvent { line, event }))
    }
}

/// The next whole line.
fn line(file: &mut BufReader<File>) -> std::io::Result<Option<String>> {
    // Bytes: a line may be cut off within a character.
    let mut line = Vec::new();
    file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    Ok(line.strip_suffix(b"\n").map(|line| String::from_utf8_lossy(line).into_owned()))
}

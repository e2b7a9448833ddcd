//! YAML with places: every value knows where it stands in its file.

mod load;
mod node;
mod scalar;
#[cfg(test)]
mod tests;
mod written;

use std::{ops::Range, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use load::load;
pub(super) use node::{Data, Entry, Limits, Node, Place};

use crate::base::{Problem, SourceFile};

/// Reads a whole file as one value. Anchors, aliases and merge keys are resolved; a file that is empty gives null.
pub(super) fn read(source: &SourceFile) -> Result<Value, Problem> {
    load(&Arc::new(source.clone())).map(|root| root.to_value())
}

/// Reads a whole file as a value of type `T`, which refuses what it does not know.
pub(super) fn read_as<T: DeserializeOwned>(source: &SourceFile) -> Result<T, Problem> {
    decode(source, read(source)?, &[])
}

/// Turns a value that stands in `source` at `path` into a `T`.
pub(super) fn decode<T: DeserializeOwned>(
    source: &SourceFile,
    value: Value,
    path: &[Key],
) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut whole = path.to_vec();
        whole.extend(error.path().iter().filter_map(Key::of_segment));
        source.problem(find(source, &whole), error.inner().to_string())
    })
}

/// One step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A key of a mapping.
    Name(String),
    /// A place in a sequence.
    Index(usize),
}

impl Key {
    pub(super) fn of_segment(segment: &serde_path_to_error::Segment) -> Option<Self> {
        use serde_path_to_error::Segment;
        match segment {
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Map { key } => Some(Self::Name(key.clone())),
            Segment::Enum { variant } => Some(Self::Name(variant.clone())),
            Segment::Unknown => None,
        }
    }
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<usize> for Key {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// The byte range of the value at `path`, or of the deepest value on the way there. A mapping's or list's own place is that of
/// its key.
///
/// The file is parsed a second time for that, which is fine: it happens only when there is a problem to show.
pub(super) fn find(source: &SourceFile, path: &[Key]) -> Range<usize> {
    let Ok(mut node) = load(&Arc::new(source.clone())) else { return 0..0 };
    let mut at = 0..0;
    for key in path {
        let Some(next) = node.step(key).cloned() else { break };
        at = next.place.as_ref().map_or(at, Place::range);
        node = next;
    }
    at
}

/// Where the file writes what stands at `range` in a text of it, given the text's own place.
pub(super) fn find_in_text(place: &Place, text: &str, range: Range<usize>) -> Place {
    let raw = place.file.text().get(place.range()).unwrap_or_default();
    let start = written::offset(raw, text, range.start);
    let end = written::offset(raw, text, range.end);
    let base = place.range().start;
    Place::new(&place.file, base + start..base + end.max(start))
}

//! YAML with places: every value knows where it stands in its file.

mod decode;
mod load;
mod node;
mod scalar;
#[cfg(test)]
mod tests;
mod written;

use std::{ops::Range, sync::Arc};

pub(super) use decode::{Mistake, decode, mistakes};
pub(super) use load::load;
pub(super) use node::{Data, Entry, Limits, Node, Place};

use crate::base::SourceFile;

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

/// The byte range of the last key on the way to a value, or of what [`find`] finds when it has none.
pub(super) fn find_key(source: &SourceFile, path: &[Key]) -> Range<usize> {
    let key = || {
        let (Key::Name(last), parents) = path.split_last()? else { return None };
        let mut node = load(&Arc::new(source.clone())).ok()?;
        for key in parents {
            node = node.step(key)?.clone();
        }
        let Data::Map(entries) = &node.data else { return None };
        entries.get(last.as_str())?.key.as_ref().map(Place::range)
    };
    key().unwrap_or_else(|| find(source, path))
}

/// Where the file writes what stands at `range` in a text of it, given the text's own place.
pub(super) fn find_in_text(place: &Place, text: &str, range: Range<usize>) -> Place {
    let raw = place.file.text().get(place.range()).unwrap_or_default();
    let start = written::offset(raw, text, range.start);
    let end = written::offset(raw, text, range.end);
    let base = place.range().start;
    Place::new(&place.file, base + start..base + end.max(start))
}

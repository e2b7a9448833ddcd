//! YAML with places: every value can be found again in its file.

use std::ops::Range;

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::{Problem, SourceFile};

/// Reads a whole file as one value. Anchors, aliases and merge keys are resolved; a file that is empty gives null.
pub(super) fn read(source: &SourceFile) -> Result<Value, Problem> {
    let mut yaml: serde_yaml::Value =
        serde_yaml::from_str(source.text()).map_err(|error| syntax(source, &error))?;
    yaml.apply_merge().map_err(|error| syntax(source, &error))?;
    serde_json::to_value(yaml).map_err(|error| {
        source.problem(0..0, error.to_string()).help("keys of YAML mappings must be texts here")
    })
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

/// The byte range of the value at `path`, or of the deepest value on the way there.
///
/// The file is parsed a second time for that, which is fine: it happens only when there is a problem to show.
pub(super) fn find(source: &SourceFile, path: &[Key]) -> Range<usize> {
    let Ok(documents) = MarkedYaml::load_from_str(source.text()) else { return 0..0 };
    let Some(mut node) = documents.first() else { return 0..0 };
    let mut at = 0..0;
    for key in path {
        let next = match (key, &node.data) {
            (Key::Name(name), YamlData::Mapping(mapping)) => mapping
                .iter()
                .find(|(key, _)| key.data.as_str() == Some(name))
                // A mapping's own place is that of its key: its value starts on another line.
                .map(|(key, value)| (if is_scalar(value) { value } else { key }, value)),
            (Key::Index(index), YamlData::Sequence(items)) => items.get(*index).map(|item| (item, item)),
            _ => None,
        };
        let Some((place, value)) = next else { break };
        let (start, end) = (place.span.start, place.span.end);
        let start = source.offset(start.line(), start.col() + 1);
        let end = if is_scalar(place) { source.offset(end.line(), end.col() + 1) } else { start };
        at = start..end.max(start);
        node = value;
    }
    at
}

fn is_scalar(node: &MarkedYaml<'_>) -> bool {
    matches!(node.data, YamlData::Value(_) | YamlData::Representation(..))
}

fn syntax(source: &SourceFile, error: &serde_yaml::Error) -> Problem {
    let place = error.location().map_or(0, |location| location.index());
    let message = error.to_string();
    // The place is shown beside the message already.
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    source.problem(place..place, format!("this is not valid YAML: {message}"))
}

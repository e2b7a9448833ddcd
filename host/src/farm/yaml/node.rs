//! A YAML value that knows where it stands.

use std::{ops::Range, sync::Arc};

use indexmap::IndexMap;
use serde_json::{Map, Number, Value};

use super::Key;
use crate::base::{Problem, SourceFile};

/// A value of a file, or one that was made from such values. Cheap to share: what is in it is never copied, only changed where
/// nobody else looks.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Node {
    /// What it is.
    pub(in crate::farm) data: Data,
    /// Where it stands; nowhere, when farmhand itself put it there.
    pub(in crate::farm) place: Option<Place>,
    /// Whether there is a Jinja template in it.
    pub(in crate::farm) templated: bool,
    /// Whether it was made from a password, so that it must not be shown.
    pub(in crate::farm) hidden: bool,
    /// Whether it could not be made, which was told already.
    pub(in crate::farm) broken: bool,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::farm) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
    List(Vec<Arc<Node>>),
    Map(IndexMap<Arc<str>, Entry>),
}

/// A value in a mapping.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Entry {
    /// Where its key stands, in the file in which the mapping is written.
    pub(in crate::farm) key: Option<Place>,
    pub(in crate::farm) value: Arc<Node>,
}

impl Entry {
    /// An entry whose key stands nowhere.
    pub(in crate::farm) fn new(value: Arc<Node>) -> Self {
        Self { key: None, value }
    }
}

/// Where something stands.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Place {
    pub(in crate::farm) file: Arc<SourceFile>,
    start: u32,
    end: u32,
}

impl Place {
    /// A byte range of a file. Files are far smaller than 4 GiB: see [`SourceFile::read`].
    pub(in crate::farm) fn new(file: &Arc<SourceFile>, range: Range<usize>) -> Self {
        let offset = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { file: file.clone(), start: offset(range.start), end: offset(range.end) }
    }

    pub(in crate::farm) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The line that it begins on, from 1.
    pub(in crate::farm) fn line(&self) -> usize {
        self.file.position(self.range().start).0
    }

    pub(in crate::farm) fn problem(&self, message: impl Into<String>) -> Problem {
        self.file.problem(self.range(), message)
    }
}

/// Whether a text holds anything to render.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// Two values are equal when they say the same, wherever they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value) || self.value == other.value
    }
}

impl Node {
    /// What a value costs beside its text, in bytes, about.
    pub(in crate::farm) const SIZE: usize = 64;

    pub(in crate::farm) fn new(data: Data, place: Option<Place>) -> Self {
        let templated = match &data {
            Data::Text(text) => is_template(text),
            Data::List(items) => items.iter().any(|item| item.templated),
            Data::Map(entries) => entries.values().any(|entry| entry.value.templated),
            Data::Null | Data::Bool(_) | Data::Number(_) => false,
        };
        Self { data, place, templated, hidden: false, broken: false }
    }

    /// A text that is taken as it is, whatever braces are in it.
    pub(in crate::farm) fn literal(text: impl Into<Arc<str>>, place: Option<Place>) -> Self {
        Self { data: Data::Text(text.into()), place, templated: false, hidden: false, broken: false }
    }

    /// A mapping of these entries, which stands nowhere.
    pub(in crate::farm) fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let entry = |(key, value)| (Arc::from(key), Entry::new(Arc::new(value)));
        Self::new(Data::Map(entries.into_iter().map(entry).collect()), None)
    }

    /// The value of a key, if it is a mapping that has it.
    pub(in crate::farm) fn get(&self, key: &str) -> Option<&Arc<Self>> {
        match &self.data {
            Data::Map(entries) => entries.get(key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The value after one step.
    pub(in crate::farm) fn step(&self, key: &Key) -> Option<&Arc<Self>> {
        match (key, &self.data) {
            (Key::Name(name), _) => self.get(name),
            (Key::Index(index), Data::List(items)) => items.get(*index),
            _ => None,
        }
    }

    /// What it is, in a word.
    pub(in crate::farm) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "empty",
            Data::Bool(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// The same value without its places.
    pub(in crate::farm) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(value.clone()),
            Data::Text(text) => Value::String(text.to_string()),
            Data::List(items) => Value::Array(items.iter().map(|item| item.to_value()).collect()),
            Data::Map(entries) => {
                let mut map = Map::with_capacity(entries.len());
                map.extend(entries.iter().map(|(key, entry)| (key.to_string(), entry.value.to_value())));
                Value::Object(map)
            }
        }
    }

    /// How much there is in it, shared parts counted as often as they are there. `None` when that is more than `limits` allow.
    pub(in crate::farm) fn weigh(&self, limits: Limits) -> Option<usize> {
        let depth = limits.depth.checked_sub(1)?;
        let mut size = Self::own_size(&self.data);
        let mut add = |child: &Self| -> Option<()> {
            let rest = limits.size.checked_sub(size)?;
            size += child.weigh(Limits { size: rest, depth })?;
            Some(())
        };
        match &self.data {
            Data::List(items) => items.iter().try_for_each(|item| add(item))?,
            Data::Map(entries) => entries.values().try_for_each(|entry| add(&entry.value))?,
            _ => {}
        }
        (size <= limits.size).then_some(size)
    }

    /// The size of a value without what it contains: its bytes, about.
    pub(super) fn own_size(data: &Data) -> usize {
        let text = if let Data::Text(text) = data { text.len() } else { 0 };
        Self::SIZE + text
    }
}

/// How large and how deep a value may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::farm) struct Limits {
    /// In bytes of memory, about; what is shared counts as often as it is there.
    pub(in crate::farm) size: usize,
    /// Levels of mappings and lists.
    pub(in crate::farm) depth: usize,
}

impl Limits {
    /// A file, or a machine's definition: hundreds of times what an honest one has.
    pub(in crate::farm) const DEFINITION: Self = Self { size: 8 << 20, depth: 64 };
}

//! From a file to values: one pass over the parser's events, with bounds on everything that a file can make grow.

use std::{collections::HashMap, ops::Range, sync::Arc};

use indexmap::IndexMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    node::{Data, Entry, Limits, Node, Place},
    scalar,
};
use crate::base::{Problem, SourceFile};

/// What to do about a key that is no text.
const KEY_HELP: &str = "write it in quotes, or the mapping as a list of mappings";

/// Reads a file as one value. An empty one gives null.
pub(in crate::farm) fn load(file: &Arc<SourceFile>) -> Result<Arc<Node>, Problem> {
    let mut loader = Loader {
        file,
        offsets: Offsets::new(file.text()),
        open: Vec::new(),
        anchors: HashMap::new(),
        size: 0,
        root: None,
    };
    for event in Parser::new_from_str(file.text()) {
        let (event, span) = event.map_err(|error| loader.syntax(&error))?;
        loader.event(event, span)?;
    }
    let empty = || Arc::new(Node::new(Data::Null, Some(Place::new(file, 0..0))));
    Ok(loader.root.unwrap_or_else(empty))
}

struct Loader<'a> {
    file: &'a Arc<SourceFile>,
    offsets: Offsets,
    /// The mappings and lists that are being read, outermost first.
    open: Vec<Open>,
    /// Finished values with an anchor, and their sizes. `None` while such a value is being read.
    anchors: HashMap<usize, Option<(Arc<Node>, usize)>>,
    /// The size of all that was read, aliases counted as often as they are used.
    size: usize,
    root: Option<Arc<Node>>,
}

/// A mapping or list that is being read.
struct Open {
    range: Range<usize>,
    anchor: usize,
    /// The loader's size when it began.
    before: usize,
    content: Content,
}

enum Content {
    List(Vec<Arc<Node>>),
    Map {
        entries: IndexMap<Arc<str>, Entry>,
        /// Mappings to be merged in (`<<`), the first one winning.
        merged: Vec<Arc<Node>>,
        key: Option<WaitingKey>,
    },
}

/// A key that waits for its value.
struct WaitingKey {
    name: Arc<str>,
    range: Range<usize>,
    is_merge: bool,
}

impl Loader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let mut range = self.offsets.range(&span);
        if let (Event::Scalar(..), Some(raw)) = (&event, self.file.text().get(range.clone())) {
            // The parser counts the blanks after a text as its own.
            range.end = range.start + raw.trim_end().len();
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if self.expects_key() {
                    let is_merge = text == "<<" && style == ScalarStyle::Plain && tag.is_none();
                    if anchor != 0 {
                        let node =
                            Arc::new(Node::literal(&*text, Some(Place::new(self.file, range.clone()))));
                        self.anchors.insert(anchor, Some((node, 0)));
                    }
                    self.key(Arc::from(&*text), range, is_merge)
                } else {
                    let node = self.scalar(&text, style, tag.as_deref(), range)?;
                    let size = Node::own_size(&node.data);
                    self.grow(size, &node)?;
                    self.value(Arc::new(node), anchor, size)
                }
            }
            Event::Alias(anchor) => self.alias(anchor, range),
            Event::SequenceStart(anchor, tag) => {
                self.open(range, anchor, tag.as_deref(), Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { entries: IndexMap::new(), merged: Vec::new(), key: None };
                self.open(range, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::DocumentStart(_) if self.root.is_some() => {
                let message = "a second document begins here; a file has one";
                Err(self.problem(range, message).help("put it into a file of its own"))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, name: Arc<str>, range: Range<usize>, is_merge: bool) -> Result<(), Problem> {
        let file = self.file;
        if let Some(Open { content: Content::Map { entries, key, .. }, .. }) = self.open.last_mut() {
            if entries.contains_key(&name) {
                let help = "leave one of them out";
                return Err(file.problem(range, format!("the key `{name}` stands here twice")).help(help));
            }
            *key = Some(WaitingKey { name, range, is_merge });
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, range: Range<usize>) -> Result<(), Problem> {
        let Some(Some((node, size))) = self.anchors.get(&anchor).cloned() else {
            let help = "write the value out here, or name another anchor";
            return Err(self.problem(range, "this alias stands within what it names").help(help));
        };
        if self.expects_key() {
            let Data::Text(name) = &node.data else {
                return Err(self.problem(range, "a key of a mapping must be a text").help(KEY_HELP));
            };
            return self.key(name.clone(), range, false);
        }
        self.size = self.size.saturating_add(size);
        if self.size > Limits::DEFINITION.size {
            let message = "the file becomes too large when its aliases are followed";
            return Err(self
                .problem(range, message)
                .help("an alias stands for all that its anchor names, aliases in it included"));
        }
        // What an alias stands for may be deep itself.
        let limits =
            Limits { depth: Limits::DEFINITION.depth.saturating_sub(self.open.len()), ..Limits::DEFINITION };
        if node.weigh(limits).is_none() {
            return Err(self.too_deep(range));
        }
        self.value(node, 0, size)
    }

    fn open(
        &mut self,
        range: Range<usize>,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), Problem> {
        if self.expects_key() {
            return Err(self.problem(range, "a key of a mapping must be a text").help(KEY_HELP));
        }
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err(self.unknown_tag(tag, range));
        }
        if self.open.len() >= Limits::DEFINITION.depth {
            return Err(self.too_deep(range));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Open { range, anchor, before: self.size, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Some(Open { range, anchor, before, content }) = self.open.pop() else { return Ok(()) };
        let data = match content {
            Content::List(items) => Data::List(items),
            Content::Map { entries, merged, .. } => Data::Map(self.merge(entries, &merged)?),
        };
        // A mapping or list is shown at its key: its content starts on another line.
        let range = match self.open.last() {
            Some(Open { content: Content::Map { key: Some(key), .. }, .. }) => key.range.clone(),
            Some(_) => range.start..range.start,
            None => 0..0,
        };
        let node = Node::new(data, Some(Place::new(self.file, range)));
        self.grow(Node::own_size(&node.data), &node)?;
        self.value(Arc::new(node), anchor, self.size - before)
    }

    /// Merge keys: what they bring comes first and loses against the mapping's own keys.
    fn merge(
        &mut self,
        own: IndexMap<Arc<str>, Entry>,
        merged: &[Arc<Node>],
    ) -> Result<IndexMap<Arc<str>, Entry>, Problem> {
        if merged.is_empty() {
            return Ok(own);
        }
        let mut entries = IndexMap::new();
        for node in merged {
            let mappings =
                if let Data::List(items) = &node.data { items } else { std::slice::from_ref(node) };
            for mapping in mappings {
                let Data::Map(found) = &mapping.data else {
                    let place = node.place.as_ref().map_or(0..0, Place::range);
                    let message = format!("`<<` merges mappings, but this is {}", mapping.kind());
                    let help = "name a mapping's anchor, `<<: *common`, or several, `<<: [*a, *b]`";
                    return Err(self.problem(place, message).help(help));
                };
                for (key, entry) in found {
                    entries.entry(key.clone()).or_insert_with(|| entry.clone());
                }
            }
        }
        entries.extend(own);
        Ok(entries)
    }

    /// A finished value finds its place in what is being read.
    fn value(&mut self, node: Arc<Node>, anchor: usize, size: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, Some((node.clone(), size)));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, merged, key }) => {
                if let Some(WaitingKey { name, range, is_merge }) = key.take() {
                    if is_merge {
                        merged.push(node);
                    } else {
                        let key = Some(Place::new(self.file, range));
                        entries.insert(name, Entry { key, value: node });
                    }
                }
            }
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        range: Range<usize>,
    ) -> Result<Node, Problem> {
        let place = Some(Place::new(self.file, range.clone()));
        let data = match tag {
            None if style == ScalarStyle::Plain => scalar::resolve(text),
            None => Data::Text(text.into()),
            Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
                "str" => Some(Data::Text(text.into())),
                "bool" => scalar::boolean(text).map(Data::Bool),
                "int" | "float" => scalar::number(text).map(Data::Number),
                "null" => Some(Data::Null),
                _ => return Err(self.unknown_tag(tag, range)),
            }
            .ok_or_else(|| {
                let message = format!("`{text}` is not what its tag says, !!{}", tag.suffix);
                self.problem(range, message).help("take the tag out, or write a value of its kind")
            })?,
            // The tag that only says that this is no plain text.
            Some(tag) if show(tag) == "!" => Data::Text(text.into()),
            // Ansible's mark for texts that are no templates, whatever is in them.
            Some(tag) if tag.handle == "!" && tag.suffix == "unsafe" => {
                return Ok(Node::literal(text, place));
            }
            Some(tag) => return Err(self.unknown_tag(tag, range)),
        };
        Ok(Node::new(data, place))
    }

    fn grow(&mut self, size: usize, node: &Node) -> Result<(), Problem> {
        self.size = self.size.saturating_add(size);
        if self.size > Limits::DEFINITION.size {
            let range = node.place.as_ref().map_or(0..0, Place::range);
            let message = "the file holds too much, aliases counted as often as they are used";
            return Err(self.problem(range, message).help("split it, or use fewer aliases"));
        }
        Ok(())
    }

    fn too_deep(&self, range: Range<usize>) -> Problem {
        let message = format!("this is nested more than {} deep", Limits::DEFINITION.depth);
        self.problem(range, message).help("take some levels of mappings and lists out")
    }

    fn unknown_tag(&self, tag: &Tag, range: Range<usize>) -> Problem {
        let problem = self.problem(range, format!("the tag `{}` means nothing here", show(tag)));
        match tag.suffix.as_str() {
            "vault" => problem.help("farmhand can't read what ansible-vault encrypted"),
            _ => problem.help("known are !!str, !!int, !!float, !!bool, !!null and !unsafe"),
        }
    }

    fn problem(&self, range: Range<usize>, message: impl Into<String>) -> Problem {
        self.file.problem(range, message)
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let at = self.offsets.offset(error.marker());
        let help =
            "look here and just before for a missing `:`, quote or bracket, or an indentation that differs";
        self.problem(at..at, format!("this is not valid YAML: {}", error.info())).help(help)
    }
}

fn show(tag: &Tag) -> String {
    if tag.is_yaml_core_schema() {
        format!("!!{}", tag.suffix)
    } else {
        format!("{}{}", tag.handle, tag.suffix)
    }
}

/// From the parser's places, which count characters, to bytes.
struct Offsets {
    /// The byte offset of each character; empty when all are one byte long.
    bytes: Vec<u32>,
    len: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(offset, _)| u32::try_from(offset).unwrap_or(u32::MAX)).collect()
        };
        Self { bytes, len: text.len() }
    }

    fn offset(&self, marker: &Marker) -> usize {
        let index = marker.index();
        let offset =
            if self.bytes.is_empty() { Some(index) } else { self.bytes.get(index).map(|&at| at as usize) };
        offset.unwrap_or(self.len).min(self.len)
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let (start, end) = (self.offset(&span.start), self.offset(&span.end));
        start..end.max(start)
    }
}

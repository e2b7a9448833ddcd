//! Which name of a template is not defined, where it stands, and what it might have been meant to be.

use std::ops::Range;

use super::{context::Scope, syntax};
use crate::farm::{
    definition::nearest,
    yaml::{Data, Key, Node},
};

/// A name that is not defined.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// What was looked up, up to that name: `vm.metadata.nmae`.
    pub(super) path: String,
    /// Where the name itself stands in the template, in bytes.
    pub(super) range: Range<usize>,
    /// The names that are known there.
    pub(super) help: String,
}

/// Finds the first name in `text` that leads nowhere. `within` is the part of the text that failed, and `expression` is how
/// minijinja describes what it found to be undefined.
pub(super) fn unknown(
    text: &str,
    within: Option<Range<usize>>,
    expression: Option<&str>,
    scope: &Scope,
) -> Option<Unknown> {
    let own = own_names(text);
    let mut chains = chains(text);
    chains.retain(|chain| {
        !own.iter().any(|name| chain.names.first().is_some_and(|(key, _)| *key == Key::from(*name)))
    });
    let unknown = |chain: &Chain| {
        let within = within.as_ref().is_none_or(|within| {
            let start = chain.names.first().map_or(0, |(_, range)| range.start);
            within.contains(&start)
        });
        let named = expression.is_none_or(|expression| chain.is_described_by(expression));
        (within && named).then(|| chain.unknown(scope)).flatten()
    };
    let first = chains.iter().find_map(unknown);
    let anywhere = || {
        let described =
            |chain: &&Chain| expression.is_none_or(|expression| chain.is_described_by(expression));
        chains.iter().filter(described).find_map(|chain| chain.unknown(scope))
    };
    first.or_else(anywhere)
}

/// Names that are looked up one in the other: `vm.metadata['name']`.
#[derive(Debug)]
struct Chain {
    names: Vec<(Key, Range<usize>)>,
}

impl Chain {
    /// Whether minijinja's words (`vm.metadata["name"]`) are about this chain or what is in front of its end.
    fn is_described_by(&self, expression: &str) -> bool {
        let words = |text: &str| -> Vec<String> {
            let words = text.split(|c: char| !(c.is_alphanumeric() || "_-".contains(c)));
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let own: Vec<String> = self.names.iter().flat_map(|(key, _)| words(&show(key))).collect();
        let described = words(expression);
        own.starts_with(&described) || described.starts_with(&own)
    }

    /// The first name in it that leads nowhere.
    fn unknown(&self, scope: &Scope) -> Option<Unknown> {
        let ((root, range), rest) = self.names.split_first()?;
        let Key::Name(root) = root else { return None };
        let Some(mut node) = scope.get(root) else {
            let help = help(root, &scope.names(), "known are");
            return Some(Unknown { path: root.clone(), range: range.clone(), help });
        };
        let mut path = root.clone();
        for (key, range) in rest {
            let parent = path.clone();
            match key {
                Key::Name(name) => path = format!("{path}.{name}"),
                Key::Index(index) => path = format!("{path}[{index}]"),
            }
            match node.step(key) {
                Some(next) => node = next,
                None => {
                    let help = help(&show(key), &names(node), &format!("`{parent}` has"));
                    return Some(Unknown { path, range: range.clone(), help });
                }
            }
        }
        None
    }
}

fn show(key: &Key) -> String {
    match key {
        Key::Name(name) => name.clone(),
        Key::Index(index) => index.to_string(),
    }
}

fn names(node: &Node) -> Vec<String> {
    match &node.data {
        Data::Map(entries) => entries.keys().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn help(name: &str, known: &[String], words: &str) -> String {
    if let Some(near) = nearest(name, known) {
        return format!("did you mean `{near}`?");
    }
    let shown: Vec<_> = known.iter().take(12).map(|name| format!("`{name}`")).collect();
    let more = if known.len() > shown.len() { ", ..." } else { "" };
    if shown.is_empty() { format!("{words} no names") } else { format!("{words} {}{more}", shown.join(", ")) }
}

/// All chains of names in the expressions of a template, but for what stands in quotes and the names of filters and arguments.
fn chains(text: &str) -> Vec<Chain> {
    let mut chains = Vec::new();
    for expression in syntax::expressions(text) {
        Scanner { text: &text[..expression.inner.end], at: expression.inner.start }.chains(&mut chains);
    }
    chains
}

/// The names that a template gives to values itself: `{% for NAME in ... %}`, `{% set NAME = ... %}`.
fn own_names(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for expression in syntax::expressions(text).into_iter().filter(|expression| !expression.is_output) {
        let statement = text[expression.inner].trim();
        let bound = match statement.split_once(char::is_whitespace) {
            Some(("for", rest)) => rest.split_once(" in ").map(|(names, _)| names),
            Some(("set", rest)) => Some(rest.split_once('=').map_or(rest, |(names, _)| names)),
            _ => None,
        };
        let words =
            bound.into_iter().flat_map(|bound| bound.split(|c: char| !(c.is_alphanumeric() || c == '_')));
        names.extend(words.filter(|word| !word.is_empty()));
    }
    names
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn chains(mut self, chains: &mut Vec<Chain>) {
        let mut before = ' ';
        while let Some(next) = self.peek() {
            if next == '"' || next == '\'' {
                self.quoted(next);
            } else if is_start(next) {
                let chain = self.chain();
                let is_argument = self.text[self.at..].trim_start().starts_with('=')
                    && !self.text[self.at..].trim_start().starts_with("==");
                if before != '|' && before != '.' && !is_argument {
                    chains.push(chain);
                }
            } else {
                self.at += next.len_utf8();
            }
            if !next.is_whitespace() {
                before = next;
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn word(&mut self) -> Range<usize> {
        let start = self.at;
        while let Some(next) = self.peek().filter(|&c| c.is_alphanumeric() || c == '_') {
            self.at += next.len_utf8();
        }
        start..self.at
    }

    /// What stands in quotes, without them.
    fn quoted(&mut self, quote: char) -> Range<usize> {
        self.at += 1;
        let start = self.at;
        while let Some(next) = self.peek() {
            if next == quote {
                break;
            }
            self.at += next.len_utf8();
            if next == '\\' {
                self.at += self.peek().map_or(0, char::len_utf8);
            }
        }
        let range = start..self.at;
        self.at += self.peek().map_or(0, char::len_utf8);
        range
    }

    fn chain(&mut self) -> Chain {
        let range = self.word();
        let mut names = vec![(Key::Name(self.text[range.clone()].to_owned()), range)];
        loop {
            let here = self.at;
            match self.peek() {
                Some('.') => {
                    self.at += 1;
                    let range = self.word();
                    let word = &self.text[range.clone()];
                    // A method's name is none of a value.
                    if word.is_empty() || self.peek() == Some('(') {
                        self.at = here + 1;
                        break;
                    }
                    names.push((word.parse().map_or_else(|_| Key::from(word), Key::Index), range));
                }
                Some('[') => {
                    self.at += 1;
                    let range = match self.peek() {
                        Some(quote @ ('"' | '\'')) => self.quoted(quote),
                        _ => self.word(),
                    };
                    let is_text = self.text[..range.start].ends_with(['"', '\'']);
                    let word = &self.text[range.clone()];
                    let key = if is_text { Some(Key::from(word)) } else { word.parse().ok().map(Key::Index) };
                    match key.filter(|_| self.peek() == Some(']')) {
                        Some(key) => {
                            names.push((key, range));
                            self.at += 1;
                        }
                        // Which name it is, only the engine knows.
                        None => {
                            self.at = here + 1;
                            break;
                        }
                    }
                }
                _ => break,
            }
        }
        Chain { names }
    }
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

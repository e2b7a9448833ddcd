//! From values to types, and from serde's words to words for people who write YAML.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Key, find, find_key};
use crate::{
    base::{Problem, SourceFile, is_password_key},
    farm::definition::nearest,
};

/// How many mistakes of one value are told at most.
const MAX_MISTAKES: usize = 50;

/// What is wrong with a value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::farm) struct Mistake {
    /// The way to the value.
    pub(in crate::farm) path: Vec<Key>,
    pub(in crate::farm) message: String,
    pub(in crate::farm) help: Option<String>,
    /// Whether the last key itself is wrong, not its value.
    pub(in crate::farm) is_key: bool,
}

impl Mistake {
    pub(in crate::farm) fn new(
        path: impl IntoIterator<Item = impl Into<Key>>,
        message: impl Into<String>,
    ) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self { path, message: message.into(), help: None, is_key: false }
    }

    /// Says what to do about it.
    pub(in crate::farm) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    fn of_serde(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path: Vec<_> = error.path().iter().filter_map(Key::of_segment).collect();
        let words = error.inner().to_string();
        let hidden = matches!(path.last(), Some(Key::Name(name)) if is_password_key(name));
        let (message, help, is_key) = explain(&words, hidden);
        Self { path, message, help, is_key }
    }

    /// As a problem of `source`, in which the value stands at `place`.
    pub(in crate::farm) fn problem(self, source: &SourceFile, place: &[Key]) -> Problem {
        let path: Vec<_> = place.iter().cloned().chain(self.path).collect();
        let range = if self.is_key { find_key(source, &path) } else { find(source, &path) };
        let problem = source.problem(range, self.message);
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

/// Turns a value that stands in `source` at `place` into a `T`, or says all that is wrong with it.
pub(in crate::farm) fn decode<T: DeserializeOwned>(
    source: &SourceFile,
    value: Value,
    place: &[Key],
) -> Result<T, Vec<Problem>> {
    mistakes(value)
        .map_err(|mistakes| mistakes.into_iter().map(|mistake| mistake.problem(source, place)).collect())
}

/// Turns a value into a `T`, or says all that is wrong with it.
///
/// serde stops at the first mistake. So the key that it is in is taken out and the rest is tried again.
pub(in crate::farm) fn mistakes<T: DeserializeOwned>(mut value: Value) -> Result<T, Vec<Mistake>> {
    let mut found: Vec<Mistake> = Vec::new();
    let mut removed: Vec<Vec<Key>> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(decoded) if found.is_empty() => return Ok(decoded),
            Ok(_) => return Err(found),
            Err(error) => error,
        };
        let mistake = Mistake::of_serde(&error);
        if let Some(name) = missing_field(&error.inner().to_string()) {
            let field: Vec<_> = mistake.path.iter().cloned().chain([Key::from(name)]).collect();
            let path = outside_lists(&mistake.path);
            if !removed.contains(&field) {
                found.push(mistake);
            }
            // What lacks something is no use to what it is in.
            if !remove(&mut value, &path) {
                return Err(found);
            }
            removed.push(path);
            continue;
        }
        let path = outside_lists(&mistake.path);
        let is_removed = remove(&mut value, &path);
        found.push(mistake);
        if !is_removed || found.len() >= MAX_MISTAKES {
            return Err(found);
        }
        removed.push(path);
    }
}

/// The way to what is wrong, or to the list that it is in: its items can't be taken out, as those after them would move.
fn outside_lists(path: &[Key]) -> Vec<Key> {
    path.iter().take_while(|key| matches!(key, Key::Name(_))).cloned().collect()
}

fn remove(value: &mut Value, path: &[Key]) -> bool {
    let Some((Key::Name(last), parents)) = path.split_last() else { return false };
    let mut parent = Some(value);
    for key in parents {
        let Key::Name(name) = key else { return false };
        parent = parent.and_then(|value| value.get_mut(name));
    }
    let Some(Value::Object(entries)) = parent else { return false };
    entries.shift_remove(last).is_some()
}

fn missing_field(words: &str) -> Option<&str> {
    words.strip_prefix("missing field `")?.strip_suffix('`')
}

/// serde's words as a message, a hint, and whether they are about a key. What was found is not told when it is `hidden`.
fn explain(words: &str, hidden: bool) -> (String, Option<String>, bool) {
    if let Some(name) = missing_field(words) {
        let help = format!("add `{name}:` with its value here");
        return (format!("`{name}` is missing"), Some(help), false);
    }
    if let Some((name, known)) = unknown(words, "unknown field `") {
        return (format!("unknown key `{name}`"), Some(choice(name, &known)), true);
    }
    if let Some((name, known)) = unknown(words, "unknown variant `") {
        return (format!("unknown value `{name}`"), Some(choice(name, &known)), false);
    }
    let typed = words.strip_prefix("invalid type: ").or_else(|| words.strip_prefix("invalid value: "));
    if let Some((found, expected)) = typed.and_then(|typed| typed.split_once(", expected ")) {
        let (expected, help) = wanted(expected);
        let found = if hidden { given_kind(found) } else { given(found) };
        return (format!("expected {expected}, but this is {found}"), help, false);
    }
    if words.starts_with("invalid length") && words.contains("expected struct ") {
        let (_, help) = wanted("struct ");
        return ("expected a mapping, but this is a list".to_owned(), help, false);
    }
    // What farmhand's own types say of themselves, with a hint after a line break.
    match words.split_once('\n') {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned()), false),
        None => (words.to_owned(), None, false),
    }
}

fn unknown<'a>(words: &'a str, start: &str) -> Option<(&'a str, Vec<String>)> {
    let (name, rest) = words.strip_prefix(start)?.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((name, known))
}

/// The nearest of the known names, and all of them.
fn choice(name: &str, known: &[String]) -> String {
    let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`? Known here: {all}"),
        None if known.is_empty() => "no keys are known here".to_owned(),
        None => format!("known here: {all}"),
    }
}

/// What was expected, and how that is written.
fn wanted(expected: &str) -> (&str, Option<String>) {
    let number = "write it in digits, without quotes";
    let (words, help) = match expected {
        "u8" => ("a whole number from 0 to 255", number),
        "u16" => ("a whole number from 0 to 65535", number),
        "a nonzero u16" => ("a whole number from 1 to 65535", number),
        "u32" | "u64" | "usize" => ("a whole number from 0", number),
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => ("a whole number from 1", number),
        "i32" | "i64" => ("a whole number", number),
        "a boolean" => ("true or false", "write `true` or `false`, without quotes"),
        "a string" => ("a text", "put it into quotes to have it taken for a text"),
        "a sequence" => ("a list", "write `[a, b]`, or each item on a line of its own after `- `"),
        other if other == "a map" || other.starts_with("struct ") => {
            ("a mapping", "write `key: value`, each on a line of its own and indented, or `{ key: value }`")
        }
        // Types of farmhand's own say how they are written after a line break.
        other => {
            return other
                .split_once('\n')
                .map_or((other, None), |(words, help)| (words, Some(help.to_owned())));
        }
    };
    (words, Some(help.to_owned()))
}

/// What kind of value was found, in YAML's words.
fn given_kind(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", _)) => "another text".to_owned(),
        Some(("integer" | "floating", _)) => "a number".to_owned(),
        Some(("boolean", _)) => "true or false".to_owned(),
        _ => given(found),
    }
}

/// What was found, in YAML's words.
fn given(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer", number)) => format!("the number {number}"),
        Some(("floating", number)) => format!("the number {}", number.trim_start_matches("point ")),
        Some(("boolean", value)) => value.to_owned(),
        _ => match found {
            "sequence" => "a list".to_owned(),
            "map" => "a mapping".to_owned(),
            "null" | "unit value" | "unit" => "empty".to_owned(),
            other => other.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        count: u32,
        #[serde(default)]
        inner: Option<Inner>,
        #[serde(default)]
        list: Vec<u32>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        on: bool,
    }

    fn told(value: Value) -> Vec<String> {
        let found = mistakes::<Outer>(value).unwrap_err();
        found.into_iter().map(|mistake| mistake.message).collect()
    }

    #[test]
    fn what_fits_is_decoded() {
        let decoded = mistakes::<Outer>(json!({ "count": 1, "inner": { "on": true }, "list": [2] }));
        assert_eq!(decoded, Ok(Outer { count: 1, inner: Some(Inner { on: true }), list: vec![2] }));
    }

    #[test]
    fn all_mistakes_are_told_and_none_that_follows_from_another() {
        let value =
            json!({ "count": "many", "conut": 1, "inner": { "on": "yes", "off": 1 }, "list": [1, "a", "b"] });
        let expected = [
            "expected a whole number from 0, but this is the text \"many\"",
            "unknown key `conut`",
            "expected true or false, but this is the text \"yes\"",
            "unknown key `off`",
            "expected a whole number from 0, but this is the text \"a\"",
        ];
        assert_eq!(told(value), expected);
        assert_eq!(told(json!({})), ["`count` is missing"]);
        assert_eq!(told(json!([])), ["expected a mapping, but this is a list"]);
        assert_eq!(told(json!(1)), ["expected a mapping, but this is the number `1`"]);
    }

    #[test]
    fn hints_name_the_nearest_name() {
        let found = mistakes::<Outer>(json!({ "count": 1, "innner": {} })).unwrap_err();
        assert_eq!(
            found[0].help.as_deref(),
            Some("did you mean `inner`? Known here: `count`, `inner`, `list`")
        );
        assert!(found[0].is_key);
    }
}

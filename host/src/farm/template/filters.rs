//! Filters with Ansible's and Jinja's meaning, where minijinja has none or another one.
//!
//! References: Ansible's documentation of `ansible.builtin.combine`, `hash`, `bool`, `mandatory`, `regex_replace`, `path_join`,
//! `basename`, `dirname` and `ternary`, and Jinja's of `default` and `int`.

use std::borrow::Cow;

use indexmap::IndexMap;
use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args},
};
use regex::{Captures, RegexBuilder};
use sha2::Digest as _;

/// How long a text may be that a regular expression is applied to.
const MAX_REGEX_INPUT: usize = 64 << 10;

/// How large a compiled regular expression may be, in bytes.
const MAX_REGEX_SIZE: usize = 256 << 10;

/// What makes a list of a combined mapping out of two.
const LIST_MERGES: [&str; 6] = ["replace", "keep", "append", "prepend", "append_rp", "prepend_rp"];

pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("mandatory", mandatory);
    environment.add_filter("int", int);
    environment.add_filter("bool", bool);
    environment.add_filter("hash", hash);
    environment.add_filter("combine", combine);
    environment.add_filter("path_join", path_join);
    environment.add_filter("basename", basename);
    environment.add_filter("dirname", dirname);
    environment.add_filter("regex_replace", regex_replace);
    environment.add_filter("ternary", ternary);
}

fn wrong(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `default(value, default='', boolean=false)`
fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or_default(),
    };
    let other = match other {
        Some(other) => other,
        None => kwargs.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    kwargs.assert_all_used()?;
    let absent = value.is_undefined() || boolean && !value.is_true();
    Ok(if absent { other } else { value.clone() })
}

/// `mandatory(value, msg=...)`: what is not defined is an error, in the definition's own words.
fn mandatory(value: &Value, msg: Option<String>, kwargs: Kwargs) -> Result<Value, Error> {
    let msg = match msg {
        Some(msg) => Some(msg),
        None => kwargs.get::<Option<String>>("msg")?,
    };
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(wrong(msg.unwrap_or_else(|| "a mandatory value is not defined".to_owned())));
    }
    Ok(value.clone())
}

/// `int(value, default=0, base=10)`: what is no number is the default.
fn int(value: Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = match default {
        Some(default) => default,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0)),
    };
    let base = match base {
        Some(base) => base,
        None => kwargs.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(wrong(format!("int: a number can't be to the base {base}")));
    }
    match value.kind() {
        ValueKind::Undefined => Err(ErrorKind::UndefinedError.into()),
        ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => Ok(value),
        ValueKind::Number => Ok(f64::try_from(value).map_or(default, truncate)),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim().replace('_', "");
            let lower = text.to_lowercase();
            let digits = match base {
                16 => lower.strip_prefix("0x"),
                8 => lower.strip_prefix("0o"),
                2 => lower.strip_prefix("0b"),
                _ => None,
            };
            let whole = i64::from_str_radix(digits.unwrap_or(&lower), base).map(Value::from).ok();
            // As in Jinja, `12.7` is 12.
            let float = || text.parse::<f64>().ok().filter(|float| float.is_finite()).map(truncate);
            Ok(whole.or_else(float).unwrap_or(default))
        }
        _ => Ok(default),
    }
}

/// Python's `int()` of a float; beyond the range of integers it is the nearest one.
#[allow(clippy::cast_possible_truncation)]
fn truncate(float: f64) -> Value {
    Value::from(float.trunc() as i64)
}

/// `yes`, `on`, `1` and `true` are true; all else is false, but for null, which stays null.
fn bool(value: Value) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::None | ValueKind::Bool => value,
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().to_lowercase();
            Value::from(["yes", "on", "1", "true"].contains(&text.as_str()))
        }
        _ => Value::from(value == Value::from(1)),
    })
}

/// `hash(text, hashtype='sha1')`: hexadecimal digits of the text's UTF-8 bytes.
fn hash(value: Cow<'_, str>, hashtype: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let hashtype = match hashtype {
        Some(hashtype) => hashtype,
        None => kwargs.get::<Option<&str>>("hashtype")?.unwrap_or("sha1"),
    };
    kwargs.assert_all_used()?;
    let bytes = value.as_bytes();
    Ok(match hashtype {
        "md5" => hex(&md5::Md5::digest(bytes)),
        "sha1" => hex(&sha1::Sha1::digest(bytes)),
        "sha224" => hex(&sha2::Sha224::digest(bytes)),
        "sha256" => hex(&sha2::Sha256::digest(bytes)),
        "sha384" => hex(&sha2::Sha384::digest(bytes)),
        "sha512" => hex(&sha2::Sha512::digest(bytes)),
        other => {
            let known = "md5, sha1, sha224, sha256, sha384 and sha512";
            return Err(wrong(format!("hash: `{other}` is not known; known are {known}")));
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `combine(mapping, ..., recursive=false, list_merge='replace')`: the later mapping wins.
fn combine(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (others, kwargs): (&[Value], Kwargs) = from_args(&arguments)?;
    let recursive = kwargs.get::<Option<bool>>("recursive")?.unwrap_or_default();
    let list_merge = kwargs.get::<Option<&str>>("list_merge")?.unwrap_or("replace");
    kwargs.assert_all_used()?;
    if !LIST_MERGES.contains(&list_merge) {
        let known = LIST_MERGES.join(", ");
        return Err(wrong(format!("combine: list_merge `{list_merge}` is not known; known are {known}")));
    }
    let combining = Combining { state, recursive, list_merge };
    let mut result = IndexMap::new();
    for mapping in std::iter::once(&value).chain(others.iter()) {
        // Ansible takes lists of mappings as well.
        if matches!(mapping.kind(), ValueKind::Seq) {
            for mapping in mapping.try_iter()? {
                combining.add(&mut result, &mapping, 0)?;
            }
        } else {
            combining.add(&mut result, mapping, 0)?;
        }
    }
    Ok(Value::from_pairs(result))
}

struct Combining<'a, 'state> {
    state: &'a State<'state, 'state>,
    recursive: bool,
    list_merge: &'a str,
}

impl Combining<'_, '_> {
    fn add(&self, result: &mut IndexMap<String, Value>, other: &Value, depth: usize) -> Result<(), Error> {
        if other.is_undefined() {
            return Err(ErrorKind::UndefinedError.into());
        }
        if other.kind() != ValueKind::Map {
            return Err(wrong(format!("combine: expected mappings, got a {}", other.kind())));
        }
        if depth > 64 {
            return Err(wrong("combine: the mappings are nested more than 64 deep"));
        }
        for key in other.try_iter()? {
            self.state.consume_fuel(1)?;
            let new = other.get_item(&key)?;
            let key = key.to_string();
            let value = match result.get(&key) {
                Some(old) => self.merge(old, new, depth)?,
                None => new,
            };
            result.insert(key, value);
        }
        Ok(())
    }

    fn merge(&self, old: &Value, new: Value, depth: usize) -> Result<Value, Error> {
        match (old.kind(), new.kind()) {
            (ValueKind::Map, ValueKind::Map) if self.recursive => {
                let mut result = IndexMap::new();
                self.add(&mut result, old, depth + 1)?;
                self.add(&mut result, &new, depth + 1)?;
                Ok(Value::from_pairs(result))
            }
            (ValueKind::Seq, ValueKind::Seq) => {
                let (old_items, new_items) = (self.items(old)?, self.items(&new)?);
                let without_new = || -> Result<Vec<Value>, Error> {
                    let cost = old_items.len().saturating_mul(new_items.len());
                    self.state.consume_fuel(cost as u64)?;
                    Ok(old_items.iter().filter(|item| !new_items.contains(item)).cloned().collect())
                };
                Ok(match self.list_merge {
                    "keep" => old.clone(),
                    "append" => [old_items, new_items].concat().into(),
                    "prepend" => [new_items, old_items].concat().into(),
                    "append_rp" => [without_new()?, new_items].concat().into(),
                    "prepend_rp" => {
                        let rest = without_new()?;
                        [new_items, rest].concat().into()
                    }
                    _ => new,
                })
            }
            _ => Ok(new),
        }
    }

    fn items(&self, list: &Value) -> Result<Vec<Value>, Error> {
        self.state.consume_fuel(list.len().unwrap_or_default() as u64)?;
        Ok(list.try_iter()?.collect())
    }
}

/// Python's `os.path.join`: an absolute part starts anew.
fn path_join(value: Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut path = String::new();
    for part in value.try_iter()? {
        let part = match part.as_str() {
            Some(part) => part,
            None if part.is_undefined() => return Err(ErrorKind::UndefinedError.into()),
            None => return Err(wrong(format!("path_join: expected texts, got a {}", part.kind()))),
        };
        if part.starts_with('/') {
            path.clear();
        } else if !path.is_empty() && !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(part);
    }
    Ok(path)
}

/// What comes after the last `/`.
fn basename(path: Cow<'_, str>) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// What comes before the last `/`.
fn dirname(path: Cow<'_, str>) -> String {
    let Some((folder, _)) = path.rsplit_once('/') else { return String::new() };
    let trimmed = folder.trim_end_matches('/');
    if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }
}

/// `ternary(value, if_true, if_false, if_none)`
fn ternary(value: Value, if_true: Value, if_false: Value, if_none: Option<Value>) -> Result<Value, Error> {
    match if_none {
        _ if value.is_undefined() => Err(ErrorKind::UndefinedError.into()),
        Some(if_none) if value.is_none() => Ok(if_none),
        _ if value.is_true() => Ok(if_true),
        _ => Ok(if_false),
    }
}

/// `regex_replace(text, pattern='', replacement='', ignorecase=false, multiline=false, count=0)`
///
/// The syntax is Python's but for look-around and back-references in the pattern: those have no bound on their time.
fn regex_replace(
    state: &State<'_, '_>,
    value: Cow<'_, str>,
    pattern: Option<&str>,
    replacement: Option<&str>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let text = |positional: Option<&str>, name: &str| match positional {
        Some(text) => Ok(text.to_owned()),
        None => kwargs.get::<Option<&str>>(name).map(|text| text.unwrap_or_default().to_owned()),
    };
    let (pattern, replacement) = (text(pattern, "pattern")?, text(replacement, "replacement")?);
    let flag = |name| Ok::<_, Error>(kwargs.get::<Option<bool>>(name)?.unwrap_or_default());
    let (ignorecase, multiline) = (flag("ignorecase")?, flag("multiline")?);
    let count = kwargs.get::<Option<usize>>("count")?.unwrap_or_default();
    kwargs.assert_all_used()?;
    if value.len() > MAX_REGEX_INPUT {
        return Err(wrong(format!("regex_replace: the text is longer than {MAX_REGEX_INPUT} bytes")));
    }
    // The engine takes at most its program's size times the text's length; both are bounded.
    state.consume_fuel(1000 + value.len() as u64 / 16)?;
    let regex = RegexBuilder::new(&pattern)
        .case_insensitive(ignorecase)
        .multi_line(multiline)
        .size_limit(MAX_REGEX_SIZE)
        .dfa_size_limit(MAX_REGEX_SIZE)
        .build()
        .map_err(|error| wrong(format!("regex_replace: {error}")))?;
    let parts = Part::parse(&replacement, &regex)?;
    let mut produced = 0;
    let mut too_long = false;
    let result = regex.replacen(&value, count, |captures: &Captures<'_>| {
        let text: String =
            if too_long { String::new() } else { parts.iter().map(|part| part.text(captures)).collect() };
        produced += text.len();
        too_long |= produced > MAX_REGEX_INPUT;
        text
    });
    if too_long {
        return Err(wrong(format!("regex_replace: the result is longer than {MAX_REGEX_INPUT} bytes")));
    }
    Ok(result.into_owned())
}

/// A part of a replacement.
enum Part {
    Text(String),
    Group(usize),
}

impl Part {
    /// Python's replacements: `\1`, `\g<1>`, `\g<name>`, `\n`, `\t`, `\\`.
    fn parse(replacement: &str, regex: &regex::Regex) -> Result<Vec<Self>, Error> {
        let group = |name: &str| {
            let index = match name.parse() {
                Ok(index) => Some(index).filter(|&index: &usize| index < regex.captures_len()),
                Err(_) => regex.capture_names().position(|known| known == Some(name)),
            };
            index.map(Self::Group).ok_or_else(|| wrong(format!("regex_replace: there is no group `{name}`")))
        };
        let mut parts = Vec::new();
        let mut rest = replacement;
        while let Some((text, escaped)) = rest.split_once('\\') {
            parts.push(Self::Text(text.to_owned()));
            let digits = escaped.len() - escaped.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let name = escaped.strip_prefix("g<").and_then(|escaped| escaped.split_once('>'));
            rest = if digits > 0 {
                // At most two digits belong to the number.
                let (number, rest) = escaped.split_at(digits.min(2));
                parts.push(group(number)?);
                rest
            } else if let Some((name, rest)) = name {
                parts.push(group(name)?);
                rest
            } else {
                let next = escaped.chars().next();
                let text = match next {
                    Some('n') => "\n".to_owned(),
                    Some('t') => "\t".to_owned(),
                    Some('r') => "\r".to_owned(),
                    Some('\\') => "\\".to_owned(),
                    Some(c) => format!("\\{c}"),
                    None => "\\".to_owned(),
                };
                parts.push(Self::Text(text));
                &escaped[next.map_or(0, char::len_utf8)..]
            };
        }
        parts.push(Self::Text(rest.to_owned()));
        Ok(parts)
    }

    fn text<'a>(&'a self, captures: &'a Captures<'_>) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Group(index) => captures.get(*index).map_or("", |found| found.as_str()),
        }
    }
}

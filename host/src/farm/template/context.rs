//! Values of definition files as templates see them: looked up where they are, never copied.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Object, ObjectRepr},
};

use crate::{
    base::is_password_key,
    farm::yaml::{Data, Entry, Node},
};

/// What a template can refer to.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Scope {
    /// The machine so far.
    pub(in crate::farm) vm: Arc<Node>,
    /// Variables by name: a mapping.
    pub(in crate::farm) variables: Arc<Node>,
}

impl Scope {
    /// Gives templates a variable.
    pub(in crate::farm) fn set(&mut self, name: &str, value: Node) {
        if let Data::Map(variables) = &mut Arc::make_mut(&mut self.variables).data {
            variables.insert(name.into(), Entry::new(Arc::new(value)));
        }
    }

    pub(in crate::farm) fn get(&self, name: &str) -> Option<&Arc<Node>> {
        if name == "vm" { Some(&self.vm) } else { self.variables.get(name) }
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec!["vm".to_owned()];
        if let Data::Map(entries) = &self.variables.data {
            names.extend(entries.keys().map(ToString::to_string));
        }
        names
    }
}

/// What was seen while a text was rendered.
#[derive(Default)]
pub(super) struct Watch {
    /// Values that must not be shown.
    hidden: Mutex<Vec<Arc<Node>>>,
    /// A value that could not be made, which was told already.
    broken: AtomicBool,
    /// The text itself.
    text: String,
}

impl Watch {
    pub(super) fn new(text: &str) -> Arc<Self> {
        Arc::new(Self { text: text.to_owned(), ..Self::default() })
    }

    /// Marks what was made from values that must not be shown: a text or list altogether; of a mapping, which may be all that
    /// there was with a change, the texts that contain such a value.
    pub(super) fn mark(&self, node: &mut Arc<Node>) {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = hidden.iter().map(|node| as_text(&node.to_value()));
        let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
        } else if matches!(node.data, Data::Map(_)) {
            mark_texts(node, &texts);
        } else {
            Arc::make_mut(node).hidden = true;
        }
    }

    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn show(self: &Arc<Self>, name: &str, node: &Arc<Node>) -> Value {
        if node.hidden || is_password_key(name) {
            self.hidden.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        }
        if node.broken {
            self.broken.store(true, Ordering::Relaxed);
        }
        match &node.data {
            Data::Null => Value::from(()),
            Data::Bool(value) => Value::from(*value),
            Data::Number(number) => number_value(number),
            Data::Text(text) => Value::from(text.clone()),
            Data::List(_) | Data::Map(_) => {
                Value::from_object(Shown { node: node.clone(), watch: self.clone() })
            }
        }
    }

    /// What stands for a name that is not there.
    ///
    /// To Ansible `a.b.c | default(0)` is 0 also when there is no `a.b`; to minijinja, that looks something up in what is not
    /// defined. So a missing name that the text uses only on the way to something else is a mapping without keys.
    fn missing(self: &Arc<Self>, name: &str) -> Option<Value> {
        only_on_the_way(&self.text, name).then(|| Value::from_object(Missing(self.clone())))
    }
}

fn as_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Marks what in a value contains one of `hidden`. Says whether there was anything.
fn mark_texts(node: &mut Arc<Node>, hidden: &[String]) -> bool {
    let mut marked = (**node).clone();
    let found = match &mut marked.data {
        // All children, not only the first that has something.
        Data::List(items) => {
            items.iter_mut().filter_map(|item| mark_texts(item, hidden).then_some(())).count() > 0
        }
        Data::Map(entries) => {
            let values = entries.values_mut().map(|entry| &mut entry.value);
            values.filter_map(|value| mark_texts(value, hidden).then_some(())).count() > 0
        }
        _ => {
            let text = as_text(&node.to_value());
            marked.hidden |= hidden.iter().any(|hidden| text.contains(hidden));
            marked.hidden
        }
    };
    if found {
        *node = Arc::new(marked);
    }
    found
}

fn number_value(number: &serde_json::Number) -> Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(value), _) => Value::from(value),
        (_, Some(value)) => Value::from(value),
        _ => Value::from(number.as_f64().unwrap_or_default()),
    }
}

/// Whether a template looks something up in `name` wherever it names it.
fn only_on_the_way(text: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = false;
    for (at, _) in text.match_indices(name) {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        if before.ends_with(is_word) || after.starts_with(is_word) {
            continue;
        }
        let quote = before.chars().next_back().filter(|quote| "'\"".contains(*quote));
        let after = match quote.filter(|&quote| before.trim_end_matches(quote).trim_end().ends_with('[')) {
            Some(quote) => {
                after.strip_prefix(quote).map(str::trim_start).and_then(|rest| rest.strip_prefix(']'))
            }
            None => Some(after),
        };
        if !after.unwrap_or_default().trim_start().starts_with(['.', '[']) {
            return false;
        }
        found = true;
    }
    found
}

/// All that a template can refer to, as its root.
pub(super) struct Root {
    pub(super) scope: Scope,
    pub(super) watch: Arc<Watch>,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        match self.scope.get(name) {
            Some(node) => Some(self.watch.show(name, node)),
            // Functions come after variables.
            None if ["range", "dict", "namespace", "loop"].contains(&name) => None,
            None => self.watch.missing(name),
        }
    }
}

/// A mapping or list.
pub(super) struct Shown {
    pub(super) node: Arc<Node>,
    watch: Arc<Watch>,
}

/// Without its content: that may be a password.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.node.kind())
    }
}

impl Object for Shown {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if matches!(self.node.data, Data::List(_)) { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &self.node.data {
            Data::List(items) => {
                let index = key.as_usize()?;
                items.get(index).map(|item| self.watch.show("", item))
            }
            _ => {
                let name = key.as_str()?;
                match self.node.get(name) {
                    Some(node) => Some(self.watch.show(name, node)),
                    None => self.watch.missing(name),
                }
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.node.data {
            Data::List(items) => Enumerator::Seq(items.len()),
            Data::Map(entries) => {
                Enumerator::Values(entries.keys().map(|key| Value::from(key.clone())).collect())
            }
            _ => Enumerator::Empty,
        }
    }
}

/// What is not there, as a mapping without keys.
struct Missing(Arc<Watch>);

impl fmt::Debug for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

impl Object for Missing {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.missing(key.as_str()?)
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        _method: &str,
        _args: &[Value],
    ) -> Result<Value, Error> {
        Err(ErrorKind::UndefinedError.into())
    }
}

#[cfg(test)]
mod tests {
    use super::only_on_the_way;

    #[test]
    fn a_name_on_the_way_is_always_followed_by_another() {
        for (text, expected) in [
            ("{{ vm.a.b | default(1) }}", true),
            ("{{ vm['a'].b | default(1) }}", true),
            ("{{ vm.a['b'] }}", true),
            ("{{ vm.a }}", false),
            ("{% if vm.a is defined %}{{ vm.a.b }}{% endif %}", false),
            ("{{ vm['a'] }}", false),
            ("{{ vm.ab.c }}", false),
        ] {
            assert_eq!(only_on_the_way(text, "a"), expected, "{text}");
        }
    }
}

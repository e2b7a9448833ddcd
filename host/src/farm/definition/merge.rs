//! One machine out of several files: mappings are merged key by key, the later file winning; anything else replaces what was
//! there. Every text is rendered with what came before it.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::document::{Document, Statement};
use crate::{
    base::{Problem, Problems},
    farm::{
        template::{Budget, Scope, Templates},
        yaml::{Data, Entry, Key, Node},
    },
};

/// The `vm` of a machine. Each value knows where it comes from.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Merged(Arc<Node>);

impl Merged {
    /// The whole value.
    pub(in crate::farm) fn root(&self) -> &Arc<Node> {
        &self.0
    }

    /// The value without its places.
    pub(in crate::farm) fn value(&self) -> Value {
        self.0.to_value()
    }

    /// A problem with the value at `path`, or with the deepest one on the way there that a file holds. Gives the message back
    /// when there is none.
    pub(in crate::farm) fn problem(&self, path: &[Key], message: String) -> Result<Problem, String> {
        let mut place = self.0.place.as_ref();
        let mut node = &self.0;
        for key in path {
            let Some(next) = node.step(key) else { break };
            place = next.place.as_ref().or(place);
            node = next;
        }
        place.map(|place| place.problem(message.clone())).ok_or(message)
    }
}

/// A `vm` in the making.
pub(super) struct Merger<'a> {
    templates: &'a Templates,
    scope: Scope,
    budget: Budget,
    problems: Vec<Problem>,
}

impl<'a> Merger<'a> {
    pub(super) fn new(templates: &'a Templates, vm: Arc<Node>, variables: Arc<Node>) -> Self {
        let scope = Scope { vm, variables };
        Self { templates, scope, budget: Budget::default(), problems: Vec::new() }
    }

    /// Merges a definition file in.
    pub(super) fn add(&mut self, document: &Document) {
        for statement in &document.statements {
            match statement {
                Statement::Vm(node) if matches!(node.data, Data::Map(_)) => self.merge(&mut Vec::new(), node),
                Statement::Vm(node) => {
                    let vm = self.render(node);
                    if matches!(vm.data, Data::Map(_)) {
                        graft(&mut self.scope.vm, &vm, true);
                    } else if !vm.broken {
                        let message = format!("this gives {} for `vm`, which must be a mapping", vm.kind());
                        self.problems.push(match &node.place {
                            Some(place) => place.problem(message),
                            None => Problem::new(message),
                        });
                    }
                }
                Statement::Variable(name, node) => {
                    let value = self.render(node);
                    if let Data::Map(variables) = &mut Arc::make_mut(&mut self.scope.variables).data {
                        variables.insert(name.clone(), Entry::new(value));
                    }
                }
            }
        }
    }

    /// Sets a value that comes from no definition file.
    pub(super) fn set(&mut self, path: &[&str], value: Node) {
        let path: Vec<Arc<str>> = path.iter().map(|key| Arc::from(*key)).collect();
        change(&mut self.scope.vm, &path, |slot| *slot = Arc::new(value));
    }

    /// The result, unless there were problems.
    pub(super) fn finish(self) -> Result<Merged, Problems> {
        Problems::unless_empty(self.problems, Merged(self.scope.vm))
    }

    /// Merges `value` in at `path` of `vm`.
    fn merge(&mut self, path: &mut Vec<Arc<str>>, value: &Arc<Node>) {
        let Data::Map(entries) = &value.data else {
            let value = self.render(value);
            change(&mut self.scope.vm, path, |slot| *slot = value);
            return;
        };
        if !value.templated {
            change(&mut self.scope.vm, path, |slot| graft(slot, value, false));
            return;
        }
        let empty = Node { data: Data::Map(IndexMap::new()), templated: false, ..(**value).clone() };
        change(&mut self.scope.vm, path, |slot| graft(slot, &Arc::new(empty), false));
        for (key, entry) in entries {
            path.push(key.clone());
            self.merge(path, &entry.value);
            path.pop();
        }
    }

    /// A value with all templates in it rendered. What can't be is noted, and stands as a broken value for what uses it.
    fn render(&mut self, node: &Arc<Node>) -> Arc<Node> {
        if !node.templated {
            return node.clone();
        }
        let data = match &node.data {
            Data::Text(text) => {
                let rendered = self.templates.value(text, node.place.as_ref(), &self.scope, &mut self.budget);
                return rendered.unwrap_or_else(|problem| {
                    self.problems.extend(problem);
                    Arc::new(Node { broken: true, ..Node::new(Data::Null, node.place.clone()) })
                });
            }
            Data::List(items) => Data::List(items.iter().map(|item| self.render(item)).collect()),
            Data::Map(entries) => {
                let render = |(key, entry): (&Arc<str>, &Entry)| {
                    (key.clone(), Entry { key: entry.key.clone(), value: self.render(&entry.value) })
                };
                Data::Map(entries.iter().map(render).collect())
            }
            other => other.clone(),
        };
        Arc::new(Node { data, templated: false, ..(**node).clone() })
    }
}

/// Changes what stands at `path` below `node`, which becomes a mapping for that if need be.
fn change(node: &mut Arc<Node>, path: &[Arc<str>], how: impl FnOnce(&mut Arc<Node>)) {
    let Some((key, rest)) = path.split_first() else { return how(node) };
    let node = Arc::make_mut(node);
    let mut entries = match std::mem::replace(&mut node.data, Data::Null) {
        Data::Map(entries) => entries,
        _ => IndexMap::new(),
    };
    let null = || Entry::new(Arc::new(Node::new(Data::Null, None)));
    change(&mut entries.entry(key.clone()).or_insert_with(null).value, rest, how);
    node.data = Data::Map(entries);
}

/// Merges a rendered value into another one. Of a `computed` one, which an expression made out of all there was, only what it
/// changed counts: the rest stays where it came from.
fn graft(base: &mut Arc<Node>, over: &Arc<Node>, computed: bool) {
    if Arc::ptr_eq(base, over) {
        return;
    }
    let Data::Map(entries) = &over.data else {
        if !(computed && base == over) {
            *base = over.clone();
        }
        return;
    };
    if !matches!(base.data, Data::Map(_)) {
        *base = over.clone();
        return;
    }
    let base = Arc::make_mut(base);
    if !computed {
        base.place.clone_from(&over.place);
    }
    let Data::Map(own) = &mut base.data else { return };
    for (key, entry) in entries {
        match own.get_mut(key) {
            Some(old) => graft(&mut old.value, &entry.value, computed),
            None => {
                own.insert(key.clone(), entry.clone());
            }
        }
    }
}

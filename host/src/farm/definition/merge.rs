//! One machine out of several files: mappings are merged key by key, the later file winning; anything else replaces what was
//! there. Every text is rendered with what came before it.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::document::{Document, Statement};
use crate::{
    base::{Problem, Problems},
    farm::{
        template::{Rendering, Scope, Templates},
        yaml::{Data, Entry, Key, Mistake, Node, Place},
    },
};

/// The `vm` of a machine, and the variables that its files set. Each value knows where it comes from.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Merged(Scope);

impl Merged {
    /// The whole `vm`.
    pub(in crate::farm) fn root(&self) -> &Arc<Node> {
        &self.0.vm
    }

    /// `vm` without its places.
    pub(in crate::farm) fn value(&self) -> Value {
        self.0.vm.to_value()
    }

    /// What the machine's steps may see.
    pub(in crate::farm) fn scope(&self) -> &Scope {
        &self.0
    }

    /// Where the value at `path` of `vm` stands, or the deepest one on the way there that a file holds.
    pub(in crate::farm) fn place(&self, path: &[Key]) -> Option<&Place> {
        let mut node = self.root();
        let mut place = node.place.as_ref();
        for key in path {
            let Some(next) = node.step(key) else { break };
            place = next.place.as_ref().or(place);
            node = next;
        }
        place
    }

    /// Where the last key of `path` stands, or what it leads to.
    fn key_place(&self, path: &[Key]) -> Option<&Place> {
        let own = || {
            let (Key::Name(last), parents) = path.split_last()? else { return None };
            let mut node = self.root();
            for key in parents {
                node = node.step(key)?;
            }
            let Data::Map(entries) = &node.data else { return None };
            entries.get(last.as_str())?.key.as_ref()
        };
        own().or_else(|| self.place(path))
    }

    /// A mistake as a problem with what a file says. Without a place when no file does.
    pub(in crate::farm) fn problem(&self, mistake: Mistake) -> Result<Problem, Problem> {
        let place = if mistake.is_key { self.key_place(&mistake.path) } else { self.place(&mistake.path) };
        let help = |problem: Problem| match mistake.help {
            Some(help) => problem.help(help),
            None => problem,
        };
        match place {
            Some(place) => Ok(help(place.problem(mistake.message))),
            None => Err(help(Problem::new(mistake.message))),
        }
    }
}

/// A `vm` in the making.
pub(super) struct Merger<'a> {
    rendering: Rendering<'a>,
    /// The names of variables that no definition file changes.
    fixed: Vec<Arc<str>>,
}

impl<'a> Merger<'a> {
    pub(super) fn new(templates: &'a Templates, vm: Arc<Node>, variables: Arc<Node>) -> Self {
        Self { rendering: Rendering::new(templates, Scope { vm, variables }), fixed: Vec::new() }
    }

    /// Gives templates more variables: the entries of a mapping. When they are `fixed`, definition files don't change them.
    pub(super) fn variables(&mut self, variables: &Node, fixed: bool) {
        let Data::Map(entries) = &variables.data else { return };
        for (name, entry) in entries {
            let value = self.rendering.node(&entry.value);
            self.rendering.set(name, value);
            if fixed {
                self.fixed.push(name.clone());
            }
        }
    }

    /// Merges a definition file in.
    pub(super) fn add(&mut self, document: &Document) {
        for statement in &document.statements {
            match statement {
                Statement::Vm(node) if matches!(node.data, Data::Map(_)) => self.merge(&mut Vec::new(), node),
                Statement::Vm(node) => {
                    let vm = self.rendering.node(node);
                    if matches!(vm.data, Data::Map(_)) {
                        graft(&mut self.rendering.scope.vm, &vm, true);
                    } else if !vm.broken {
                        let message = format!("this gives {} for `vm`, which must be a mapping", vm.kind());
                        let problem = match &node.place {
                            Some(place) => place.problem(message),
                            None => Problem::new(message),
                        };
                        let help = "let it give all of `vm` with its changes: `{{ vm | combine({...}, recursive=True) }}`";
                        self.rendering.problems.push(problem.help(help));
                    }
                }
                Statement::Variable(name, _) if self.fixed.contains(name) => {}
                Statement::Variable(name, node) => {
                    let value = self.rendering.node(node);
                    self.rendering.set(name, value);
                }
            }
        }
    }

    /// Sets a value that comes from no definition file.
    pub(super) fn set(&mut self, path: &[&str], value: Node) {
        let path: Vec<Arc<str>> = path.iter().map(|key| Arc::from(*key)).collect();
        change(&mut self.rendering.scope.vm, &path, |slot| *slot = Arc::new(value));
    }

    /// The result, unless there were problems.
    pub(super) fn finish(self) -> Result<Merged, Problems> {
        Problems::unless_empty(self.rendering.problems, Merged(self.rendering.scope))
    }

    /// Merges `value` in at `path` of `vm`.
    fn merge(&mut self, path: &mut Vec<Arc<str>>, value: &Arc<Node>) {
        let Data::Map(entries) = &value.data else {
            let value = self.rendering.node(value);
            change(&mut self.rendering.scope.vm, path, |slot| *slot = value);
            return;
        };
        if !value.templated {
            change(&mut self.rendering.scope.vm, path, |slot| graft(slot, value, false));
            return;
        }
        let empty = Node { data: Data::Map(IndexMap::new()), templated: false, ..(**value).clone() };
        change(&mut self.rendering.scope.vm, path, |slot| graft(slot, &Arc::new(empty), false));
        for (key, entry) in entries {
            path.push(key.clone());
            self.merge(path, &entry.value);
            path.pop();
        }
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

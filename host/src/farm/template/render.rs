use std::sync::Arc;

use super::{Budget, Scope, Templates};
use crate::{
    base::Problem,
    farm::yaml::{Data, Entry, Node},
};

/// Values being rendered one after the other, with what they may see and what they may cost together.
pub(in crate::farm) struct Rendering<'a> {
    templates: &'a Templates,
    pub(in crate::farm) scope: Scope,
    budget: Budget,
    /// What could not be rendered.
    pub(in crate::farm) problems: Vec<Problem>,
}

impl<'a> Rendering<'a> {
    pub(in crate::farm) fn new(templates: &'a Templates, scope: Scope) -> Self {
        Self { templates, scope, budget: Budget::default(), problems: Vec::new() }
    }

    /// A value with all templates in it rendered. What can't be is noted, and stands as a broken value for what uses it.
    pub(in crate::farm) fn node(&mut self, node: &Arc<Node>) -> Arc<Node> {
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
            Data::List(items) => Data::List(items.iter().map(|item| self.node(item)).collect()),
            Data::Map(entries) => {
                let render = |(key, entry): (&Arc<str>, &Entry)| {
                    (key.clone(), Entry { key: entry.key.clone(), value: self.node(&entry.value) })
                };
                Data::Map(entries.iter().map(render).collect())
            }
            other => other.clone(),
        };
        Arc::new(Node { data, templated: false, ..(**node).clone() })
    }

    /// Gives templates a variable.
    pub(in crate::farm) fn set(&mut self, name: &Arc<str>, value: Arc<Node>) {
        if let Data::Map(variables) = &mut Arc::make_mut(&mut self.scope.variables).data {
            variables.insert(name.clone(), Entry::new(value));
        }
    }
}

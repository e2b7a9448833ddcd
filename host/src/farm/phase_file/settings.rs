//! Templates in a step's settings.

use std::sync::Arc;

use crate::{
    base::is_password_key,
    farm::yaml::{Data, Entry, Node},
};

/// A value in which only what has an expression or a statement counts as a template: shells write `${#name}`, which to Jinja
/// would begin a comment.
pub(super) fn as_step(node: &Arc<Node>) -> Arc<Node> {
    let data = match &node.data {
        _ if !node.templated => return node.clone(),
        Data::Text(text) if text.contains("{{") || text.contains("{%") => return node.clone(),
        Data::List(items) => Data::List(items.iter().map(as_step).collect()),
        Data::Map(entries) => {
            let entry = |(key, entry): (&Arc<str>, &Entry)| {
                (key.clone(), Entry { key: entry.key.clone(), value: as_step(&entry.value) })
            };
            Data::Map(entries.iter().map(entry).collect())
        }
        other => other.clone(),
    };
    let templated = match &data {
        Data::List(items) => items.iter().any(|item| item.templated),
        Data::Map(entries) => entries.values().any(|entry| entry.value.templated),
        _ => false,
    };
    Arc::new(Node { data, templated, ..(**node).clone() })
}

/// What in a rendered value comes from a password of the definition.
pub(super) fn hidden<'a>(written: &Node, rendered: &'a Arc<Node>) -> Option<&'a Arc<Node>> {
    match (&written.data, &rendered.data) {
        (Data::List(before), Data::List(after)) => {
            before.iter().zip(after).find_map(|(before, after)| hidden(before, after))
        }
        (Data::Map(before), Data::Map(after)) => before
            .values()
            .zip(after.values())
            .find_map(|(before, after)| hidden(&before.value, &after.value)),
        _ if written.templated => secret_in(rendered),
        _ => None,
    }
}

fn secret_in(node: &Arc<Node>) -> Option<&Arc<Node>> {
    if node.hidden {
        return Some(node);
    }
    match &node.data {
        Data::List(items) => items.iter().find_map(secret_in),
        Data::Map(entries) => entries.iter().find_map(|(key, entry)| {
            if is_password_key(key) { Some(&entry.value) } else { secret_in(&entry.value) }
        }),
        _ => None,
    }
}

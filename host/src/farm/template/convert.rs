//! From what a template gives to a value of the definition.

use std::sync::Arc;

use minijinja::{Value, value::ValueKind};
use serde_json::Number;

use super::{MAX_TEXT, context::Shown};
use crate::farm::yaml::{Data, Entry, Limits, Node, Place};

/// What is wrong with a template's result.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Something in it is not defined.
    Undefined,
    /// It is larger or deeper than a definition may be.
    TooLarge,
    /// A text in it has more bytes than a text may have.
    TooLong(usize),
    /// It is nothing that YAML could say.
    Kind(String),
}

/// A template's result as a value that stands at `place`. What is taken over from the definition as it is keeps its own place.
pub(super) fn node(value: &Value, place: Option<&Place>, limits: Limits) -> Result<Arc<Node>, Unusable> {
    let mut budget = limits.size;
    convert(value, place, limits.depth, &mut budget)
}

fn convert(
    value: &Value,
    place: Option<&Place>,
    depth: usize,
    budget: &mut usize,
) -> Result<Arc<Node>, Unusable> {
    if let Some(shown) = value.downcast_object_ref::<Shown>() {
        let size = shown.node.weigh(Limits { size: *budget, depth }).ok_or(Unusable::TooLarge)?;
        pay(budget, size)?;
        return Ok(shown.node.clone());
    }
    let depth = depth.checked_sub(1).ok_or(Unusable::TooLarge)?;
    pay(budget, Node::SIZE + value.as_str().map_or(0, str::len))?;
    let data = match value.kind() {
        ValueKind::Undefined => return Err(Unusable::Undefined),
        ValueKind::None => Data::Null,
        ValueKind::Bool => Data::Bool(value.is_true()),
        ValueKind::Number => number(value)?,
        // A template's result is not rendered once more.
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if text.len() > MAX_TEXT {
                return Err(Unusable::TooLong(text.len()));
            }
            return Ok(Arc::new(Node::literal(text, place.cloned())));
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|error| Unusable::Kind(error.to_string()))?;
            Data::List(items.map(|item| convert(&item, place, depth, budget)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let keys = value.try_iter().map_err(|error| Unusable::Kind(error.to_string()))?;
            let entry = |key: Value| {
                let item = value.get_item(&key).map_err(|error| Unusable::Kind(error.to_string()))?;
                let name = key.as_str().map_or_else(|| key.to_string().into(), Arc::from);
                Ok((name, Entry::new(convert(&item, place, depth, budget)?)))
            };
            Data::Map(keys.map(entry).collect::<Result<_, _>>()?)
        }
        other => {
            return Err(Unusable::Kind(format!("a template gave a {other}, which no definition can hold")));
        }
    };
    let mut node = Node::new(data, place.cloned());
    node.templated = false;
    Ok(Arc::new(node))
}

fn pay(budget: &mut usize, size: usize) -> Result<(), Unusable> {
    *budget = budget.checked_sub(size).ok_or(Unusable::TooLarge)?;
    Ok(())
}

fn number(value: &Value) -> Result<Data, Unusable> {
    let whole = value.as_i64().map(Number::from);
    let whole = whole.or_else(|| u64::try_from(value.clone()).ok().map(Number::from));
    let number = whole.or_else(|| f64::try_from(value.clone()).ok().and_then(Number::from_f64));
    number.map(Data::Number).ok_or_else(|| Unusable::Kind(format!("{value} is no number for a definition")))
}

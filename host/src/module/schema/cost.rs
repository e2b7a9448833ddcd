//! How much work it is to check settings against a schema. A schema is a stranger's, and a few lines of one can ask for a
//! check that takes for ever: references that lead back to themselves, or ones that double at each step.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// A check may look at so many places of the schema for each place of the settings.
const MAX_COST: u64 = 100_000;
/// So many schemas may stand within each other, references followed, for one place of the settings.
const MAX_NESTED: usize = 200;
/// So many patterns a schema may have: each takes memory.
const MAX_PATTERNS: usize = 256;
/// The draft that the contract names, and the only one.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords whose schemas are for the same place of the settings: one schema, several in a list, or several by name.
const SAME_PLACE: [&str; 8] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"];
/// Keywords whose schemas are for what lies in that place.
const BELOW: [&str; 9] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Of both, those that hold schemas by name.
const BY_NAME: [&str; 3] = ["dependentSchemas", "properties", "patternProperties"];
/// Keywords that give a schema other names. References are by path only.
const OTHER_NAMES: [&str; 6] =
    ["$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"];

/// Whether settings of this depth can be checked against a schema in bounded time. The error says what is against it.
pub(super) fn check(schema: &Value, depth: usize) -> Result<(), String> {
    let mut walk =
        Walk { root: schema, known: HashMap::new(), open: HashSet::new(), seen: HashSet::new(), patterns: 0 };
    if schema.get("$schema").is_some_and(|draft| draft != DRAFT) {
        return Err(format!("its `$schema` is not {DRAFT}"));
    }
    let cost = walk.cost(schema, depth)?;
    if cost > MAX_COST {
        return Err("checking settings against it would take too long".to_owned());
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Value,
    /// What is known to be the cost of a schema for settings of some depth.
    known: HashMap<(*const Value, usize), u64>,
    /// The schemas that are being looked at.
    open: HashSet<(*const Value, usize)>,
    /// The schemas that were looked at, for settings of whatever depth; and how many patterns they have.
    seen: HashSet<*const Map<String, Value>>,
    patterns: usize,
}

impl<'a> Walk<'a> {
    fn cost(&mut self, schema: &'a Value, depth: usize) -> Result<u64, String> {
        let Value::Object(keywords) = schema else { return Ok(1) };
        let key = (std::ptr::from_ref(schema), depth);
        if let Some(cost) = self.known.get(&key) {
            return Ok(*cost);
        }
        if !self.open.insert(key) {
            return Err("a reference leads back to itself".to_owned());
        }
        if self.open.len() > MAX_NESTED + depth {
            return Err(format!("its schemas nest deeper than {MAX_NESTED}"));
        }
        let cost = self.cost_of(keywords, depth)?;
        self.open.remove(&key);
        self.known.insert(key, cost);
        Ok(cost)
    }

    fn cost_of(&mut self, keywords: &'a Map<String, Value>, depth: usize) -> Result<u64, String> {
        if let Some(name) = OTHER_NAMES.iter().find(|name| keywords.contains_key(**name)) {
            return Err(format!("`{name}` is not supported"));
        }
        let by_pattern = keywords.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        if self.seen.insert(std::ptr::from_ref(keywords)) {
            self.patterns += by_pattern + usize::from(keywords.contains_key("pattern"));
        }
        if self.patterns > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        let mut cost = 1u64;
        if let Some(reference) = keywords.get("$ref") {
            cost = cost.saturating_add(self.cost(self.target(reference)?, depth)?);
        }
        for (name, value) in keywords {
            let depth = match name.as_str() {
                name if SAME_PLACE.contains(&name) => depth,
                // What lies deeper than the settings go is never looked at.
                name if BELOW.contains(&name) && depth > 0 => depth - 1,
                _ => continue,
            };
            for schema in schemas(name, value) {
                cost = cost.saturating_add(self.cost(schema, depth)?);
            }
        }
        Ok(cost)
    }

    fn target(&self, reference: &Value) -> Result<&'a Value, String> {
        let text = reference.as_str().unwrap_or_default();
        let target = text.strip_prefix('#').and_then(|path| self.root.pointer(path));
        target.ok_or_else(|| {
            let shown = super::super::text::one_line(text, 100);
            format!("the reference `{shown}` leads nowhere: references are `#` and a JSON Pointer")
        })
    }
}

/// The schemas that a keyword holds.
fn schemas<'a>(keyword: &str, value: &'a Value) -> Vec<&'a Value> {
    match value {
        Value::Object(by_name) if BY_NAME.contains(&keyword) => by_name.values().collect(),
        Value::Array(list) => list.iter().collect(),
        schema => vec![schema],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_as_people_and_schemars_write_them_are_fine() {
        let tree = json!({
            "$schema": DRAFT,
            "$ref": "#/$defs/tree",
            "$defs": { "tree": {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "pattern": "^[a-z]+$" },
                    "$ref": { "type": "string" },
                    "$id": { "const": { "$id": 1 } },
                    "children": { "type": "array", "items": { "$ref": "#/$defs/tree" } },
                },
                "additionalProperties": false,
            } },
        });
        for schema in [tree, json!({}), json!({ "anyOf": [true, { "enum": [{ "$ref": "#" }] }] })] {
            assert_eq!(check(&schema, 20), Ok(()), "{schema}");
        }
    }

    #[test]
    fn schemas_that_take_for_ever_are_refused() {
        let doubling = |keyword: &str, levels: u32| {
            let level = |level: u32| {
                let below = json!({ "$ref": format!("#/$defs/l{}", level + 1) });
                (format!("l{level}"), json!({ keyword: [below, below] }))
            };
            let mut definitions: Map<String, Value> = (0..levels).map(level).collect();
            definitions.insert(format!("l{levels}"), json!({}));
            json!({ "$ref": "#/$defs/l0", "$defs": definitions })
        };
        let chain = |length: u32| {
            let link = |at: u32| (format!("l{at}"), json!({ "$ref": format!("#/$defs/l{}", at + 1) }));
            let mut definitions: Map<String, Value> = (0..length).map(link).collect();
            definitions.insert(format!("l{length}"), json!({}));
            json!({ "$ref": "#/$defs/l0", "$defs": definitions })
        };
        let below = json!({ "properties": { "a": { "allOf": [{ "$ref": "#" }, { "$ref": "#" }] } } });
        let patterns: Vec<Value> = (0..300).map(|number| json!({ "pattern": number.to_string() })).collect();
        for (schema, depth, why) in [
            (json!({ "$ref": "#" }), 1, "leads back to itself"),
            (json!({ "not": { "$ref": "#" } }), 1, "leads back to itself"),
            (doubling("allOf", 40), 1, "too long"),
            (doubling("oneOf", 40), 1, "too long"),
            (below, 20, "too long"),
            (chain(5000), 1, "nest deeper"),
            (json!({ "anyOf": patterns }), 1, "patterns"),
            (json!({ "$dynamicRef": "#x" }), 1, "not supported"),
            (json!({ "$id": "http://x/y" }), 1, "not supported"),
            (json!({ "$schema": "http://json-schema.org/draft-04/schema#" }), 1, "`$schema`"),
            (json!({ "$ref": "http://example.com/" }), 1, "leads nowhere"),
            (json!({ "$ref": "#/missing" }), 1, "leads nowhere"),
        ] {
            let refused = check(&schema, depth).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}

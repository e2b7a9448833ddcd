mod cost;

use std::fmt;

use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use super::text;

/// Settings are at least taken to be this deep when a schema is judged.
const USUAL_DEPTH: usize = 4;
/// Deeper settings are not taken.
const MAX_DEPTH: usize = 64;
/// So much memory a pattern may take, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// So many problems are told at once.
const MAX_PROBLEMS: usize = 20;

/// A setting that a module does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsProblem {
    /// Where in the settings: a JSON Pointer (RFC 6901), empty for the settings as a whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// Whether the last key itself is wrong, not its value: the module knows no such setting.
    pub is_key: bool,
}

impl SettingsProblem {
    fn new(error: &ValidationError<'_>) -> Vec<Self> {
        let place = error.instance_path();
        let unknown = |key: &String| {
            let message = text::one_line(&format!("unknown key `{key}`"), 500);
            Self { path: place.join(key).to_string(), message, is_key: true }
        };
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                unexpected.iter().map(unknown).collect()
            }
            _ => {
                let message = text::one_line(&error.to_string(), 500);
                vec![Self { path: place.to_string(), message, is_key: false }]
            }
        }
    }
}

impl fmt::Display for SettingsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// A schema that settings can be checked against.
pub(super) struct Schema {
    schema: Value,
    validator: Validator,
}

impl Schema {
    /// Compiles a schema. References lead nowhere outside it; patterns are matched in linear time; and a schema that asks for
    /// more work than anybody's settings are worth is refused.
    pub(super) fn compile(schema: &Value) -> Result<Self, String> {
        if !schema.is_object() {
            return Err("its settings' schema is not a JSON object".to_owned());
        }
        let not_valid = |why: String| format!("its settings' schema is not valid: {why}");
        cost::check(schema, USUAL_DEPTH).map_err(not_valid)?;
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN);
        let validator = jsonschema::options().with_pattern_options(patterns).build(schema);
        let validator = validator.map_err(|error| not_valid(text::one_line(&error.to_string(), 300)))?;
        Ok(Self { schema: schema.clone(), validator })
    }

    /// Checks settings.
    pub(super) fn check(&self, settings: &Value) -> Result<(), Vec<SettingsProblem>> {
        let whole = |message: String| vec![SettingsProblem { path: String::new(), message, is_key: false }];
        let depth = depth(settings);
        if depth > MAX_DEPTH {
            return Err(whole(format!("they are nested deeper than {MAX_DEPTH}")));
        }
        cost::check(&self.schema, depth.max(USUAL_DEPTH))
            .map_err(|why| whole(format!("they can't be checked against the module's schema: {why}")))?;
        let problems: Vec<SettingsProblem> = self
            .validator
            .iter_errors(settings)
            .flat_map(|error| SettingsProblem::new(&error))
            .take(MAX_PROBLEMS)
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// How many lists and maps stand within each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

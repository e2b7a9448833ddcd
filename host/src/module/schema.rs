use std::fmt;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// So many problems are told at once.
const MAX_PROBLEMS: usize = 20;

/// A setting that a module does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsProblem {
    /// Where in the settings: a JSON Pointer (RFC 6901), empty for the settings as a whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
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

/// Compiles a schema. References lead nowhere outside it; patterns are matched in linear time.
pub(super) fn compile(schema: &Value) -> Result<Validator, String> {
    if !schema.is_object() {
        return Err("its settings' schema is not a JSON object".to_owned());
    }
    jsonschema::options().with_pattern_options(PatternOptions::regex()).build(schema).map_err(|error| {
        format!("its settings' schema is not valid: {}", super::text::one_line(&error.to_string(), 300))
    })
}

/// Checks settings.
pub(super) fn check(validator: &Validator, settings: &Value) -> Result<(), Vec<SettingsProblem>> {
    let problems: Vec<SettingsProblem> = validator
        .iter_errors(settings)
        .take(MAX_PROBLEMS)
        .map(|error| SettingsProblem {
            path: error.instance_path().to_string(),
            message: super::text::one_line(&error.to_string(), 500),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

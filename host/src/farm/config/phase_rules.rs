use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::{
    base::{Phase, Problem, SourceFile, parse_duration},
    farm::yaml,
};

/// How often a phase may be tried again, at most.
const MAX_RETRIES: u32 = 100;

/// What the farm says of each phase, under `per_phase`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PhaseRules {
    dependencies: PhaseRule,
    init: PhaseRule,
    main: PhaseRule,
    terminate: PhaseRule,
}

/// What the farm says of one phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PhaseRule {
    /// How old its checkpoint may get: for what no key can see, such as mirrors that move. Only for phases that have one.
    #[serde(deserialize_with = "span")]
    #[schemars(schema_with = "span_schema")]
    pub max_age: Option<Duration>,
    /// How long the whole phase may take.
    #[serde(deserialize_with = "span")]
    #[schemars(schema_with = "span_schema")]
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure, each time from where it started.
    pub retries: u32,
}

impl PhaseRules {
    /// What the farm says of a phase.
    pub fn of(&self, phase: Phase) -> &PhaseRule {
        match phase {
            Phase::Dependencies => &self.dependencies,
            Phase::Init => &self.init,
            Phase::Main => &self.main,
            Phase::Terminate => &self.terminate,
        }
    }

    /// For tests and callers that make rules themselves.
    pub fn of_mut(&mut self, phase: Phase) -> &mut PhaseRule {
        match phase {
            Phase::Dependencies => &mut self.dependencies,
            Phase::Init => &mut self.init,
            Phase::Main => &mut self.main,
            Phase::Terminate => &mut self.terminate,
        }
    }

    pub(super) fn check(&self, source: &SourceFile, problems: &mut Vec<Problem>) {
        for phase in Phase::ALL {
            let rule = self.of(phase);
            let place =
                |key: &str| yaml::find(source, &["per_phase".into(), phase.name().into(), key.into()]);
            if rule.max_age.is_some() && matches!(phase, Phase::Main | Phase::Terminate) {
                let problem = source
                    .problem(place("max_age"), format!("{phase} has no checkpoint that could be too old"));
                problems.push(problem.help("`max_age` is for `dependencies` and `init`"));
            }
            if rule.retries > MAX_RETRIES {
                let message = format!("{} retries are too many", rule.retries);
                let help = format!("write at most {MAX_RETRIES}");
                problems.push(source.problem(place("retries"), message).help(help));
            }
        }
    }
}

/// A number of seconds, or a text such as `7d`.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSpan {
    Seconds(u32),
    Text(String),
}

/// Reads an optional span of time.
pub(in crate::farm) fn span<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    const HELP: &str = "write a number of seconds, or a time such as `30m`, `12h` or `7d`";
    let written = Option::<WrittenSpan>::deserialize(deserializer)
        .map_err(|_| de::Error::custom(format!("this is no time\n{HELP}")))?;
    Ok(match written {
        None => None,
        Some(WrittenSpan::Seconds(seconds)) => Some(Duration::from_secs(seconds.into())),
        Some(WrittenSpan::Text(text)) => {
            let no_time = |_| de::Error::custom(format!("`{}` is no time\n{HELP}", text.escape_debug()));
            Some(parse_duration(&text).map_err(no_time)?)
        }
    })
}

fn span_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "A number of seconds, or a time such as `30m`, `12h` or `7d`.",
        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }, { "type": "null" }]
    })
}

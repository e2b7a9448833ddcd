use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::base::{Checkpoint, Phase};

/// An operation that `allowed_phases` can allow or leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Gate {
    /// Boot the machine.
    Startup,
    /// Go back to a checkpoint.
    Restore(Checkpoint),
    /// Make a checkpoint.
    Create(Checkpoint),
    /// Carry out a phase.
    Phase(Phase),
    /// Shut the machine down.
    Shutdown,
}

impl Gate {
    /// All gates, in the order in which a machine passes them.
    pub fn all() -> impl Iterator<Item = Self> {
        use Checkpoint::{Clean, Dependencies, Init};
        [
            Self::Startup,
            Self::Restore(Init),
            Self::Restore(Dependencies),
            Self::Restore(Clean),
            Self::Create(Clean),
            Self::Phase(Phase::Dependencies),
            Self::Create(Dependencies),
            Self::Phase(Phase::Init),
            Self::Create(Init),
            Self::Phase(Phase::Main),
            Self::Phase(Phase::Terminate),
            Self::Shutdown,
        ]
        .into_iter()
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Startup => f.write_str("startup"),
            Self::Restore(checkpoint) => write!(f, "restore {checkpoint}"),
            Self::Create(checkpoint) => write!(f, "create {checkpoint}"),
            Self::Phase(phase) => write!(f, "{phase}"),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

impl TryFrom<String> for Gate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::all().find(|gate| gate.to_string() == text).ok_or_else(|| {
            let known: Vec<_> = Self::all().map(|gate| format!("`{gate}`")).collect();
            format!("unknown operation `{text}`\nknown are {}", known.join(", "))
        })
    }
}

impl JsonSchema for Gate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Gate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = Self::all().map(String::from).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

impl From<Gate> for String {
    fn from(gate: Gate) -> Self {
        gate.to_string()
    }
}

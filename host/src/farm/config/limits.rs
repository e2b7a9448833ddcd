use std::{borrow::Cow, num::NonZeroU32};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::farm::bytes::{self, Bytes};

/// The largest size that can be written.
const MAX_SIZE: u64 = 16 << 30;

/// What phase modules may use up. What is absent keeps its default (see docs/modules.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Seconds that a module itself may compute in one step. Waiting for the guest does not count.
    pub cpu_time: Option<NonZeroU32>,
    /// Seconds in which a module must be compiled. Only for all modules.
    pub compile_time: Option<NonZeroU32>,
    /// Memory that compiling a module may take. Only for all modules.
    pub compile_memory: Option<Size>,
    /// All linear memories together.
    pub memory: Option<Size>,
    /// Elements of all tables together.
    pub table_elements: Option<usize>,
    /// Core instances, tables and memories in one component, each.
    pub instances: Option<usize>,
    /// Resources that a module may hold at once.
    pub handles: Option<usize>,
    /// What calls within a module may nest on. Only for all modules.
    pub stack: Option<Size>,
    /// What one call from the module to the host may carry.
    pub host_call_data: Option<Size>,
    /// What is kept of each of a command's output streams.
    pub captured_output: Option<Size>,
    /// What is shown or recorded of commands' output in one step.
    pub logged_output: Option<Size>,
    /// Lines that a module may log at once.
    pub log_burst: Option<u32>,
    /// How many more lines it may log each second after that.
    pub log_rate: Option<u32>,
    /// A file that is read from or written to the guest as a whole.
    pub file_size: Option<Size>,
    /// Files that may be read or written piece by piece at once.
    pub open_files: Option<usize>,
    /// A file that is read or written piece by piece.
    pub streamed_file_size: Option<Size>,
    /// Commands that may be open in a guest at once.
    pub commands: Option<usize>,
    /// Artifacts that one step may keep.
    pub artifacts: Option<usize>,
    /// All artifacts of one step together.
    pub artifact_data: Option<Size>,
    /// A module's file. Only for all modules.
    pub module_size: Option<Size>,
    /// One function's code. Only for all modules.
    pub function_size: Option<Size>,
}

impl LimitsConfig {
    /// A limit that is set and counts before it is known which module it is about: for all modules or for none.
    pub(super) fn only_for_all(&self) -> Option<&'static str> {
        let Self { compile_time, compile_memory, stack, module_size, function_size, .. } = self;
        let limits = [
            ("compile_time", compile_time.is_some()),
            ("compile_memory", compile_memory.is_some()),
            ("stack", stack.is_some()),
            ("module_size", module_size.is_some()),
            ("function_size", function_size.is_some()),
        ];
        limits.into_iter().find_map(|(name, is_set)| is_set.then_some(name))
    }
}

/// A number of bytes: `1048576`, `1 MiB`, `64K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(usize);

impl Size {
    /// The number of bytes.
    pub fn get(self) -> usize {
        self.0
    }
}

impl Bytes for Size {
    const EXPECTED: &str = "a size of at most 16 GiB: bytes, or a unit as in `64 KiB`, `256 MiB`, `1 GiB`";

    fn bounded(bytes: u64) -> Option<Self> {
        usize::try_from(bytes).ok().filter(|_| bytes <= MAX_SIZE).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer)
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, or a text with a unit (`64 KiB`, `256 MiB`, `1 GiB`).",
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": MAX_SIZE },
                { "type": "string", "pattern": "^ *[0-9]+ *([kKmMgG]([iI]?[bB])?|[bB])? *$" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (written, bytes) in [("512", 512), ("64 KiB", 64 << 10), ("256MiB", 256 << 20), ("1g", 1 << 30)] {
            assert_eq!(serde_yaml::from_str::<Size>(written).unwrap().get(), bytes, "{written}");
        }
        for written in ["-1", "17 GiB", "1 TiB", "much", "KiB", "[1]", "99999999999999999999 G", "1 kk"] {
            assert!(serde_yaml::from_str::<Size>(written).is_err(), "{written}");
        }
    }
}

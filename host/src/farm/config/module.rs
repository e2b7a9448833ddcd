use camino::Utf8PathBuf;
use schemars::JsonSchema;
use serde::Deserialize;

use super::LimitsConfig;
use crate::base::Grants;

/// Where a phase module is and what it may do.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// Its file, relative to `farm.yaml`; looked up by name when absent.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub path: Option<Utf8PathBuf>,
    /// What it may do: nothing, unless it stands here.
    #[serde(default)]
    pub grants: Grants,
    /// What it may use up, where that differs from the farm's `limits`.
    #[serde(default)]
    pub limits: LimitsConfig,
}

use camino::Utf8PathBuf;
use schemars::JsonSchema;
use serde::Deserialize;

use super::LimitsConfig;
use crate::{
    base::{Grants, Problem, SourceFile},
    farm::yaml,
};

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

impl ModuleConfig {
    pub(super) fn check<'a>(
        all: impl IntoIterator<Item = (&'a String, &'a Self)>,
        source: &SourceFile,
        problems: &mut Vec<Problem>,
    ) {
        for (name, module) in all {
            if let Some(limit) = module.limits.only_for_all() {
                let path = ["modules", name, "limits", limit].map(yaml::Key::from);
                let message = format!("`{limit}` can't be another one for a single module");
                let problem = source.problem(yaml::find(source, &path), message);
                problems.push(problem.help("set it for all modules, under `limits` of farm.yaml"));
            }
        }
    }
}

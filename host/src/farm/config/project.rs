use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml,
};

/// The project that a farm's checkpoints belong to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Stands in the names of its snapshots: letters, digits, `_` and `-`.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub id: String,
    /// Bump it to have all checkpoints made anew.
    #[serde(default)]
    pub revision: u32,
}

impl Project {
    pub(super) fn check(&self, source: &SourceFile, problems: &mut Vec<Problem>) {
        let id = &self.id;
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if id.is_empty() || id.len() > 64 || !id.chars().all(fine) {
            let message =
                format!("`{id}` is no project id: it needs 1 to 64 ASCII letters, digits, `_` or `-`");
            let help = "it stands in the names of snapshots: `id: my_project`";
            let place = yaml::find(source, &["project".into(), "id".into()]);
            problems.push(source.problem(place, message).help(help));
        }
    }
}

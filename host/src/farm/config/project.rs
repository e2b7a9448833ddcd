use serde::Deserialize;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml,
};

/// The project that a farm's checkpoints belong to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Stands in the names of its snapshots: letters, digits, `_` and `-`.
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
            problems.push(source.problem(yaml::find(source, &["project".into(), "id".into()]), message));
        }
    }
}

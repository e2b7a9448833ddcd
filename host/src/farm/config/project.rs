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
    /// Takes a text for a project's id, or says what one needs.
    ///
    /// # Errors
    /// When it is none.
    pub fn id(text: &str) -> Result<String, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
            return Err(format!(
                "`{text}` is no project id: it needs 1 to 64 ASCII letters, digits, `_` or `-`"
            ));
        }
        Ok(text.to_owned())
    }

    pub(super) fn check(&self, source: &SourceFile, problems: &mut Vec<Problem>) {
        if let Err(message) = Self::id(&self.id) {
            let help = "it stands in the names of snapshots: `id: my_project`";
            let place = yaml::find(source, &["project".into(), "id".into()]);
            problems.push(source.problem(place, message).help(help));
        }
    }
}

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    base::{Problem, Secret, SourceFile},
    farm::yaml::{self, Key},
};

/// The largest secret that is read.
const MAX_SECRET: usize = 64 << 10;

/// Where a secret's value comes from when farmhand runs. It is read just before a run, and never kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// An environment variable of farmhand's own.
    Env(String),
    /// A file on this host, relative to `farm.yaml`; a newline at its end does not count.
    File(#[schemars(with = "String")] Utf8PathBuf),
}

impl SecretSource {
    /// The value. The error says what is wrong, never what is in it.
    pub fn read(&self, root: &Utf8Path) -> Result<Secret, String> {
        let value = match self {
            Self::Env(name) => {
                std::env::var(name).map_err(|error| format!("environment variable {name}: {error}"))?
            }
            Self::File(path) => {
                let path = root.join(path);
                let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
                text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
            }
        };
        match value.len() {
            0 => Err("it is empty".to_owned()),
            length if length > MAX_SECRET => Err(format!("it is larger than {MAX_SECRET} bytes")),
            _ => Ok(Secret::new(value)),
        }
    }
}

/// Whether a text can name a secret: a letter or `_`, then letters, digits and `_`, 64 at most.
pub fn is_secret_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.len() <= 64 && name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

pub(super) fn check(
    secrets: &IndexMap<String, SecretSource>,
    source: &SourceFile,
    problems: &mut Vec<Problem>,
) {
    for name in secrets.keys().filter(|name| !is_secret_name(name)) {
        let place = [Key::from("secrets"), name.as_str().into()];
        let message = format!("`{name}` can't name a secret: it needs letters, digits and `_`");
        let help = "steps hand it over by this name: `with: { token: { secret: DEPLOY_TOKEN } }`";
        problems.push(source.problem(yaml::find_key(source, &place), message).help(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(home.path()).unwrap();
        std::fs::write(root.join("token"), "s3cret\n").unwrap();
        std::fs::write(root.join("empty"), "\n").unwrap();
        let read = |kind: &str, name: &str| {
            let source = serde_json::json!({ kind: name });
            serde_json::from_value::<SecretSource>(source).unwrap().read(root)
        };
        let secret = read("file", "token").unwrap();
        assert_eq!(secret.reveal(), "s3cret");
        assert!(!format!("{secret:?}").contains("s3cret"));
        assert!(read("file", "empty").unwrap_err().contains("empty"));
        assert!(read("file", "missing").unwrap_err().contains("missing"));
        assert!(read("env", "FARMHAND_NO_SUCH_VARIABLE").unwrap_err().contains("FARMHAND_NO_SUCH_VARIABLE"));
    }
}

use std::{borrow::Cow, collections::BTreeSet, fmt};

use globset::{GlobBuilder, GlobMatcher};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the operator lets a phase module do. Nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Run commands in the guest as the login user.
    #[serde(skip_serializing_if = "is_false")]
    pub exec: bool,
    /// Become root in the guest.
    #[serde(skip_serializing_if = "is_false")]
    pub r#become: bool,
    /// Read and write files in the guest: those whose paths match one of these globs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathGlob>,
    /// Have these secrets put into commands and files.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    /// Keep files in the run's folder.
    #[serde(skip_serializing_if = "is_false")]
    pub artifacts: bool,
    /// See what is known of the guest's operating system.
    #[serde(skip_serializing_if = "is_false")]
    pub facts: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
fn is_false(granted: &bool) -> bool {
    !granted
}

impl Grants {
    /// Whether a file's absolute path is granted.
    pub fn file(&self, path: &str) -> bool {
        self.files.iter().any(|glob| glob.matches(path))
    }
}

/// As they stand in a farm file: `{ exec: true, files: ["/etc/motd"] }`.
impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let switches = [("exec", self.exec), ("become", self.r#become)];
        parts.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}: true")));
        // JSON's strings are YAML's, too.
        let mut list = |name: &str, values: Vec<&str>| {
            if !values.is_empty() {
                let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                parts.push(format!("{name}: [{}]", values.join(", ")));
            }
        };
        list("files", self.files.iter().map(PathGlob::as_str).collect());
        list("secrets", self.secrets.iter().map(String::as_str).collect());
        let switches = [("artifacts", self.artifacts), ("facts", self.facts)];
        parts.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}: true")));
        if parts.is_empty() { f.write_str("{}") } else { write!(f, "{{ {} }}", parts.join(", ")) }
    }
}

/// A glob over absolute paths in a guest: `*` and `?` stay within one folder, `**` goes through folders.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathGlob(GlobMatcher);

impl PathGlob {
    /// Whether an absolute path matches it.
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.glob().glob()
    }

    /// The glob that matches this path alone, if it can be one.
    pub fn of_path(path: &str) -> Result<Self, PathGlobError> {
        globset::escape(path).try_into()
    }
}

/// The text is not a glob over absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a glob over absolute paths: {why}")]
pub struct PathGlobError {
    text: String,
    why: String,
}

impl TryFrom<String> for PathGlob {
    type Error = PathGlobError;

    fn try_from(text: String) -> Result<Self, PathGlobError> {
        let error = |why: &str| PathGlobError { text: text.clone(), why: why.to_owned() };
        if !text.starts_with('/') {
            return Err(error("it has to begin with `/`, as in `/etc/**`"));
        }
        if text.split('/').any(|part| part == "..") {
            return Err(error("`..` leads elsewhere than it seems to"));
        }
        let glob = GlobBuilder::new(&text).literal_separator(true).backslash_escape(true).build();
        glob.map(|glob| Self(glob.compile_matcher())).map_err(|wrong| error(&wrong.kind().to_string()))
    }
}

impl From<PathGlob> for String {
    fn from(glob: PathGlob) -> Self {
        glob.as_str().to_owned()
    }
}

impl PartialEq for PathGlob {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for PathGlob {}

impl JsonSchema for PathGlob {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PathGlob".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A glob over absolute paths in a guest. `*` stays within a folder, `**` goes through folders.",
            "type": "string",
            "pattern": "^/",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Result<PathGlob, PathGlobError> {
        text.to_owned().try_into()
    }

    #[test]
    fn globs_stay_where_they_say() {
        for (text, path, expected) in [
            ("/etc/motd", "/etc/motd", true),
            ("/etc/motd", "/etc/motd2", false),
            ("/etc/*", "/etc/motd", true),
            ("/etc/*", "/etc/apt/sources.list", false),
            ("/etc/**", "/etc/apt/sources.list", true),
            ("/etc/**", "/etc2/x", false),
            ("/home/*/.ssh/*", "/home/ci/.ssh/config", true),
            ("/home/*/.ssh/*", "/home/a/b/.ssh/config", false),
            ("/**", "/anything/at/all", true),
        ] {
            assert_eq!(glob(text).unwrap().matches(path), expected, "{text} {path}");
        }
        assert!(PathGlob::of_path("/srv/[a]*").unwrap().matches("/srv/[a]*"));
        assert!(!PathGlob::of_path("/srv/[a]*").unwrap().matches("/srv/ab"));
    }

    #[test]
    fn what_is_no_glob_is_not_a_grant() {
        for text in ["", "etc/motd", "~/.ssh", "/etc/../root/x", "/etc/[", "*"] {
            assert!(glob(text).is_err(), "{text}");
        }
    }

    #[test]
    fn written_as_they_are_read() {
        let text = r#"{ exec: true, become: true, files: ["/etc/**"], secrets: ["TOKEN"], facts: true }"#;
        let grants: Grants = serde_yaml::from_str(text).unwrap();
        assert_eq!(grants.to_string(), text);
        assert_eq!(Grants::default().to_string(), "{}");
    }
}

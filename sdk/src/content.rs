use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::bindings::farmhand::phase::guest::Content;

/// A secret as it stands in a step's settings: `{ secret: NAME }`. Its value is never here: the host puts it where
/// [`Content`] goes, into a variable, a command's input or a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The secret's name in the farm file.
    secret: String,
}

impl Secret {
    /// The secret of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { secret: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.secret
    }
}

/// A setting that may be a text or a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TextOrSecret {
    /// A text.
    Text(String),
    /// A secret.
    Secret(Secret),
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Content {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes())
    }
}

impl From<&String> for Content {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<Secret> for Content {
    fn from(secret: Secret) -> Self {
        Self::Secret(secret.secret)
    }
}

impl From<&Secret> for Content {
    fn from(secret: &Secret) -> Self {
        secret.clone().into()
    }
}

impl From<TextOrSecret> for Content {
    fn from(value: TextOrSecret) -> Self {
        match value {
            TextOrSecret::Text(text) => text.into(),
            TextOrSecret::Secret(secret) => secret.into(),
        }
    }
}

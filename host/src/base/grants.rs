use serde::Deserialize;

/// What the operator lets a phase module do. Nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Run commands in the guest as the login user.
    pub exec: bool,
    /// Become root in the guest.
    pub r#become: bool,
    /// Read and write files in the guest.
    pub files: bool,
}

use std::fmt;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// How to log in to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The login user.
    pub user: String,
    /// How the user proves who it is. Tried in order.
    pub credentials: Vec<Credential>,
    /// How the user becomes root.
    pub r#become: Become,
}

/// Proof of who a login user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A private key file in OpenSSH's format, without a passphrase.
    Key(Utf8PathBuf),
    /// A password.
    Password(Secret),
}

/// How a login user becomes another one (root, unless the definition says otherwise).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Become {
    /// With which program.
    pub method: BecomeMethod,
    /// Which user to become.
    pub user: String,
    /// The password that the program asks for: the other user's for `su`, the login user's own for `sudo`.
    pub password: Option<Secret>,
}

/// The program with which a login user becomes another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BecomeMethod {
    /// su(1)
    Su,
    /// sudo(8)
    #[default]
    Sudo,
}

/// A text that is never printed. `Debug` shows dots.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Whether the value of a definition's key of this name must not be shown.
pub fn is_password_key(name: &str) -> bool {
    ["password", "passwd", "passphrase"].iter().any(|word| name.contains(word))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

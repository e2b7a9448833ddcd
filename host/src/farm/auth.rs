//! How farmhand logs in to a machine and becomes root there.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::first_boot::FirstBootUser;
use crate::base::{Become, BecomeMethod, Credential, Login, Secret};

/// `vm.metadata.auth`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    #[serde(default = "root")]
    user: String,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    ssh_key: Option<Utf8PathBuf>,
    #[serde(default)]
    become_method: BecomeMethod,
    #[serde(default = "root")]
    become_user: String,
    #[serde(default)]
    become_password: Option<Secret>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            user: root(),
            password: None,
            ssh_key: None,
            become_method: BecomeMethod::default(),
            become_user: root(),
            become_password: None,
        }
    }
}

fn root() -> String {
    "root".to_owned()
}

impl Auth {
    /// Makes paths absolute. They are relative to the farm's folder.
    pub(super) fn relative_to(self, root: &Utf8Path) -> Self {
        Self { ssh_key: self.ssh_key.map(|path| root.join(path)), ..self }
    }

    /// Whether it names no way to log in.
    pub(super) fn is_open(&self) -> bool {
        self.password.is_none() && self.ssh_key.is_none()
    }

    /// The user that farmhand logs in as.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// The login user, as it is made at the first boot.
    pub(super) fn first_boot_user(&self) -> FirstBootUser {
        FirstBootUser {
            name: self.user.clone(),
            password: self.password.clone(),
            public_keys: Vec::new(),
            private_keys: self.ssh_key.iter().cloned().collect(),
            login_key: true,
        }
    }

    /// The password of root, if `su` needs it.
    pub(super) fn root_password(&self) -> Option<&Secret> {
        let by_su = self.become_method == BecomeMethod::Su && self.become_user == "root";
        self.become_password.as_ref().filter(|_| by_su)
    }

    /// How to log in. `login_key` is farmhand's own key, where the guest has it.
    pub(super) fn login(&self, login_key: Option<&Utf8Path>) -> Login {
        let mut credentials = Vec::new();
        credentials.extend(login_key.map(|key| Credential::Key(key.to_owned())));
        credentials.extend(self.ssh_key.clone().map(Credential::Key));
        credentials.extend(self.password.clone().map(Credential::Password));
        // sudo asks for the login user's own password.
        let own = (self.become_method == BecomeMethod::Sudo).then(|| self.password.clone()).flatten();
        let password = self.become_password.clone().or(own);
        let r#become = Become { method: self.become_method, user: self.become_user.clone(), password };
        Login { user: self.user.clone(), credentials, r#become }
    }
}

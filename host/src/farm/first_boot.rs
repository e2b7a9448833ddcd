//! What cloud-init does at a machine's first boot: `vm.metadata.cloud_init`.

use camino::Utf8PathBuf;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    auth::Auth,
    source::{ImageSetup, PublicKey, is_plain_name},
    yaml::{Key, Mistake},
};
use crate::base::{Digest, Secret};

/// Keys of the user data that farmhand keeps for itself: the host key that it pins before the first boot.
const RESERVED: [&str; 3] = ["ssh_keys", "ssh_deletekeys", "ssh_genkeytypes"];
/// Stands in the digest: another number when the same definition gives another seed.
const VERSION: u32 = 1;

/// `vm.metadata.cloud_init`: whether the image has cloud-init, and what it is told beside what farmhand tells it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected true, false, or a mapping with `user_data` and `network_config`")]
pub(super) enum CloudInit {
    Flag(bool),
    Data(CloudInitData),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CloudInitData {
    #[serde(default)]
    user_data: Map<String, Value>,
    #[serde(default)]
    network_config: Option<Map<String, Value>>,
}

/// What cloud-init is told at a machine's first boot.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstBoot {
    /// The guest's host name.
    pub hostname: String,
    /// Who can log in.
    pub users: Vec<FirstBootUser>,
    /// root's password, if it gets one.
    pub root_password: Option<Secret>,
    /// More cloud-config, over what farmhand makes of the above.
    pub user_data: Map<String, Value>,
    /// How its network is configured; cloud-init's default (DHCP) if absent.
    pub network_config: Option<Map<String, Value>>,
}

/// A user that is made at the first boot if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstBootUser {
    /// Its name.
    pub name: String,
    /// Its password, if it gets one.
    pub password: Option<Secret>,
    /// Public keys that may log in.
    pub public_keys: Vec<PublicKey>,
    /// Private keys whose public halves may log in.
    pub private_keys: Vec<Utf8PathBuf>,
    /// Whether farmhand's own key may log in.
    pub login_key: bool,
}

impl CloudInit {
    /// What is asked for, if anything is.
    fn data(self) -> Result<Option<CloudInitData>, Mistake> {
        let data = match self {
            Self::Flag(false) => return Ok(None),
            Self::Flag(true) => CloudInitData::default(),
            Self::Data(data) => data,
        };
        let place = |key: &str| -> Vec<Key> {
            vec!["metadata".into(), "cloud_init".into(), "user_data".into(), key.into()]
        };
        if let Some(key) = RESERVED.iter().find(|key| data.user_data.contains_key(**key)) {
            let message = format!(
                "`{key}` can't be set: farmhand makes the machine's SSH host key itself, to know it before the first connection"
            );
            return Err(Mistake::new(place(key), message).help("leave it out"));
        }
        if data.user_data.get("users").is_some_and(|users| !users.is_array()) {
            let help = "write `users: [{ name: ada }]`; the login user of vm.metadata.auth is made anyway";
            return Err(Mistake::new(place("users"), "`users` must be a list").help(help));
        }
        Ok(Some(data))
    }
}

impl FirstBoot {
    /// The first boot of a machine: of a definition's `cloud_init` and login, and of what its images' `setup_image` say.
    /// `None` when its image has no cloud-init.
    pub(super) fn new(
        hostname: String,
        cloud_init: Option<CloudInit>,
        auth: &Auth,
        setups: &[&ImageSetup],
    ) -> Result<Option<Self>, Mistake> {
        if !is_plain_name(&hostname) {
            let message = format!("`{hostname}` is no host name");
            let mistake = Mistake::new(["metadata", "hostname"], message);
            return Err(mistake.help("write letters, digits, `-`, `_` and `.`"));
        }
        let Some(CloudInitData { user_data, network_config }) =
            cloud_init.map(CloudInit::data).transpose()?.flatten()
        else {
            if setups.is_empty() {
                return Ok(None);
            }
            let message = "setup_image is done by cloud-init at the first boot, and this machine has none";
            let help = "if the image has cloud-init, set vm.metadata.cloud_init: true; else leave setup_image out, and say in vm.metadata.auth how the image lets users in";
            return Err(Mistake::new(["metadata", "sources"], message).help(help));
        };
        let root_password = auth.root_password().cloned();
        let users = vec![auth.first_boot_user()];
        let mut first_boot = Self { hostname, users, root_password, user_data, network_config };
        setups.iter().for_each(|setup| first_boot.add(setup));
        Ok(Some(first_boot))
    }

    /// Takes over what `setup_image` says.
    fn add(&mut self, setup: &ImageSetup) {
        let ImageSetup { root_password, hostname, user, password, ssh_key } = setup;
        self.root_password = root_password.clone().or(self.root_password.take());
        if let Some(hostname) = hostname {
            self.hostname.clone_from(hostname);
        }
        let name = user.as_deref().unwrap_or("root");
        if user.is_none() && ssh_key.is_none() {
            return;
        }
        let index = self.users.iter().position(|user| user.name == name).unwrap_or_else(|| {
            self.users.push(FirstBootUser {
                name: name.to_owned(),
                password: None,
                public_keys: Vec::new(),
                private_keys: Vec::new(),
                login_key: false,
            });
            self.users.len() - 1
        });
        if let Some(user) = self.users.get_mut(index) {
            user.password = password.clone().or(user.password.take());
            user.public_keys.extend(ssh_key.clone());
        }
    }

    /// A digest of everything but secrets and farmhand's own keys: another one means that the machine would become another.
    pub fn digest(&self) -> Digest {
        let users: Vec<_> = self
            .users
            .iter()
            .map(|user| json!([user.name, user.password.is_some(), user.public_keys, user.private_keys]))
            .collect();
        let mut user_data = Value::Object(self.user_data.clone());
        without_secrets(&mut user_data);
        let all = json!([
            VERSION,
            self.hostname,
            users,
            self.root_password.is_some(),
            user_data,
            self.network_config
        ]);
        Digest::of(all.to_string())
    }
}

/// That there is a password counts, not which.
fn without_secrets(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        Value::Object(entries) => entries.iter_mut().for_each(|(key, value)| {
            let is_text = value.is_string();
            if is_text && ["passw", "secret", "token", "private"].iter().any(|word| key.contains(word)) {
                *value = Value::Bool(true);
            } else {
                without_secrets(value);
            }
        }),
        _ => {}
    }
}

/// A machine's name as a host name: letters, digits and dashes (RFC 1123).
pub(super) fn as_hostname(name: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let hostname: String = name.chars().map(fine).take(63).collect();
    hostname.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_boot(user_data: Value, setups: &[&ImageSetup]) -> FirstBoot {
        let cloud_init: CloudInit = serde_json::from_value(json!({ "user_data": user_data })).unwrap();
        let auth = Auth::default();
        FirstBoot::new("debian".into(), Some(cloud_init), &auth, setups).unwrap().unwrap()
    }

    #[test]
    fn digest_covers_what_is_done_and_no_secret() {
        let digest = |user_data: Value| first_boot(user_data, &[]).digest();
        let packages = digest(json!({ "packages": ["curl"] }));
        assert_ne!(packages, digest(json!({ "packages": ["wget"] })));
        let password = |text: &str| json!({ "users": [{ "name": "a", "hashed_passwd": text }] });
        assert_eq!(digest(password("one")), digest(password("two")));
        assert_ne!(digest(password("one")), digest(json!({ "users": [{ "name": "a" }] })));

        let with = |setup: ImageSetup| first_boot(json!({}), &[&setup]).digest();
        let none = with(ImageSetup::default());
        let root =
            |text: &str| with(ImageSetup { root_password: Some(Secret::new(text)), ..ImageSetup::default() });
        assert_eq!(none, digest(json!({})));
        assert_ne!(none, root("one"));
        assert_eq!(root("one"), root("two"));
    }

    #[test]
    fn host_names_are_made_of_any_name() {
        for (name, hostname) in [("debian_vs_amd64", "debian-vs-amd64"), ("VM a.b", "vm-a-b"), ("a_", "a")] {
            assert_eq!(as_hostname(name), hostname);
        }
    }
}

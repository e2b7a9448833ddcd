//! Sees to it that a user of the guest is there, as it should be, or is not there.
//!
//! By getent(1), so that users from elsewhere (LDAP) count, too; changed by useradd(8), usermod(8) and userdel(8).

use std::collections::BTreeSet;

use farmhand_sdk::prelude::*;

/// The module.
pub struct User;

/// The settings of a `user` step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
pub struct Settings {
    /// The login name.
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_-]*\$?$"), length(max = 32))]
    name: String,
    /// What is wanted of the user.
    #[serde(default)]
    state: State,
    /// The number; the next free one by default.
    uid: Option<u32>,
    /// The home folder; the system's default when absent. It is made with the user.
    #[schemars(regex(pattern = r"^/[^:\n]*$"))]
    home: Option<String>,
    /// The login shell; the system's default when absent.
    #[schemars(regex(pattern = r"^/[^:\n]*$"))]
    shell: Option<String>,
    /// Groups that the user must be in, beside those that it is in already. They must be there.
    #[serde(default)]
    #[schemars(inner(regex(pattern = r"^[a-z_][a-z0-9_-]*\$?$")))]
    groups: Vec<String>,
    /// A system user: without a home folder unless `home` says one.
    #[serde(default)]
    system: bool,
    /// With `state: absent`: remove the home folder and the mails, too.
    #[serde(default)]
    remove_home: bool,
}

/// What is wanted of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
enum State {
    /// It is there.
    #[default]
    Present,
    /// It is not there.
    Absent,
}

impl PhaseModule for User {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Makes, changes and removes users")
            .asks_for(Capability::Exec, "runs getent, useradd, usermod and userdel")
            .asks_for(Capability::Become, "only root may change users")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let name = settings.name.as_str();
        match (Entry::query(name, guest)?, settings.state) {
            (None, State::Absent) => Ok(Outcome::unchanged(format!("{name} is not there"))),
            (Some(_), State::Absent) => {
                let remove: &[&str] = if settings.remove_home { &["--remove"] } else { &[] };
                guest.command(["userdel"]).args(remove.iter().copied()).args(["--", name]).run()?;
                Ok(Outcome::changed(format!("removed {name}")))
            }
            (None, State::Present) => {
                guest.command(["useradd"]).args(settings.to_add()).args(["--", name]).run()?;
                Ok(Outcome::changed(format!("added {name}")))
            }
            (Some(entry), State::Present) => {
                let changes = settings.to_change(&entry, guest)?;
                if changes.is_empty() {
                    return Ok(Outcome::unchanged(format!("{name} is as it should be")));
                }
                guest.command(["usermod"]).args(changes).args(["--", name]).run()?;
                Ok(Outcome::changed(format!("changed {name}")))
            }
        }
    }
}

farmhand_sdk::phase_module!(User);

impl Settings {
    /// Options of useradd.
    fn to_add(&self) -> Vec<String> {
        let mut options = Vec::new();
        options.extend(self.system.then(|| "--system".to_owned()));
        if !self.system || self.home.is_some() {
            options.push("--create-home".to_owned());
        }
        options.extend(self.uid.map(|uid| format!("--uid={uid}")));
        options.extend(self.home.as_ref().map(|home| format!("--home-dir={home}")));
        options.extend(self.shell.as_ref().map(|shell| format!("--shell={shell}")));
        if !self.groups.is_empty() {
            options.push(format!("--groups={}", self.groups.join(",")));
        }
        options
    }

    /// Options of usermod, for what is not as it should be.
    fn to_change(&self, entry: &Entry, guest: &Guest) -> Result<Vec<String>, Failure> {
        let mut options = Vec::new();
        options.extend(self.uid.filter(|uid| *uid != entry.uid).map(|uid| format!("--uid={uid}")));
        if let Some(home) = self.home.as_ref().filter(|home| **home != entry.home) {
            options.extend([format!("--home={home}"), "--move-home".to_owned()]);
        }
        let shell = self.shell.as_ref().filter(|shell| **shell != entry.shell);
        options.extend(shell.map(|shell| format!("--shell={shell}")));
        if !self.groups.is_empty() {
            let of = guest.read(["id", "--name", "--groups", "--", &self.name])?;
            let of: BTreeSet<&str> = of.split_whitespace().collect();
            let missing: Vec<&str> =
                self.groups.iter().map(String::as_str).filter(|group| !of.contains(group)).collect();
            if !missing.is_empty() {
                options.extend(["--append".to_owned(), format!("--groups={}", missing.join(","))]);
            }
        }
        Ok(options)
    }
}

/// A line of passwd(5).
struct Entry {
    uid: u32,
    home: String,
    shell: String,
}

impl Entry {
    fn query(name: &str, guest: &Guest) -> Result<Option<Self>, Failure> {
        // 2: there is no such entry.
        let command = guest.command(["getent", "passwd", "--", name]).read_only().expect_status([0, 2]);
        let output = command.run()?;
        if !output.success() {
            return Ok(None);
        }
        let text = output.text();
        let fields: Vec<&str> = text.trim_end().split(':').collect();
        match fields[..] {
            [_, _, uid, _, _, home, shell] => Ok(Some(Self {
                uid: uid.parse().map_err(|_| unreadable(&text))?,
                home: home.to_owned(),
                shell: shell.to_owned(),
            })),
            _ => Err(unreadable(&text)),
        }
    }
}

fn unreadable(text: &str) -> Failure {
    Failure::UnsupportedGuest(format!(
        "getent passwd gives what is not a line of passwd(5): {}",
        text.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use farmhand_sdk::testing::{Script, context};
    use serde_json::json;

    use super::*;

    fn entry(guest: &Script, line: Option<&str>) {
        let answer = guest.expect(["getent", "passwd", "--", "ci"]).as_root();
        match line {
            Some(line) => drop(answer.stdout(line)),
            None => drop(answer.exits(2)),
        }
    }

    fn run(guest: &Script, settings: serde_json::Value) -> Outcome {
        guest.run_module::<User>(&context().as_root(), settings).unwrap()
    }

    #[test]
    fn a_user_is_added() {
        let guest = Script::new();
        entry(&guest, None);
        let options = ["--create-home", "--uid=1500", "--shell=/bin/bash", "--groups=sudo,kvm"];
        guest.expect(["useradd"].into_iter().chain(options).chain(["--", "ci"])).as_root();
        let settings = json!({ "name": "ci", "uid": 1500, "shell": "/bin/bash", "groups": ["sudo", "kvm"] });
        assert_eq!(run(&guest, settings), Outcome::changed("added ci"));

        let guest = Script::new();
        entry(&guest, None);
        guest.expect(["useradd", "--system", "--", "ci"]).as_root();
        assert_eq!(run(&guest, json!({ "name": "ci", "system": true })), Outcome::changed("added ci"));
    }

    #[test]
    fn only_what_is_not_as_it_should_be_is_changed() {
        let settings =
            || json!({ "name": "ci", "home": "/srv/ci", "shell": "/bin/sh", "groups": ["sudo", "kvm"] });
        let guest = Script::new();
        entry(&guest, Some("ci:x:1000:1000:,,,:/home/ci:/bin/sh\n"));
        guest.expect(["id", "--name", "--groups", "--", "ci"]).as_root().stdout("ci sudo\n");
        let options = ["--home=/srv/ci", "--move-home", "--append", "--groups=kvm"];
        guest.expect(["usermod"].into_iter().chain(options).chain(["--", "ci"])).as_root();
        assert_eq!(run(&guest, settings()), Outcome::changed("changed ci"));

        let guest = Script::new();
        entry(&guest, Some("ci:x:1000:1000::/srv/ci:/bin/sh\n"));
        guest.expect(["id", "…"]).as_root().stdout("ci sudo kvm\n");
        assert_eq!(run(&guest, settings()), Outcome::unchanged("ci is as it should be"));
    }

    #[test]
    fn a_user_is_removed_once() {
        let settings = || json!({ "name": "ci", "state": "absent", "remove_home": true });
        let guest = Script::new();
        entry(&guest, Some("ci:x:1000:1000::/home/ci:/bin/sh\n"));
        guest.expect(["userdel", "--remove", "--", "ci"]).as_root();
        assert_eq!(run(&guest, settings()), Outcome::changed("removed ci"));
        let guest = Script::new();
        entry(&guest, None);
        assert_eq!(run(&guest, settings()), Outcome::unchanged("ci is not there"));
    }
}

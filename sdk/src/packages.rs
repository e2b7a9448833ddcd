//! What the modules that provide `package` share: their settings, and what changed between two lists of packages. A module
//! for another package manager takes the same settings, so that a farm's steps need not care which one it is.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Failure, Guest, Outcome};

/// The settings of a `package` step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Bring the list of available packages up to date first.
    pub update: bool,
    /// Leave that out when the list is known to be younger than this many seconds, by the guest's clock. 0: never leave it out.
    pub cache_valid_time: u32,
    /// Upgrade what is installed. `dist` may also remove packages to get there.
    pub upgrade: Upgrade,
    /// Packages, by name, or `name=version` for an exact version.
    #[schemars(inner(
        regex(pattern = r"^[A-Za-z0-9@][A-Za-z0-9@._+:-]*(=[A-Za-z0-9._+:~*-]+)?$"),
        length(max = 256)
    ))]
    #[schemars(length(max = 4096))]
    pub packages: Vec<String>,
    /// What is wanted of the packages.
    pub state: State,
    /// Repositories that must be known, beside those of the system.
    #[schemars(length(max = 64))]
    pub repositories: Vec<Repository>,
}

/// A repository of packages. Each package manager has its own idea of one: what it has no use for is refused by its module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Its name: of its file for apt, of its section for pacman.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"), length(max = 64))]
    pub name: String,
    /// Where it is.
    #[schemars(regex(pattern = r"^[a-z]+:[^\s]+$"), length(max = 1024))]
    pub uri: String,
    /// apt: the suites, e.g. `bookworm`; one that ends in `/` is a path, and then there are no components.
    #[serde(default)]
    #[schemars(inner(regex(pattern = r"^[^\s]+$")))]
    pub suites: Vec<String>,
    /// apt: the components, e.g. `main`.
    #[serde(default)]
    #[schemars(inner(regex(pattern = r"^[^\s]+$")))]
    pub components: Vec<String>,
    /// The public key that its packages or lists are signed with, ASCII-armoured.
    #[serde(default)]
    pub key: Option<String>,
    /// Take its packages unsigned.
    #[serde(default)]
    pub trusted: bool,
}

/// Replaces a configuration file, with mode 0644, if it is not there or has another content. Gives whether it had to.
pub fn write_if_different(guest: &Guest, path: &str, content: &str) -> Result<bool, Failure> {
    let differs = !has_content(guest, path, content)?;
    if differs {
        write(guest, path, content)?;
    }
    Ok(differs)
}

/// Whether a configuration file is there with this content.
pub fn has_content(guest: &Guest, path: &str, content: &str) -> Result<bool, Failure> {
    let now = guest.command(["cat", "--", path]).read_only().any_status().run()?;
    Ok(now.success() && now.stdout == content.as_bytes())
}

/// Writes a configuration file, with mode 0644.
///
/// By a command, because package managers' files belong to root and a package module has commands granted anyway.
pub fn write(guest: &Guest, path: &str, content: &str) -> Result<(), Failure> {
    guest.command(["install", "-D", "-m", "0644", "/dev/stdin", path]).stdin(content).run()?;
    Ok(())
}

/// Whether, and how, what is installed is upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Upgrade {
    /// Upgrade or not.
    Switch(bool),
    /// Upgrade in a named way.
    Way(UpgradeWay),
}

/// A way to upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeWay {
    /// The same as `true`.
    Yes,
    /// As far as it goes, also where packages must be removed for it.
    Dist,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self::Switch(false)
    }
}

impl Upgrade {
    /// The way to upgrade; `None` for not at all.
    pub fn way(self) -> Option<UpgradeWay> {
        match self {
            Self::Switch(false) => None,
            Self::Switch(true) => Some(UpgradeWay::Yes),
            Self::Way(way) => Some(way),
        }
    }
}

/// What is wanted of packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Installed, in whatever version unless one is named.
    #[default]
    Present,
    /// Not installed.
    Absent,
    /// Installed, in the newest version that is available.
    Latest,
}

/// A package as a step names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// The version, if one is named.
    pub version: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Reads `name` or `name=version`.
    pub fn parse(text: &'a str) -> Self {
        match text.split_once('=') {
            Some((name, version)) => Self { name, version: Some(version) },
            None => Self { name: text, version: None },
        }
    }
}

/// Installed packages and their versions.
pub type Installed = BTreeMap<String, String>;

/// What changed between two lists of installed packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    installed: Vec<(String, String)>,
    upgraded: Vec<(String, String)>,
    removed: Vec<(String, String)>,
    configured: Vec<String>,
}

impl Changes {
    /// Compares two lists. Packages whose names are in `first` are named before the others in each group.
    pub fn between(before: &Installed, after: &Installed, first: &BTreeSet<&str>) -> Self {
        let mut changes = Self::default();
        for (name, version) in after {
            match before.get(name) {
                None => changes.installed.push((name.clone(), version.clone())),
                Some(old) if old != version => changes.upgraded.push((name.clone(), version.clone())),
                Some(_) => {}
            }
        }
        let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
        changes.removed = gone.map(|(name, version)| (name.clone(), version.clone())).collect();
        for group in [&mut changes.installed, &mut changes.upgraded, &mut changes.removed] {
            group.sort_by_key(|(name, _)| !first.contains(name.as_str()));
        }
        changes
    }

    /// Adds repositories that were configured.
    #[must_use]
    pub fn configured(mut self, repositories: Vec<String>) -> Self {
        self.configured.extend(repositories);
        self
    }

    /// The outcome: changed if anything was, else `otherwise`. E.g. `installed curl 7.88.1-10 and 3 more, removed vim`.
    pub fn outcome(&self, otherwise: &str) -> Outcome {
        let groups = [
            ("installed", &self.installed, true),
            ("upgraded", &self.upgraded, true),
            ("removed", &self.removed, false),
        ];
        let mut parts = Vec::new();
        if !self.configured.is_empty() {
            parts.push(format!("configured repository {}", self.configured.join(", ")));
        }
        let groups = groups.into_iter().filter(|(_, packages, _)| !packages.is_empty());
        parts.extend(
            groups.map(|(verb, packages, with_version)| format!("{verb} {}", names(packages, with_version))),
        );
        if parts.is_empty() { Outcome::unchanged(otherwise) } else { Outcome::changed(parts.join(", ")) }
    }
}

/// So many packages are named before `and N more`.
const NAMED: usize = 4;

fn names(packages: &[(String, String)], with_version: bool) -> String {
    let named: Vec<String> = packages
        .iter()
        .take(NAMED)
        .map(|(name, version)| if with_version { format!("{name} {version}") } else { name.clone() })
        .collect();
    let more = packages.len().saturating_sub(NAMED);
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(packages: &[(&str, &str)]) -> Installed {
        packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn requested_packages_are_named_first() {
        let before = installed(&[("bash", "5.1"), ("vim", "9")]);
        let after = installed(&[
            ("bash", "5.2"),
            ("a-lib", "1"),
            ("b-lib", "1"),
            ("c-lib", "1"),
            ("d-lib", "1"),
            ("wget", "1.21"),
        ]);
        let outcome = Changes::between(&before, &after, &BTreeSet::from(["wget"])).outcome("");
        assert_eq!(
            outcome,
            Outcome::changed(
                "installed wget 1.21, a-lib 1, b-lib 1, c-lib 1 and 1 more, upgraded bash 5.2, removed vim"
            )
        );
    }

    #[test]
    fn nothing_changed() {
        let list = installed(&[("bash", "5.2")]);
        let changes = Changes::between(&list, &list, &BTreeSet::new());
        assert_eq!(changes.outcome("up to date"), Outcome::unchanged("up to date"));
    }

    #[test]
    fn upgrade_is_a_switch_or_a_way() {
        let parse = |json: &str| serde_json::from_str::<Upgrade>(json).map(Upgrade::way);
        assert_eq!(parse("true").unwrap(), Some(UpgradeWay::Yes));
        assert_eq!(parse(r#""yes""#).unwrap(), Some(UpgradeWay::Yes));
        assert_eq!(parse(r#""dist""#).unwrap(), Some(UpgradeWay::Dist));
        assert_eq!(parse("false").unwrap(), None);
        assert!(parse(r#""never""#).is_err());
    }
}

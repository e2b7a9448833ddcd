use std::collections::BTreeMap;

use farmhand_sdk::{
    packages::{Installed, Wanted},
    prelude::*,
};

/// What dpkg has installed.
pub(crate) struct Dpkg {
    /// By name; packages of a second architecture by `name:architecture`.
    pub(crate) installed: Installed,
    /// Every package by `name:architecture`.
    qualified: BTreeMap<String, String>,
}

impl Dpkg {
    /// Asks dpkg.
    pub(crate) fn query(guest: &Guest) -> Result<Self, Failure> {
        let format = "${Package}\\t${Architecture}\\t${Version}\\t${db:Status-Status}\\n";
        let output = guest.command(["dpkg-query", "-W", "-f", format]).read_only().run()?;
        if output.truncated {
            return Err(Failure::Other(
                "dpkg-query lists more packages than the host's limit on output".to_owned(),
            ));
        }
        Ok(Self::parse(&output.text()))
    }

    fn parse(text: &str) -> Self {
        let mut dpkg = Self { installed: Installed::new(), qualified: BTreeMap::new() };
        for line in text.lines() {
            let mut fields = line.split('\t');
            let (Some(name), Some(architecture), Some(version), Some("installed")) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue; // Removed, with configuration files left; or half-installed.
            };
            let qualified = format!("{name}:{architecture}");
            let key = if dpkg.installed.contains_key(name) { &qualified } else { name };
            dpkg.installed.insert(key.to_owned(), version.to_owned());
            dpkg.qualified.insert(qualified, version.to_owned());
        }
        dpkg
    }

    /// The installed version of a package named `name` or `name:architecture`.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.installed.get(name).or_else(|| self.qualified.get(name)).map(String::as_str)
    }

    /// Whether it is installed, in the wanted version. Patterns (`1.2*`) are left to apt-get.
    pub(crate) fn satisfies(&self, package: &Wanted<'_>) -> bool {
        self.version(package.name)
            .is_some_and(|installed| package.version.is_none_or(|version| version == installed))
    }
}

//! Installs, upgrades and removes packages on Debian and its kin with apt-get(8).
//!
//! Nothing is asked: debconf is non-interactive, and a configuration file that was changed in the guest is kept. The
//! outcome is told by what dpkg(1) lists before and after, so a second run says that nothing changed.

use std::collections::BTreeSet;

use farmhand_sdk::{
    CommandBuilder, CommandOutput,
    packages::{Changes, Settings, State, UpgradeWay, Wanted},
    prelude::*,
};

mod dpkg;
mod lists;
mod repositories;

use dpkg::Dpkg;

/// The module.
pub struct DebianApt;

impl PhaseModule for DebianApt {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Installs, upgrades and removes packages with apt-get")
            .provides("package")
            .platforms(["debian*", "ubuntu*"])
            .asks_for(Capability::Exec, "runs apt-get and dpkg-query")
            .asks_for(Capability::Become, "only root may install packages")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let wanted = wanted(&settings)?;
        let before = Dpkg::query(guest)?;
        let configured = repositories::configure(&settings.repositories, guest)?;
        let wants_update = settings.update || !settings.repositories.is_empty();
        if !configured.is_empty()
            || wants_update && !lists::are_younger_than(settings.cache_valid_time, guest)?
        {
            // Else an index that can't be fetched is only a warning, and the exit status is 0.
            run(apt_get(guest).args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
            lists::stamp(guest)?;
        }
        match settings.upgrade.way() {
            None => {}
            Some(UpgradeWay::Yes) => drop(run(apt_get(guest).args(["--with-new-pkgs", "upgrade"]))?),
            Some(UpgradeWay::Dist) => drop(run(apt_get(guest).arg("dist-upgrade"))?),
        }
        let upgraded = settings.upgrade.way().is_some() && !wanted.is_empty();
        // What is wanted may have become another version with the upgrade, or have been removed.
        let now = if upgraded { &Dpkg::query(guest)? } else { &before };
        change(&settings, &wanted, now, guest)?;

        let after = Dpkg::query(guest)?;
        let names: BTreeSet<&str> = wanted.iter().map(|package| package.name).collect();
        Ok(Changes::between(&before.installed, &after.installed, &names)
            .configured(configured)
            .outcome("nothing to do"))
    }
}

farmhand_sdk::phase_module!(DebianApt);

/// The packages that the settings name.
fn wanted(settings: &Settings) -> Result<Vec<Wanted<'_>>, Failure> {
    let wanted: Vec<Wanted<'_>> = settings.packages.iter().map(|text| Wanted::parse(text)).collect();
    for package in &wanted {
        // apt-get takes `name-` for "remove name"; an option would have been refused by the schema.
        if package.name.ends_with('-') || package.name.starts_with('-') {
            return Err(Failure::InvalidSettings(format!("`{}` is not a package's name", package.name)));
        }
        if package.version.is_some() && settings.state != State::Present {
            let text = format!("a version (`{}`) goes with state `present` only", package.name);
            return Err(Failure::InvalidSettings(text));
        }
    }
    Ok(wanted)
}

/// Installs or removes what is not as it should be.
fn change(settings: &Settings, wanted: &[Wanted<'_>], dpkg: &Dpkg, guest: &Guest) -> Result<(), Failure> {
    let packages: Vec<&str> = settings
        .packages
        .iter()
        .zip(wanted)
        .filter(|(_, package)| match settings.state {
            State::Present => !dpkg.satisfies(package),
            State::Absent => dpkg.version(package.name).is_some(),
            State::Latest => true,
        })
        .map(|(text, _)| text.as_str())
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let verb = if settings.state == State::Absent { "remove" } else { "install" };
    let mut command = apt_get(guest);
    if wanted.iter().any(|package| package.version.is_some()) {
        command = command.arg("--allow-downgrades");
    }
    run(command.arg(verb).arg("--").args(packages))?;
    Ok(())
}

/// apt-get that asks nothing, waits for the lock of another one, and tries downloads again.
fn apt_get<'a>(guest: &Guest<'a>) -> CommandBuilder<'a> {
    guest
        .command(["apt-get", "-y", "-q"])
        .args(["-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::Retries=3"])
        .args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"])
        .args(["-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_MODE", "l")
        .env("LC_ALL", "C.UTF-8")
        .logged()
}

/// Runs it, with a hint where it fails for want of root.
fn run(command: CommandBuilder<'_>) -> Result<CommandOutput, Failure> {
    command.run().map_err(|failure| match failure {
        Failure::CommandFailed(text)
            if text.contains("Permission denied") || text.contains("are you root") =>
        {
            Failure::CommandFailed(format!("{text}\napt-get needs root: give the step `become: true`"))
        }
        other => other,
    })
}

#[cfg(test)]
mod tests;

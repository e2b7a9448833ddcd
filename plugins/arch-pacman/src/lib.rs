//! Installs, upgrades and removes packages on Arch Linux and its kin with pacman(8).
//!
//! The outcome is told by what `pacman -Q` lists before and after, so a second run says that nothing changed.
//!
//! **Partial upgrades.** Arch supports only systems that are upgraded as a whole: a package from a newer list may need newer
//! libraries than those installed. `update: true` without `upgrade: true` makes such a system as soon as something is
//! installed; the module does what it is told, and warns. `cache_valid_time` never leaves out the update of an upgrade.

use std::collections::BTreeSet;

use farmhand_sdk::{
    CommandBuilder, CommandOutput, log,
    packages::{Changes, Installed, Settings, State, Wanted},
    prelude::*,
};

/// The module.
pub struct ArchPacman;

impl PhaseModule for ArchPacman {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Installs, upgrades and removes packages with pacman")
            .provides("package")
            // Names of platforms are matched as they are written; os-release says `arch`.
            .platforms(["Arch*", "arch*"])
            .asks_for(Capability::Exec, "runs pacman")
            .asks_for(Capability::Become, "only root may install packages")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let wanted: Vec<Wanted<'_>> = settings.packages.iter().map(|text| Wanted::parse(text)).collect();
        check(&settings, &wanted)?;
        let before = query(guest)?;
        let configured = repositories::configure(&settings.repositories, guest)?;
        update(&settings, &before, !configured.is_empty(), guest)?;
        let upgraded = settings.upgrade.way().is_some() && !wanted.is_empty();
        // What is wanted may have come, or have become another version, with the upgrade.
        let now = if upgraded { &query(guest)? } else { &before };
        change(&settings, &wanted, now, guest)?;

        let after = query(guest)?;
        let names: BTreeSet<&str> = wanted.iter().map(|package| package.name).collect();
        Ok(Changes::between(&before, &after, &names).configured(configured).outcome("nothing to do"))
    }
}

farmhand_sdk::phase_module!(ArchPacman);

mod repositories;

fn check(settings: &Settings, wanted: &[Wanted<'_>]) -> Result<(), Failure> {
    for package in wanted {
        if package.name.starts_with('-') {
            return Err(Failure::InvalidSettings(format!("`{}` is not a package's name", package.name)));
        }
        if package.version.is_some() && settings.state != State::Present {
            let text = format!("a version (`{}`) goes with state `present` only", package.name);
            return Err(Failure::InvalidSettings(text));
        }
    }
    Ok(())
}

/// Brings the lists, the system, or both up to date. New repositories need new lists in any case.
fn update(
    settings: &Settings,
    installed: &Installed,
    must_update: bool,
    guest: &Guest,
) -> Result<(), Failure> {
    let upgrades = settings.upgrade.way().is_some();
    if !settings.update && !must_update {
        if upgrades {
            // With the lists that are there: that is what the system was installed from, or upgraded to.
            run(pacman(guest).arg("-Su"))?;
        }
        return Ok(());
    }
    if !upgrades {
        if !must_update && lists_are_younger_than(settings.cache_valid_time, guest)? {
            return Ok(());
        }
        if !settings.packages.is_empty() && settings.state != State::Absent {
            log::warn("update without upgrade: Arch does not support partial upgrades; give `upgrade: true`");
        }
        run(pacman(guest).arg("-Sy"))?;
    } else if installed.contains_key(KEYRING) {
        run(pacman(guest).arg("-Sy"))?;
        run(pacman(guest).args(["-S", "--needed", "--", KEYRING]))?;
        run(pacman(guest).arg("-Su"))?;
    } else {
        run(pacman(guest).arg("-Syu"))?;
    }
    Ok(())
}

/// Installs or removes what is not as it should be.
fn change(
    settings: &Settings,
    wanted: &[Wanted<'_>],
    installed: &Installed,
    guest: &Guest,
) -> Result<(), Failure> {
    let packages: Vec<&str> = settings
        .packages
        .iter()
        .zip(wanted)
        .filter(|(_, package)| match settings.state {
            State::Present => !satisfies(installed, package),
            State::Absent => installed.contains_key(package.name),
            State::Latest => true,
        })
        .map(|(text, _)| text.as_str())
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let verb: &[&str] = if settings.state == State::Absent { &["-R"] } else { &["-S", "--needed"] };
    run(pacman(guest).args(verb.iter().copied()).arg("--").args(packages))?;
    Ok(())
}

/// Whether it is installed, in the wanted version. As with pacman's own dependencies, a version without a release number
/// stands for any release. Groups are never installed packages: pacman finds out what of them is missing.
fn satisfies(installed: &Installed, package: &Wanted<'_>) -> bool {
    installed.get(package.name).is_some_and(|installed| match package.version {
        None => true,
        Some(version) => {
            version == installed
                || installed.rsplit_once('-').is_some_and(|(upstream, _)| upstream == version)
        }
    })
}

/// What is installed: lines of name and version.
fn query(guest: &Guest) -> Result<Installed, Failure> {
    let output = guest.command(["pacman", "-Q"]).read_only().run()?;
    if output.truncated {
        return Err(Failure::Other("pacman lists more packages than the host's limit on output".to_owned()));
    }
    let pairs = output.text();
    let pairs = pairs.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
}

/// The package with the packagers' keys. Packages that were signed after it was made need the next one of it: a system that
/// comes from an old image or checkpoint has to have it before it is upgraded.
const KEYRING: &str = "archlinux-keyring";

/// The clock first: the guest's own is compared with its own files.
const LISTS: &str = "date +%s; stat -c '%Y %n' /var/lib/pacman/sync /var/lib/pacman/sync/*.db";

/// Whether the package lists were brought up to date in the last `seconds`. The folder's time is that of the last update
/// that changed a list; the lists' own times are the mirror's.
fn lists_are_younger_than(seconds: u32, guest: &Guest) -> Result<bool, Failure> {
    if seconds == 0 {
        return Ok(false);
    }
    let text = guest.command(["sh", "-c", LISTS]).read_only().any_status().run()?.text();
    let mut lines = text.lines();
    let Some(now) = lines.next().and_then(|line| line.trim().parse::<i64>().ok()) else {
        return Ok(false);
    };
    let mut age = None;
    let mut has_lists = false;
    for (time, path) in lines.filter_map(|line| line.split_once(' ')) {
        has_lists |= path.ends_with(".db");
        if path == "/var/lib/pacman/sync" {
            age = time.parse::<i64>().ok().map(|time| now.saturating_sub(time));
        }
    }
    Ok(has_lists && age.is_some_and(|age| (0..i64::from(seconds)).contains(&age)))
}

/// pacman that asks nothing and draws no bars.
fn pacman<'a>(guest: &Guest<'a>) -> CommandBuilder<'a> {
    guest.command(["pacman", "--noconfirm", "--noprogressbar"]).env("LC_ALL", "C.UTF-8").logged()
}

/// Runs it, with a hint where it fails for want of root.
fn run(command: CommandBuilder<'_>) -> Result<CommandOutput, Failure> {
    command.run().map_err(|failure| match failure {
        Failure::CommandFailed(text) if text.contains("unless you are root") => {
            Failure::CommandFailed(format!("{text}\npacman needs root: give the step `become: true`"))
        }
        other => other,
    })
}

#[cfg(test)]
mod tests;

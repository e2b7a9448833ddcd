use farmhand_sdk::{
    packages::{Repository, has_content, write},
    prelude::*,
};

/// pacman's own configuration.
const MAIN: &str = "/etc/pacman.conf";

/// Sees to it that repositories are there: a file each, which `pacman.conf` includes. Keys are added to pacman's keyring and
/// signed locally. Gives the names of those that were not as they should be.
///
/// `pacman.conf` has a line for each file, and not one with a pattern for all: of two repositories the first one wins, so they
/// stay in the order in which they were named, and pacman fails at a pattern that nothing matches.
pub(crate) fn configure(repositories: &[Repository], guest: &Guest) -> Result<Vec<String>, Failure> {
    if repositories.is_empty() {
        return Ok(Vec::new());
    }
    let texts: Vec<String> = repositories.iter().map(section).collect::<Result<_, _>>()?;
    let main = guest.read(["cat", "--", MAIN])?;
    let mut missing = String::new();
    let mut changed = Vec::new();
    for (repository, text) in repositories.iter().zip(&texts) {
        let path = file(&repository.name);
        let is_there = has_content(guest, &path, text)?;
        if !is_there {
            // The key before the file: one that is there says that its key was taken.
            if let Some(key) = &repository.key {
                trust(&repository.name, key, guest)?;
            }
            write(guest, &path, text)?;
        }
        let include = format!("Include = {path}");
        let is_included = main.lines().any(|line| line.trim() == include);
        if !is_included {
            missing += &format!("{include}\n");
        }
        if !is_there || !is_included {
            changed.push(repository.name.clone());
        }
    }
    if !missing.is_empty() {
        write(guest, MAIN, &format!("{main}\n\n{missing}"))?;
    }
    Ok(changed)
}

/// A repository's own file.
fn file(name: &str) -> String {
    format!("/etc/pacman.d/farmhand/{name}.conf")
}

/// What stands in it. The key does so too, as a comment, for another key is to be a change.
fn section(repository: &Repository) -> Result<String, Failure> {
    let Repository { name, uri, suites, components, key, trusted } = repository;
    if !suites.is_empty() || !components.is_empty() {
        let text = format!("repository {name}: pacman knows no `suites` and no `components`");
        return Err(Failure::InvalidSettings(text));
    }
    let key: String =
        key.iter().flat_map(|key| key.trim().lines()).map(|line| format!("# {line}\n")).collect();
    let signatures = if *trusted { "SigLevel = Never\n" } else { "" };
    Ok(format!("{key}[{name}]\nServer = {uri}\n{signatures}"))
}

/// Adds a key to pacman's keyring and signs it locally: only then pacman takes it.
fn trust(name: &str, key: &str, guest: &Guest) -> Result<(), Failure> {
    let shown = guest.command(["gpg", "--show-keys", "--with-colons"]).stdin(key).read_only().run()?.text();
    let fingerprint =
        shown.lines().find_map(|line| line.strip_prefix("fpr:")?.trim_matches(':').split(':').next());
    let Some(fingerprint) = fingerprint else {
        return Err(Failure::InvalidSettings(format!("repository {name}: its key is none")));
    };
    guest.command(["pacman-key", "--add", "-"]).stdin(key).run()?;
    guest.run(["pacman-key", "--lsign-key", fingerprint])?;
    Ok(())
}

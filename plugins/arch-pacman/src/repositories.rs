use farmhand_sdk::{
    packages::{Repository, write_if_different},
    prelude::*,
};

/// pacman's own configuration, and the one file that it is made to include.
const MAIN: &str = "/etc/pacman.conf";
const OURS: &str = "/etc/pacman.d/farmhand.conf";

/// Sees to it that repositories are there: all of a step's in one file, which `pacman.conf` includes. Keys are added to
/// pacman's keyring and signed locally. Gives the names when anything had to be changed.
pub(crate) fn configure(repositories: &[Repository], guest: &Guest) -> Result<Vec<String>, Failure> {
    if repositories.is_empty() {
        return Ok(Vec::new());
    }
    let text: String = repositories.iter().map(section).collect::<Result<_, Failure>>()?;
    let mut changed = write_if_different(guest, OURS, &text)?;
    if changed {
        for repository in repositories {
            if let Some(key) = &repository.key {
                trust(&repository.name, key, guest)?;
            }
        }
    }
    let include = format!("Include = {OURS}");
    let main = guest.read(["cat", "--", MAIN])?;
    if !main.lines().any(|line| line.trim() == include) {
        changed |= write_if_different(guest, MAIN, &format!("{}\n\n{include}\n", main.trim_end()))?;
    }
    Ok(if changed { repositories.iter().map(|it| it.name.clone()).collect() } else { Vec::new() })
}

fn section(repository: &Repository) -> Result<String, Failure> {
    let Repository { name, uri, suites, components, trusted, .. } = repository;
    if !suites.is_empty() || !components.is_empty() {
        let text = format!("repository {name}: pacman knows no `suites` and no `components`");
        return Err(Failure::InvalidSettings(text));
    }
    let signatures = if *trusted { "SigLevel = Never\n" } else { "" };
    Ok(format!("[{name}]\nServer = {uri}\n{signatures}"))
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

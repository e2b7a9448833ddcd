use farmhand_sdk::{
    packages::{Repository, write_if_different},
    prelude::*,
};

/// Sees to it that repositories are there: a file each in `sources.list.d`, in the format of deb822 (sources.list(5)), and one
/// with the key in `keyrings`. Gives the names of those that were not as they should be.
pub(crate) fn configure(repositories: &[Repository], guest: &Guest) -> Result<Vec<String>, Failure> {
    let mut changed = Vec::new();
    for repository in repositories {
        let name = &repository.name;
        let key = format!("/etc/apt/keyrings/{name}.asc");
        let key_changed = match &repository.key {
            Some(text) => write_if_different(guest, &key, &format!("{}\n", text.trim()))?,
            None => false,
        };
        let sources = format!("/etc/apt/sources.list.d/{name}.sources");
        if write_if_different(guest, &sources, &stanza(repository, &key)?)? || key_changed {
            changed.push(name.clone());
        }
    }
    Ok(changed)
}

fn stanza(repository: &Repository, key: &str) -> Result<String, Failure> {
    let flat = repository.suites.iter().any(|suite| suite.ends_with('/'));
    if repository.suites.is_empty() || flat != repository.components.is_empty() {
        let text = format!(
            "repository {} needs `suites` and `components`, or one suite that ends in `/` and no components",
            repository.name
        );
        return Err(Failure::InvalidSettings(text));
    }
    let mut text = format!("Types: deb\nURIs: {}\nSuites: {}\n", repository.uri, repository.suites.join(" "));
    if !flat {
        text += &format!("Components: {}\n", repository.components.join(" "));
    }
    if repository.key.is_some() {
        text += &format!("Signed-By: {key}\n");
    }
    if repository.trusted {
        text += "Trusted: yes\n";
    }
    Ok(text)
}

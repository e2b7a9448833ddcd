//! The OpenSSH client's command line for a guest: for people who want a shell there. farmhand itself uses [`super::ssh`].

use std::ffi::OsString;

use camino::Utf8Path;

use super::Endpoint;
use crate::base::{Credential, Login};

/// Program and arguments of the OpenSSH client that opens a shell as the login user, or runs `remote` (words that the client
/// joins with blanks for the guest's shell) when it is not empty.
///
/// The guest's key is looked up under the name `alias` (see [`known_hosts_line`]) in the file `known_hosts` and nowhere else,
/// and no configuration file is read, so that neither the user's files nor those of the host decide who is trusted. The
/// identities are the login's keys; without any, OpenSSH asks for the password.
pub fn command_line(
    endpoint: &Endpoint,
    login: &Login,
    alias: &str,
    known_hosts: &Utf8Path,
    remote: &[OsString],
) -> Vec<OsString> {
    let keys: Vec<&Utf8Path> = login
        .credentials
        .iter()
        .filter_map(|credential| match credential {
            Credential::Key(path) => Some(path.as_path()),
            Credential::Password(_) => None,
        })
        .collect();
    // ssh splits the value of an option at blanks and expands `%`, `~` and `${…}` in it; an empty value would be an error.
    let quoted = known_hosts.as_str().replace('%', "%%").replace('"', "\\\"");
    let mut options = vec![
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile=\"{quoted}\""),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        format!("HostKeyAlias={alias}"),
        "IdentitiesOnly=yes".to_owned(),
    ];
    if keys.is_empty() {
        options.push("PubkeyAuthentication=no".to_owned());
    }
    let mut argv: Vec<OsString> = vec!["ssh".into(), "-F".into(), "none".into()];
    argv.extend(options.into_iter().flat_map(|option| ["-o".into(), option.into()]));
    argv.extend(keys.into_iter().flat_map(|key| ["-i".into(), key.as_str().into()]));
    argv.extend(["-p".into(), endpoint.port.to_string().into(), "-l".into(), login.user.clone().into()]);
    // What follows `--` is the host, also when it begins with a dash.
    argv.extend(["--".into(), endpoint.host.clone().into()]);
    argv.extend(remote.iter().cloned());
    argv
}

/// The line of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) that pins `host_key` under the name `alias`, with its
/// line end. `None` when `host_key` is not a public key in OpenSSH's one-line form, or `alias` not a plain name.
pub fn known_hosts_line(alias: &str, host_key: &str) -> Option<String> {
    // Commas, blanks, `*`, `?`, `!`, `|`, `@`, `#` have a meaning there.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if alias.is_empty() || !alias.bytes().all(plain) {
        return None;
    }
    let mut key = russh::keys::PublicKey::from_openssh(host_key).ok()?;
    key.set_comment("");
    Some(format!("{alias} {}\n", key.to_openssh().ok()?.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Become, BecomeMethod, Secret};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn login(credentials: Vec<Credential>) -> Login {
        let r#become =
            Become { method: BecomeMethod::Su, user: "root".into(), password: Some(Secret::new("toor")) };
        Login { user: "tester".into(), credentials, r#become }
    }

    fn line(login: &Login, remote: &[OsString]) -> Vec<String> {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: 2201, host_key: Some(KEY.into()) };
        let argv = command_line(&endpoint, login, "debian_amd64", "/home/a b/known_hosts".into(), remote);
        argv.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_but_the_pinned_key_and_the_logins_own_identity() {
        let argv = line(
            &login(vec![Credential::Key("/home/a/id".into()), Credential::Password(Secret::new("s3cret"))]),
            &["ls".into()],
        );
        let expected = [
            "ssh",
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "UserKnownHostsFile=\"/home/a b/known_hosts\"",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "UpdateHostKeys=no",
            "-o",
            "HostKeyAlias=debian_amd64",
            "-o",
            "IdentitiesOnly=yes",
            "-i",
            "/home/a/id",
            "-p",
            "2201",
            "-l",
            "tester",
            "--",
            "127.0.0.1",
            "ls",
        ];
        assert_eq!(argv, expected);
    }

    #[test]
    fn passwords_are_never_in_the_command_line() {
        let argv = line(&login(vec![Credential::Password(Secret::new("s3cret"))]), &[]);
        assert!(argv.contains(&"PubkeyAuthentication=no".to_owned()));
        assert!(!argv.concat().contains("s3cret") && !argv.concat().contains("toor"));
    }

    #[test]
    fn line_of_a_pinned_key() {
        assert_eq!(known_hosts_line("m-1", &format!("{KEY} a comment")), Some(format!("m-1 {KEY}\n")));
        for (alias, key) in
            [("m-1", "ssh-ed25519 AAAA"), ("m-1", ""), ("", KEY), ("a b", KEY), ("*", KEY), ("a\nb", KEY)]
        {
            assert_eq!(known_hosts_line(alias, key), None, "{alias} {key}");
        }
    }
}

//! The OpenSSH client's command line for a guest: for people who want a shell there. farmhand itself uses [`super::ssh`].

use std::{ffi::OsString, path::Path};

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
    let mut argv = client("ssh", endpoint, login, alias, known_hosts);
    argv.extend(["-p".into(), endpoint.port.to_string().into(), "-l".into(), login.user.clone().into()]);
    // What follows `--` is the host, also when it begins with a dash.
    argv.extend(["--".into(), endpoint.host.clone().into()]);
    argv.extend(remote.iter().cloned());
    argv
}

/// A file or folder that is copied, or where it is copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// A path on this host.
    Here(OsString),
    /// A path in the guest; the login user's home when it is empty.
    There(String),
}

/// Program and arguments of OpenSSH's `scp` that copies `from` to `to`, folders with all that is in them, in the way of
/// [`command_line`]. Times and modes are kept.
pub fn copy_command_line(
    endpoint: &Endpoint,
    login: &Login,
    alias: &str,
    known_hosts: &Utf8Path,
    from: &[Copied],
    to: &Copied,
) -> Vec<OsString> {
    let mut argv = client("scp", endpoint, login, alias, known_hosts);
    argv.extend(["-r".into(), "-p".into(), "-P".into(), endpoint.port.to_string().into(), "--".into()]);
    let host =
        if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    argv.extend(from.iter().chain([to]).map(|path| match path {
        // A colon after the first slash does not make a host of what is before it.
        Copied::Here(path) if Path::new(path).is_absolute() => path.clone(),
        Copied::Here(path) => {
            let mut here = OsString::from("./");
            here.push(path);
            here
        }
        Copied::There(path) => format!("{}@{host}:{path}", login.user).into(),
    }));
    argv
}

/// A block of ssh_config(5) by which any OpenSSH client reaches the guest under the name `alias`, in the way of
/// [`command_line`]. A password can't stand in such a file.
pub fn config_block(endpoint: &Endpoint, login: &Login, alias: &str, known_hosts: &Utf8Path) -> String {
    let mut lines = vec![
        format!("Host {alias}"),
        format!("HostName {}", endpoint.host),
        format!("Port {}", endpoint.port),
        format!("User {}", login.user),
    ];
    lines.extend(
        options(endpoint, login, alias, known_hosts).into_iter().map(|option| option.replacen('=', " ", 1)),
    );
    lines.extend(keys(login).map(|key| format!("IdentityFile {}", quoted(key))));
    lines.join("\n  ") + "\n"
}

/// A client with the options that all have in common.
fn client(
    program: &str,
    endpoint: &Endpoint,
    login: &Login,
    alias: &str,
    known_hosts: &Utf8Path,
) -> Vec<OsString> {
    let mut argv: Vec<OsString> = vec![program.into(), "-F".into(), "none".into()];
    let options = options(endpoint, login, alias, known_hosts);
    argv.extend(options.into_iter().flat_map(|option| ["-o".into(), option.into()]));
    argv.extend(keys(login).flat_map(|key| ["-i".into(), key.as_str().into()]));
    argv
}

fn options(endpoint: &Endpoint, login: &Login, alias: &str, known_hosts: &Utf8Path) -> Vec<String> {
    let mut options = vec![
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", quoted(known_hosts)),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        format!("HostKeyAlias={alias}"),
        "IdentitiesOnly=yes".to_owned(),
    ];
    if keys(login).next().is_none() {
        options.push("PubkeyAuthentication=no".to_owned());
    }
    options.extend(endpoint.jump.iter().map(|jump| format!("ProxyCommand={}", jump.proxy_command())));
    options
}

fn keys(login: &Login) -> impl Iterator<Item = &Utf8Path> {
    login.credentials.iter().filter_map(|credential| match credential {
        Credential::Key(path) => Some(path.as_path()),
        Credential::Password(_) => None,
    })
}

/// A path as the value of an option: ssh splits that at blanks and expands `%`, `~` and `${…}` in it.
fn quoted(path: &Utf8Path) -> String {
    format!("\"{}\"", path.as_str().replace('%', "%%").replace('"', "\\\""))
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
        let endpoint =
            Endpoint { host: "127.0.0.1".into(), port: 2201, jump: None, host_key: Some(KEY.into()) };
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
    fn copies_say_which_side_is_the_guests() {
        let endpoint =
            Endpoint { host: "127.0.0.1".into(), port: 2201, jump: None, host_key: Some(KEY.into()) };
        let login = login(vec![Credential::Key("/home/a/id".into())]);
        let copy = |from: &[Copied], to: Copied| {
            let argv = copy_command_line(&endpoint, &login, "m", "/known_hosts".into(), from, &to);
            let text: Vec<_> = argv.into_iter().map(|word| word.into_string().unwrap()).collect();
            assert_eq!(text[0], "scp");
            text.join(" ").split_once(" -r ").unwrap().1.to_owned()
        };
        let here = |path: &str| Copied::Here(path.into());
        assert_eq!(
            copy(&[here("-a:b"), here("/c")], Copied::There("d e".into())),
            "-p -P 2201 -- ./-a:b /c tester@127.0.0.1:d e"
        );
        assert_eq!(copy(&[Copied::There("".into())], here(".")), "-p -P 2201 -- tester@127.0.0.1: ./.");
    }

    #[test]
    fn configuration_for_other_programs() {
        let endpoint =
            Endpoint { host: "127.0.0.1".into(), port: 2201, jump: None, host_key: Some(KEY.into()) };
        let login =
            login(vec![Credential::Key("/home/a b/id".into()), Credential::Password(Secret::new("s3cret"))]);
        insta::assert_snapshot!(config_block(&endpoint, &login, "debian_amd64", "/home/a b/known_hosts".into()), @r#"
        Host debian_amd64
          HostName 127.0.0.1
          Port 2201
          User tester
          StrictHostKeyChecking yes
          UserKnownHostsFile "/home/a b/known_hosts"
          GlobalKnownHostsFile /dev/null
          UpdateHostKeys no
          HostKeyAlias debian_amd64
          IdentitiesOnly yes
          IdentityFile "/home/a b/id"
        "#);
    }

    #[test]
    fn guests_of_another_host_are_reached_through_it() {
        let way = crate::guest::Way::to("qemu+ssh://a@far/system", None, "/s".into());
        let endpoint = Endpoint {
            host: "192.168.122.5".into(),
            port: 22,
            jump: way.jump().cloned(),
            host_key: Some(KEY.into()),
        };
        let login = login(vec![Credential::Key("/id".into())]);
        let block = config_block(&endpoint, &login, "debian_amd64", "/known_hosts".into());
        let proxy = "-l a -W '[%h]:%p' -- far\n";
        assert!(
            block.contains("ProxyCommand env -u SSH_ASKPASS -u SSH_ASKPASS_REQUIRE ssh -T ")
                && block.contains(proxy),
            "{block}"
        );
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

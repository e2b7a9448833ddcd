//! The way to the guests of a hypervisor on another host: through an SSH connection to that host.

use std::ffi::OsString;

use camino::Utf8Path;
use url::Url;

/// How long the connection to a hypervisor's host is kept open after its last use, for the next one.
const KEEP: &str = "ControlPersist=60";
/// The longest path of a Unix socket (sockaddr_un(7)), less what OpenSSH adds to a ControlPath while it makes one.
const LONGEST_SOCKET: usize = 107 - 17;
/// `%C` of a ControlPath: a SHA-1 digest in hexadecimal.
const DIGEST: usize = 40;

/// How the guests of a hypervisor are reached from this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Way {
    /// The hypervisor is this host: as it reaches them itself.
    #[default]
    Here,
    /// Through the hypervisor's host.
    Through(Jump),
    /// The hypervisor is another host on which nobody may log in: by the guests' own addresses alone.
    Around,
}

/// A host that connections to guests are forwarded by, with the OpenSSH client (ssh(1), `-W`): its configuration, agent and
/// known hosts are what the user has, as for libvirt's own connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// Program, options and destination, without `-W`.
    client: Vec<String>,
    destination: String,
}

impl Way {
    /// The way to the guests of the hypervisor with this [connection URI](https://libvirt.org/uri.html). `proxy_jump` is how to
    /// get to its host where the URI does not say it: `[USER@]HOST[:PORT]`, or several of them with commas between them (as
    /// ssh_config(5) has it). `sockets` is a folder for OpenSSH's sockets, by which several connections share one.
    pub fn to(uri: &str, proxy_jump: Option<&str>, sockets: &Utf8Path) -> Self {
        if let Some(hosts) = proxy_jump {
            let (before, last) = match hosts.rsplit_once(',') {
                Some((before, last)) => (Some(before), last),
                None => (None, hosts),
            };
            let mut options: Vec<_> =
                before.into_iter().flat_map(|before| ["-J", before]).map(str::to_owned).collect();
            let (host, port) = match last.rsplit_once(':') {
                // An IPv6 address without brackets has no port.
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
                _ => (last, None),
            };
            options.extend(port.into_iter().flat_map(|port| ["-p", port]).map(str::to_owned));
            let host = host.replace(['[', ']'], "");
            return Self::Through(Jump::new("ssh".to_owned(), options, host, sockets));
        }
        // libvirt takes what can't be parsed for a path, or refuses it: then there is no connection at all.
        let Ok(parsed) = Url::parse(uri) else { return Self::Here };
        let host = parsed.host_str().filter(|host| !host.is_empty());
        let transport = parsed.scheme().split_once('+').map(|(_, transport)| transport);
        match (host, transport) {
            (None, _) | (_, Some("unix")) => Self::Here,
            (Some(host), Some("ssh" | "libssh" | "libssh2")) => {
                Self::Through(Jump::of_uri(&parsed, host, sockets))
            }
            (Some(_), _) => Self::Around,
        }
    }

    /// The host to go through, if there is one.
    pub fn jump(&self) -> Option<&Jump> {
        match self {
            Self::Through(jump) => Some(jump),
            Self::Here | Self::Around => None,
        }
    }
}

impl Jump {
    /// As libvirt itself connects (URI parameters `command`, `keyfile`, `known_hosts`, `no_verify`).
    fn of_uri(uri: &Url, host: &str, sockets: &Utf8Path) -> Self {
        let parameter =
            |name: &str| uri.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let mut options = Vec::new();
        let mut add = |option: &str, value: String| options.extend([option.to_owned(), value]);
        if let Some(port) = uri.port() {
            add("-p", port.to_string());
        }
        if !uri.username().is_empty() {
            add("-l", uri.username().to_owned());
        }
        if let Some(key) = parameter("keyfile") {
            add("-i", key);
        }
        if let Some(known_hosts) = parameter("known_hosts") {
            add("-o", format!("UserKnownHostsFile={known_hosts}"));
        }
        if parameter("no_verify").is_some_and(|value| value != "0") {
            add("-o", "StrictHostKeyChecking=no".to_owned());
        }
        let program = parameter("command").unwrap_or_else(|| "ssh".to_owned());
        Self::new(program, options, host.trim_matches(['[', ']']).to_owned(), sockets)
    }

    fn new(program: String, options: Vec<String>, destination: String, sockets: &Utf8Path) -> Self {
        let mut client = vec![program, "-T".to_owned()];
        let mut add = |option: String| client.extend(["-o".to_owned(), option]);
        // Nobody could answer a question.
        add("BatchMode=yes".to_owned());
        if sockets.as_str().len() + 1 + DIGEST <= LONGEST_SOCKET {
            add("ControlMaster=auto".to_owned());
            add(format!("ControlPath={}/%C", sockets.as_str().replace('%', "%%")));
            add(KEEP.to_owned());
        }
        client.extend(options);
        Self { client, destination }
    }

    /// The host that is gone through.
    pub fn host(&self) -> &str {
        &self.destination
    }

    /// Program and arguments of a client that connects its standard input and output to a port of a guest.
    pub fn command_line(&self, host: &str, port: u16) -> Vec<OsString> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        self.words(format!("{host}:{port}")).into_iter().map(OsString::from).collect()
    }

    /// The same for another OpenSSH client: the value of its option `ProxyCommand`. Whatever answers that client's questions for
    /// a password knows the guest's, which is no business of the hosts on the way.
    pub fn proxy_command(&self) -> String {
        // OpenSSH expands `%`; what of it is not meant that way is doubled.
        let words = self.words("[%h]:%p".to_owned());
        let escaped =
            words.iter().map(|word| if word == "[%h]:%p" { word.clone() } else { word.replace('%', "%%") });
        // A NUL can't be in words that came from a URI or YAML and passed as arguments; without quoting nothing would be run.
        let words: Vec<_> = escaped.collect();
        let alone = ["env", "-u", "SSH_ASKPASS", "-u", "SSH_ASKPASS_REQUIRE"];
        shlex::try_join(alone.into_iter().chain(words.iter().map(String::as_str))).unwrap_or_default()
    }

    fn words(&self, target: String) -> Vec<String> {
        // What follows `--` is the host, also when it begins with a dash.
        let end = ["-W".to_owned(), target, "--".to_owned(), self.destination.clone()];
        self.client.iter().cloned().chain(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(uri: &str, proxy_jump: Option<&str>) -> String {
        match Way::to(uri, proxy_jump, "/s".into()) {
            Way::Here => "here".to_owned(),
            Way::Around => "around".to_owned(),
            Way::Through(jump) => {
                let words = jump.command_line("10.0.0.5", 22);
                let words: Vec<_> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
                let common =
                    "-T -o BatchMode=yes -o ControlMaster=auto -o ControlPath=/s/%C -o ControlPersist=60 ";
                words.join(" ").replace(common, "")
            }
        }
    }

    #[test]
    fn the_way_follows_from_the_connection_uri() {
        for (uri, expected) in [
            ("qemu:///system", "here"),
            ("qemu+unix:///system?socket=/run/a", "here"),
            ("test:///default", "here"),
            ("qemu+tcp://host/system", "around"),
            ("qemu+tls://host:1/system", "around"),
            ("qemu://host/system", "around"),
            ("qemu+ssh://host/system", "ssh -W 10.0.0.5:22 -- host"),
            ("qemu+ssh://a@host:2200/system", "ssh -p 2200 -l a -W 10.0.0.5:22 -- host"),
            (
                "qemu+ssh://host/system?keyfile=/k%20k&no_verify=1&command=/bin/s",
                "/bin/s -i /k k -o StrictHostKeyChecking=no -W 10.0.0.5:22 -- host",
            ),
            (
                "qemu+libssh2://[fd00::1]/session?known_hosts=/h",
                "ssh -o UserKnownHostsFile=/h -W 10.0.0.5:22 -- fd00::1",
            ),
        ] {
            assert_eq!(way(uri, None), expected, "{uri}");
        }
    }

    #[test]
    fn a_farm_can_say_how_to_get_there() {
        let tls = "qemu+tls://host/system";
        assert_eq!(way(tls, Some("a@gate:2200")), "ssh -p 2200 -W 10.0.0.5:22 -- a@gate");
        assert_eq!(way(tls, Some("one,a@two")), "ssh -J one -W 10.0.0.5:22 -- a@two");
        assert_eq!(way(tls, Some("[fd00::1]:2200")), "ssh -p 2200 -W 10.0.0.5:22 -- fd00::1");
        assert_eq!(way(tls, Some("fd00::1")), "ssh -W 10.0.0.5:22 -- fd00::1");
    }

    #[test]
    fn other_clients_go_the_same_way() {
        let Way::Through(jump) = Way::to("qemu+ssh://host/system?keyfile=/a%20b%25", None, "/s".into())
        else {
            panic!("it is another host");
        };
        insta::assert_snapshot!(jump.proxy_command(), @"env -u SSH_ASKPASS -u SSH_ASKPASS_REQUIRE ssh -T -o 'BatchMode=yes' -o 'ControlMaster=auto' -o 'ControlPath=/s/%%C' -o 'ControlPersist=60' -i '/a b%%' -W '[%h]:%p' -- host");
        let long = format!("/{}", "s".repeat(60));
        let Way::Through(jump) = Way::to("qemu+ssh://host/system", None, long.as_str().into()) else {
            panic!("it is another host");
        };
        assert!(!jump.proxy_command().contains("Control"), "the socket's path would be too long");
    }
}

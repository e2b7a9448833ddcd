use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, process::ExitCode};

use miette::miette;

use super::{
    FarmArgs,
    ssh::{Way, no_connection},
};
use crate::guest::openssh::{self, Copied};

/// Copy files and folders to or from a machine, with OpenSSH's scp. A machine that is off is started.
///
/// One that is booting is waited for. What is in a machine is written MACHINE:PATH; a path that does not begin with a slash
/// is below the login user's home. A path of this host that has a colon in it is written with a slash before the colon
/// (./a:b). The exit code is scp's own, or 255 when there is no connection.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand copy build/ debian_vs_amd64:/srv/build\n  farmhand copy debian_vs_amd64:/var/log/syslog ."
)]
pub(super) struct Copy {
    /// What is copied.
    #[arg(required = true)]
    from: Vec<OsString>,
    /// Where to.
    #[arg(required = true)]
    to: OsString,
}

impl Copy {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let from: Vec<_> = self.from.iter().map(place).collect();
        let (to_machine, to) = place(&self.to);
        let mut machines: Vec<_> = from.iter().filter_map(|(machine, _)| machine.as_deref()).collect();
        machines.extend(to_machine.as_deref());
        machines.dedup();
        let &[machine] = &machines[..] else {
            let help = "write the machine's side as MACHINE:PATH";
            return Err(match machines.as_slice() {
                [] => miette!(help = help, "neither side is in a machine"),
                _ => {
                    miette!(help = help, "only one machine can take part; these are: {}", machines.join(", "))
                }
            });
        };
        if from.iter().any(|(machine, _)| machine.is_some() == to_machine.is_some()) {
            return Err(miette!("either what is copied or where it goes must be on this host, not both"));
        }
        let way = match Way::to(args, machine).await {
            Ok(way) => way,
            Err(report) => return Ok(no_connection(&report)),
        };
        let from: Vec<_> = from.into_iter().map(|(_, path)| path).collect();
        way.run(|endpoint, login, alias, known_hosts| {
            openssh::copy_command_line(endpoint, login, alias, known_hosts, &from, &to)
        })
        .await
    }
}

/// The machine that a path is in, if it is in one, and the path there.
fn place(path: &OsString) -> (Option<String>, Copied) {
    let parts =
        path.to_str().filter(|_| !path.as_bytes().starts_with(b"/")).and_then(|text| text.split_once(':'));
    match parts {
        Some((machine, there)) if !machine.is_empty() && !machine.contains('/') => {
            (Some(machine.to_owned()), Copied::There(there.to_owned()))
        }
        _ => (None, Copied::Here(path.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_from_paths() {
        let there = |machine: &str, path: &str| (Some(machine.to_owned()), Copied::There(path.to_owned()));
        let here = |path: &str| (None, Copied::Here(path.into()));
        for (text, expected) in [
            ("m:/a:b", there("m", "/a:b")),
            ("m:", there("m", "")),
            ("VM a.b:c", there("VM a.b", "c")),
            ("a/b", here("a/b")),
            ("./a:b", here("./a:b")),
            ("/a:b", here("/a:b")),
            (":a", here(":a")),
        ] {
            assert_eq!(place(&text.into()), expected, "{text}");
        }
    }
}

use std::{ffi::OsString, process::ExitCode};

use camino::{Utf8Path, Utf8PathBuf};
use miette::{IntoDiagnostic, WrapErr, miette};

use super::{
    FarmArgs, print,
    selection::Selection,
    workbench::{Outside, Workbench},
};
use crate::{
    base::{Credential, Dirs, Login},
    farm::Farm,
    guest::{Endpoint, openssh},
    run,
};

/// Set for the OpenSSH client: it starts farmhand as its SSH_ASKPASS program, which answers with this machine's password.
const ASKPASS_MACHINE: &str = "FARMHAND_ASKPASS_MACHINE";

/// Open a shell on a machine, or run a command there, with the OpenSSH client. A machine that is off is started.
///
/// One that is booting is waited for. The host key is the one that farmhand pinned when it made the machine. The exit
/// code is ssh's own: the command's, or 255 when there is no connection.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand ssh debian_vs_amd64\n  farmhand ssh debian_vs_amd64 -- uname -a"
)]
pub(super) struct Ssh {
    /// The machine.
    machine: String,
    /// The command and its arguments, joined with blanks for the guest's shell as ssh does.
    #[arg(last = true)]
    command: Vec<OsString>,
}

impl Ssh {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let way = match Way::to(args, &self.machine).await {
            Ok(way) => way,
            Err(report) => return Ok(no_connection(&report)),
        };
        way.run(|endpoint, login, alias, known_hosts| {
            openssh::command_line(endpoint, login, alias, known_hosts, &self.command)
        })
        .await
    }
}

/// ssh's own exit code when there is no connection.
const NO_CONNECTION: u8 = 255;

/// Says why there is no connection, and gives the exit code that ssh gives then.
pub(super) fn no_connection(report: &miette::Report) -> ExitCode {
    eprintln!("{report:?}");
    ExitCode::from(NO_CONNECTION)
}

/// The way to a machine for OpenSSH's programs.
pub(super) struct Way {
    endpoint: Endpoint,
    login: Login,
    alias: String,
    known_hosts: tempfile::NamedTempFile,
    farm: Utf8PathBuf,
    machine: String,
}

impl Way {
    /// Makes sure that the machine runs and that its host key is known.
    pub(super) async fn to(args: &FarmArgs, machine: &str) -> miette::Result<Self> {
        let workbench = Workbench::open(args).await?;
        let machine = Selection::one(machine).of(&workbench.farm)?[0].clone();
        let (host, _) = workbench.find_existing(&machine.name).await?;
        let site = workbench.site(host, Outside::progress());
        let endpoint = run::reach(&site, &machine).await.into_diagnostic()?;
        let login = site.login(&machine);
        let alias = alias(&machine.name);
        let known_hosts = tempfile::NamedTempFile::new().into_diagnostic()?;
        std::fs::write(known_hosts.path(), known_hosts_line(&alias, &endpoint)?).into_diagnostic()?;
        Ok(Self {
            endpoint,
            login,
            alias,
            known_hosts,
            farm: workbench.farm.root.clone(),
            machine: machine.name,
        })
    }

    /// Runs one of OpenSSH's programs, and gives its exit code.
    pub(super) async fn run(
        &self,
        command_line: impl FnOnce(&Endpoint, &Login, &str, &Utf8Path) -> Vec<OsString>,
    ) -> miette::Result<ExitCode> {
        let Self { endpoint, login, alias, known_hosts, farm, machine } = self;
        let path = Utf8Path::from_path(known_hosts.path())
            .ok_or_else(|| miette!("the temporary folder's path is not UTF-8"))?;
        let words = command_line(endpoint, login, alias, path);
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]);
        if login.credentials.iter().any(|credential| matches!(credential, Credential::Password(_))) {
            command
                .env("SSH_ASKPASS", std::env::current_exe().into_diagnostic()?)
                .env("SSH_ASKPASS_REQUIRE", "force")
                .env("FARMHAND_FARM", farm.as_str())
                .env(ASKPASS_MACHINE, machine);
        }
        let status = command.status().await.into_diagnostic();
        let status = status
            .wrap_err_with(|| format!("can't start the OpenSSH client `{}`", words[0].to_string_lossy()))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(ExitCode::from(code.unwrap_or(NO_CONNECTION)))
    }
}

/// The name by which OpenSSH knows a machine.
pub(super) fn alias(machine: &str) -> String {
    machine.replace(' ', "_")
}

/// The line that pins a machine's host key.
pub(super) fn known_hosts_line(alias: &str, endpoint: &Endpoint) -> miette::Result<String> {
    let host_key = endpoint.host_key.as_deref().unwrap_or_default();
    openssh::known_hosts_line(alias, host_key)
        .ok_or_else(|| miette!("the host key that was pinned for {alias} can't be read: {host_key}"))
}

/// Answers the OpenSSH client's question for a password, if this process was started for that. The password goes through the
/// pipe to its standard output alone: never through arguments or the environment.
pub fn askpass() -> Option<miette::Result<()>> {
    let machine = std::env::var(ASKPASS_MACHINE).ok()?;
    Some(answer(&machine))
}

fn answer(machine: &str) -> miette::Result<()> {
    let root = std::env::var("FARMHAND_FARM").into_diagnostic()?;
    let farm = Farm::load(Utf8Path::new(&root))?;
    let dirs = Dirs::of_user().into_diagnostic()?;
    let login = Selection::one(machine).of(&farm)?[0].login(&dirs.login_key());
    let passwords = login.credentials.into_iter().filter_map(|credential| match credential {
        Credential::Password(password) => Some(password),
        Credential::Key(_) => None,
    });
    for password in passwords.take(1) {
        print(format!("{}\n", password.reveal()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        base::{Become, BecomeMethod, Secret},
        guest,
    };

    #[tokio::test]
    async fn exit_code_is_ssh_s_own() {
        // Nobody listens there any more.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let r#become = Become { method: BecomeMethod::Su, user: "root".into(), password: None };
        let way = Way {
            endpoint: Endpoint { host: "127.0.0.1".into(), port, jump: None, host_key: None },
            login: Login { user: "tester".into(), credentials: vec![], r#become },
            alias: "m".into(),
            known_hosts: tempfile::NamedTempFile::new().unwrap(),
            farm: "/farm".into(),
            machine: "m".into(),
        };
        let refused = way.run(|endpoint, login, alias, known_hosts| {
            openssh::command_line(endpoint, login, alias, known_hosts, &["true".into()])
        });
        assert_eq!(refused.await.unwrap(), ExitCode::from(NO_CONNECTION));
        let ended = way.run(|_, _, _, _| ["sh", "-c", "exit 7"].map(OsString::from).to_vec());
        assert_eq!(ended.await.unwrap(), ExitCode::from(7));
        let killed = way.run(|_, _, _, _| ["sh", "-c", "kill -9 $$"].map(OsString::from).to_vec());
        assert_eq!(killed.await.unwrap(), ExitCode::from(NO_CONNECTION));
    }

    /// The hosts on the way are logged in to by clients that ours starts, and they may ask, too.
    #[tokio::test]
    async fn only_the_guest_is_given_its_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let client = path("client");
        std::fs::write(&client, format!("#!/bin/sh\nenv >{}\n", path("environment"))).unwrap();
        std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
        let jump = guest::Way::to(&format!("qemu+ssh://host/system?command={client}"), None, "/s".into());
        let r#become = Become { method: BecomeMethod::Su, user: "root".into(), password: None };
        let credentials = vec![Credential::Password(Secret::new("s3cret"))];
        let way = Way {
            endpoint: Endpoint {
                host: "127.0.0.1".into(),
                port: 22,
                jump: jump.jump().cloned(),
                host_key: None,
            },
            login: Login { user: "tester".into(), credentials, r#become },
            alias: "m".into(),
            known_hosts: tempfile::NamedTempFile::new().unwrap(),
            farm: "/farm".into(),
            machine: "m".into(),
        };
        let ended = way.run(|endpoint, login, alias, known_hosts| {
            openssh::command_line(endpoint, login, alias, known_hosts, &[])
        });
        assert_eq!(ended.await.unwrap(), ExitCode::from(NO_CONNECTION));
        let environment = std::fs::read_to_string(path("environment")).unwrap();
        assert!(environment.contains(ASKPASS_MACHINE), "it is what ours had: {environment}");
        assert!(!environment.contains("SSH_ASKPASS"), "{environment}");
    }
}

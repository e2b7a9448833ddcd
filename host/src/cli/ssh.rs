use std::{ffi::OsString, process::ExitCode, sync::Arc};

use miette::{IntoDiagnostic, WrapErr, miette};

use super::{FarmArgs, print, selection::Selection, workbench::Workbench};
use crate::{
    base::{Credential, Dirs},
    farm::Farm,
    guest::openssh,
    run::{self, Event},
};

/// Set for the OpenSSH client: it starts farmhand as its SSH_ASKPASS program, which answers with this machine's password.
const ASKPASS_MACHINE: &str = "FARMHAND_ASKPASS_MACHINE";

/// Open a shell on a machine, or run a command there, with the OpenSSH client. A machine that is off is started.
///
/// The host key is the one that farmhand pinned when it made the machine. The exit code is ssh's own: the command's, or 255
/// when there is no connection.
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
        let workbench = Workbench::open(args).await?;
        let machine = Selection::one(&self.machine).of(&workbench.farm)?[0].clone();
        let (host, _) = workbench.find_existing(&machine.name).await?;
        let site = workbench.site(
            host,
            Arc::new(|event: Event| {
                if let Event::Progress { message, .. } = event {
                    eprintln!("{message}");
                }
            }),
            None,
        );
        let endpoint = run::reach(&site, &machine).await.into_diagnostic()?;
        let login = site.login(&machine);

        let alias = machine.name.replace(' ', "_");
        let host_key = endpoint.host_key.as_deref().unwrap_or_default();
        let line = openssh::known_hosts_line(&alias, host_key)
            .ok_or_else(|| miette!("the host key that was pinned for {alias} can't be read: {host_key}"))?;
        let known_hosts = tempfile::NamedTempFile::new().into_diagnostic()?;
        std::fs::write(known_hosts.path(), line).into_diagnostic()?;
        let path = camino::Utf8Path::from_path(known_hosts.path())
            .ok_or_else(|| miette!("the temporary folder's path is not UTF-8"))?;

        let words = openssh::command_line(&endpoint, &login, &alias, path, &self.command);
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]);
        if login.credentials.iter().any(|credential| matches!(credential, Credential::Password(_))) {
            command
                .env("SSH_ASKPASS", std::env::current_exe().into_diagnostic()?)
                .env("SSH_ASKPASS_REQUIRE", "force")
                .env("FARMHAND_FARM", workbench.farm.root.as_str())
                .env(ASKPASS_MACHINE, &machine.name);
        }
        let status =
            command.status().await.into_diagnostic().wrap_err("can't start the OpenSSH client `ssh`")?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)))
    }
}

/// Answers the OpenSSH client's question for a password, if this process was started for that. The password goes through the
/// pipe to its standard output alone: never through arguments or the environment.
pub fn askpass() -> Option<miette::Result<()>> {
    let machine = std::env::var(ASKPASS_MACHINE).ok()?;
    Some(answer(&machine))
}

fn answer(machine: &str) -> miette::Result<()> {
    let root = std::env::var("FARMHAND_FARM").into_diagnostic()?;
    let farm = Farm::load(camino::Utf8Path::new(&root))?;
    let dirs = Dirs::of_user().into_diagnostic()?;
    let login = Selection::one(machine).of(&farm)?[0].login(&dirs.login_key());
    let passwords = login.credentials.into_iter().filter_map(|credential| match credential {
        Credential::Password(password) => Some(password),
        Credential::Key(_) => None,
    });
    for password in passwords.take(1) {
        print(format!("{}\n", password.reveal()));
    }
    Ok(())
}

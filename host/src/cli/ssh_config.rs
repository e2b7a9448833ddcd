use std::process::ExitCode;

use camino::Utf8PathBuf;
use miette::{IntoDiagnostic, WrapErr, miette};
use serde::Serialize;

use super::{
    FarmArgs, print, print_json,
    selection::Selection,
    ssh::{alias, known_hosts_line},
    workbench::Workbench,
};
use crate::{
    base::Credential,
    farm::Machine,
    guest::{Endpoint, Jump, openssh},
};

/// Print how other programs reach machines by SSH: as blocks of ssh_config(5), or as JSON.
///
/// The host keys are those that farmhand pinned, in files that are written now. A machine that does not exist, or that was
/// never booted, is left out, unless it is named. When another one can't be told of, that is said, and the exit code is 1. A
/// password is not told: ssh asks for it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand ssh-config > ssh.conf && rsync -e 'ssh -F ssh.conf' -r src/ debian_vs_amd64:src/\n  farmhand ssh-config --json"
)]
pub(super) struct SshConfig {
    #[command(flatten)]
    selection: Selection,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Entry {
    machine: String,
    /// The name in the known_hosts file.
    alias: String,
    host: String,
    port: u16,
    /// `ProxyCommand` of ssh_config(5), where the machine is reached through another host.
    proxy_command: Option<String>,
    user: String,
    identity_files: Vec<Utf8PathBuf>,
    known_hosts: Utf8PathBuf,
    host_key: String,
    /// Whether the login may need a password.
    password: bool,
}

impl SshConfig {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let folder = workbench.dirs.known_hosts();
        std::fs::create_dir_all(&folder)
            .into_diagnostic()
            .wrap_err_with(|| format!("can't make {folder}"))?;
        let (mut blocks, mut entries) = (Vec::new(), Vec::new());
        let mut code = ExitCode::SUCCESS;
        for machine in self.selection.of(&workbench.farm)? {
            let named = self.selection.names(&machine.name);
            let (endpoint, host_key) = match known(&workbench, machine).await {
                Ok(Some(known)) => known,
                Ok(None) if named => {
                    let help = format!("make and boot it: farmhand up '{}'", machine.name);
                    return Err(miette!(help = help, "{} does not exist or was never booted", machine.name));
                }
                Ok(None) => continue,
                Err(report) if named => {
                    return Err(report.wrap_err(format!("{} can't be reached", machine.name)));
                }
                Err(report) => {
                    eprintln!("{:?}", report.wrap_err(format!("{} is left out", machine.name)));
                    code = ExitCode::FAILURE;
                    continue;
                }
            };
            let (alias, login) = (alias(&machine.name), machine.login(&workbench.dirs.login_key()));
            let known_hosts = folder.join(&alias);
            std::fs::write(&known_hosts, known_hosts_line(&alias, &endpoint)?)
                .into_diagnostic()
                .wrap_err_with(|| format!("can't write {known_hosts}"))?;
            blocks.push(openssh::config_block(&endpoint, &login, &alias, &known_hosts));
            let (keys, passwords): (Vec<_>, Vec<_>) = login
                .credentials
                .into_iter()
                .partition(|credential| matches!(credential, Credential::Key(_)));
            let path = |credential| match credential {
                Credential::Key(path) => Some(path),
                Credential::Password(_) => None,
            };
            entries.push(Entry {
                machine: machine.name.clone(),
                alias,
                host: endpoint.host,
                port: endpoint.port,
                proxy_command: endpoint.jump.as_ref().map(Jump::proxy_command),
                user: login.user,
                identity_files: keys.into_iter().filter_map(path).collect(),
                known_hosts,
                host_key,
                password: !passwords.is_empty(),
            });
        }
        if self.json {
            print_json(&entries)?;
        } else {
            print(blocks.join("\n"))?;
        }
        Ok(code)
    }
}

/// Where a machine is, and its host key. `None` when it does not exist or was never booted.
async fn known(workbench: &Workbench, machine: &Machine) -> miette::Result<Option<(Endpoint, String)>> {
    let Some((host, existing)) = workbench.find(&machine.name).await? else { return Ok(None) };
    let pinned = existing.domain.metadata.as_ref().and_then(|metadata| metadata.ssh_host_key.clone());
    let Some(host_key) = pinned else { return Ok(None) };
    let endpoint = workbench.endpoint(host, machine, &existing.domain).await.into_diagnostic()?;
    Ok(Some((endpoint, host_key)))
}

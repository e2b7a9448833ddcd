use std::process::ExitCode;

use serde::Serialize;

use super::{FarmArgs, print, print_json, selection::Selection, table::table, workbench::Workbench};
use crate::hypervisor::DomainState;

/// Show what exists of the farm's machines on its hypervisors.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    selection: Selection,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// What exists of one machine.
#[derive(Debug, Serialize)]
struct MachineStatus {
    machine: String,
    /// The hypervisor that has it.
    hypervisor: Option<String>,
    /// `None`: there is no domain.
    state: Option<DomainState>,
    /// Whether farmhand made the domain.
    managed: bool,
    /// Where the guest's SSH server listens, as far as that is known: host and port.
    ssh: Option<String>,
    /// The host that one goes through to get there, if it is not reached from here.
    through: Option<String>,
    snapshots: Vec<String>,
}

impl Status {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let mut statuses = Vec::new();
        for machine in self.selection.of(&workbench.farm)? {
            let found = workbench.find(&machine.name).await?;
            let (host, existing) =
                found.map_or((None, None), |(host, existing)| (Some(host), Some(existing)));
            let domain = existing.as_ref().map(|existing| &existing.domain);
            let endpoint = match host.zip(domain) {
                Some((host, domain)) => workbench.endpoint(host, machine, domain).await.ok(),
                None => None,
            };
            statuses.push(MachineStatus {
                machine: machine.name.clone(),
                hypervisor: host.map(|host| host.config.name.clone()),
                state: domain.map(|domain| domain.state),
                managed: domain.is_some_and(|domain| domain.metadata.is_some()),
                through: endpoint
                    .as_ref()
                    .and_then(|endpoint| Some(endpoint.jump.as_ref()?.host().to_owned())),
                ssh: endpoint.map(|endpoint| endpoint.address()),
                snapshots: existing
                    .iter()
                    .flat_map(|existing| &existing.snapshots)
                    .map(|s| s.name.clone())
                    .collect(),
            });
        }
        if self.json {
            print_json(&statuses)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = statuses.into_iter().map(|status| {
            let state = match status.state {
                None => "not created".to_owned(),
                Some(_) if !status.managed => "not farmhand's".to_owned(),
                Some(DomainState::Running) => "running".to_owned(),
                Some(DomainState::Paused) => "paused".to_owned(),
                Some(DomainState::ShutOff) => "shut off".to_owned(),
                Some(DomainState::Crashed) => "crashed".to_owned(),
            };
            let hypervisor = status.hypervisor.unwrap_or_default();
            let ssh = match (status.ssh, status.through) {
                (Some(ssh), Some(through)) => format!("{ssh} through {through}"),
                (ssh, _) => ssh.unwrap_or_default(),
            };
            [status.machine, state, hypervisor, ssh, status.snapshots.join(", ")]
        });
        print(table(["machine", "state", "hypervisor", "ssh", "snapshots"], rows))?;
        Ok(ExitCode::SUCCESS)
    }
}

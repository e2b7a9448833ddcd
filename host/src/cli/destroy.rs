use std::process::ExitCode;

use miette::{IntoDiagnostic, miette};

use super::{FarmArgs, print, selection::Selection, workbench::Workbench};
use crate::run;

/// Remove machines: domains, snapshots and disks. Their base images stay in the cache.
///
/// A running machine is not shut down gracefully. A domain that farmhand did not make is never touched.
#[derive(Debug, clap::Args)]
pub(super) struct Destroy {
    #[command(flatten)]
    selection: Selection,
}

impl Destroy {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let mut failed = false;
        for machine in self.selection.of(&workbench.farm)? {
            let name = &machine.name;
            match destroy(&workbench, name).await {
                Ok(done) => print(format!("{name}: {done}\n"))?,
                Err(report) => {
                    failed = true;
                    eprintln!("{:?}", report.wrap_err(format!("{name} could not be removed")));
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn destroy(workbench: &Workbench, name: &str) -> miette::Result<&'static str> {
    let found = workbench.find(name).await?;
    let host = match (&found, workbench.hosts.first()) {
        (Some((host, _)), _) => host,
        (None, Some(any)) => any,
        (None, None) => return Ok("does not exist"),
    };
    let (hypervisor, storage) = (&host.hypervisor, workbench.storage(host));
    if found.as_ref().is_some_and(|(_, existing)| existing.domain.metadata.is_none()) {
        return Err(miette!(
            "the domain `{name}` was not made by farmhand; remove it with virsh if you want to"
        ));
    }
    // Also when there is no domain: a killed run may have left its disks.
    let remove = async { run::remove(&**hypervisor, &*storage, name).await.into_diagnostic() };
    Ok(if workbench.locked(hypervisor, name, remove).await? { "removed" } else { "does not exist" })
}

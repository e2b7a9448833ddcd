use std::process::ExitCode;

use miette::{IntoDiagnostic, miette};

use super::{FarmArgs, print, selection::Selection, workbench::Workbench};
use crate::run::{self, MachineLock, Storage};

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
            match destroy(&workbench, &machine.name).await {
                Ok(done) => print(format!("{}: {done}\n", machine.name)),
                Err(report) => {
                    failed = true;
                    eprintln!("{:?}", report.wrap_err(format!("{} could not be removed", machine.name)));
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn destroy(workbench: &Workbench, name: &str) -> miette::Result<&'static str> {
    let _lock = MachineLock::acquire(&workbench.dirs.locks(), name).into_diagnostic()?;
    let Some((host, existing)) = workbench.find(name).await? else {
        // Disks that a killed run left without a domain.
        workbench.storage().remove_disks(name).await.into_diagnostic()?;
        return Ok("does not exist");
    };
    if existing.domain.metadata.is_none() {
        return Err(miette!(
            "the domain `{name}` was not made by farmhand; remove it with virsh if you want to"
        ));
    }
    run::remove(&*host.hypervisor, &workbench.storage(), name).await.into_diagnostic()?;
    Ok("removed")
}

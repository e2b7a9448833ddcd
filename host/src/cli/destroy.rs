use std::process::ExitCode;

use miette::{IntoDiagnostic, miette};

use super::{FarmArgs, print, workbench::Workbench};
use crate::run;

/// Remove machines: domains, snapshots and disks. Their base images stay in the cache.
///
/// A running machine is not shut down gracefully. A domain that farmhand did not make is never touched.
#[derive(Debug, clap::Args)]
pub(super) struct Destroy {
    /// Only these machines.
    machines: Vec<String>,
}

impl Destroy {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let mut failed = false;
        for machine in workbench.select(&self.machines)? {
            let name = &machine.name;
            match workbench.locked(name, destroy(&workbench, name)).await {
                Ok(done) => print(format!("{name}: {done}\n")),
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
    let domain = workbench.hypervisor.domain(name).await.into_diagnostic()?;
    if domain.as_ref().is_some_and(|domain| domain.metadata.is_none()) {
        return Err(miette!(
            "the domain `{name}` was not made by farmhand; remove it with virsh if you want to"
        ));
    }
    let existed = run::remove(&*workbench.hypervisor, &workbench.storage(), name).await.into_diagnostic()?;
    Ok(if existed { "removed" } else { "does not exist" })
}

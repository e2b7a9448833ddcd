mod list;
mod prune;

use std::{process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use miette::{IntoDiagnostic, miette};

use super::{FarmArgs, print, selection::Selection, workbench::Workbench};
use crate::{
    base::Checkpoint,
    hypervisor::{DomainState, Hypervisor},
    plan::Existing,
    run,
};

/// List, revert to and delete snapshots of machines.
#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    List(list::List),
    Revert(Revert),
    Delete(Delete),
    Prune(prune::Prune),
}

impl Snapshot {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        match self {
            Self::List(command) => command.run(args).await,
            Self::Revert(command) => command.run(args).await,
            Self::Delete(command) => command.run(args).await,
            Self::Prune(command) => command.run(args).await,
        }
    }
}

/// Which snapshot.
#[derive(Debug, Args)]
struct Named {
    /// The machine.
    machine: String,
    /// The snapshot's name; `clean`, `dependencies` and `init` are short for this project's checkpoints.
    snapshot: String,
}

/// Put a machine into the state of a snapshot. It runs afterwards if it ran when the snapshot was taken.
#[derive(Debug, Args)]
pub(super) struct Revert {
    #[command(flatten)]
    named: Named,
}

impl Revert {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let (hypervisor, snapshot) = self.named.find(&workbench).await?;
        let machine = &self.named.machine;
        workbench.locked(hypervisor, machine, revert(&**hypervisor, machine, &snapshot)).await?;
        print(format!("{machine} is as it was at {snapshot}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn revert(hypervisor: &dyn Hypervisor, machine: &str, snapshot: &str) -> miette::Result<()> {
    hypervisor.revert(machine, snapshot).await.into_diagnostic()?;
    let domain = hypervisor.domain(machine).await.into_diagnostic()?;
    if domain.is_some_and(|domain| domain.state == DomainState::Running)
        && let Err(refused) = run::synchronize_clock(hypervisor, machine).await
    {
        eprintln!("the guest's clock shows the snapshot's time: {refused}");
    }
    Ok(())
}

/// Delete a snapshot of a machine.
#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    named: Named,
}

impl Delete {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let (hypervisor, snapshot) = self.named.find(&workbench).await?;
        let machine = &self.named.machine;
        let delete = async { hypervisor.delete_snapshot(machine, &snapshot).await.into_diagnostic() };
        workbench.locked(hypervisor, machine, delete).await?;
        print(format!("{snapshot} of {machine} is deleted\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    /// The hypervisor that has it, and its full name.
    async fn find<'a>(&self, workbench: &'a Workbench) -> miette::Result<(&'a Arc<dyn Hypervisor>, String)> {
        let Self { machine, snapshot } = self;
        Selection::one(machine).of(&workbench.farm)?;
        let (host, Existing { snapshots, .. }) = workbench.find_existing(machine).await?;
        let full = full_name(workbench, snapshot);
        match snapshots.iter().find(|found| found.name == *snapshot || found.name == full) {
            Some(found) => Ok((&host.hypervisor, found.name.clone())),
            None => {
                let names: Vec<_> = snapshots.iter().map(|found| found.name.as_str()).collect();
                let help = if names.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has: {}", names.join(", "))
                };
                Err(miette!(help = help, "{machine} has no snapshot `{snapshot}`"))
            }
        }
    }
}

/// The snapshot's name of a checkpoint's name; any other name as it is.
fn full_name(workbench: &Workbench, name: &str) -> String {
    let project = &workbench.farm.config.project;
    match Checkpoint::ALL.into_iter().find(|checkpoint| checkpoint.name() == name) {
        Some(checkpoint) => checkpoint.snapshot_name(&project.id, &project.revision.to_string()),
        None => name.to_owned(),
    }
}

use std::process::ExitCode;

use clap::{Args, Subcommand};
use miette::{IntoDiagnostic, miette};
use serde::Serialize;

use super::{
    FarmArgs,
    planned::Planned,
    print, print_json,
    selection::Selection,
    table::table,
    workbench::{Host, Workbench},
};
use crate::{
    base::Checkpoint,
    hypervisor::{DomainState, Snapshot as Found},
    plan::{Existing, Verdict},
    run::{self, MachineLock},
};

/// List, revert to and delete snapshots of machines.
#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    List(List),
    Revert(Revert),
    Delete(Delete),
}

impl Snapshot {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        match self {
            Self::List(command) => command.run(args).await,
            Self::Revert(command) => command.run(args).await,
            Self::Delete(command) => command.run(args).await,
        }
    }
}

/// List the snapshots of machines: checkpoints, whether they are still valid, and others.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    selection: Selection,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    machine: String,
    snapshot: String,
    created: String,
    memory: bool,
    /// `valid`, `stale: ...`, or empty for a snapshot that is no checkpoint of this project.
    checkpoint: String,
}

impl List {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::look(args, &self.selection).await?;
        let workbench = &planned.workbench;
        let mut rows = Vec::new();
        for machine in planned.machines() {
            let name = &machine.machine.name;
            let snapshots =
                machine.existing.as_ref().map(|existing| existing.snapshots.clone()).unwrap_or_default();
            for Found { name: snapshot, creation_time, live, .. } in snapshots {
                let verdict = machine
                    .plan
                    .checkpoints
                    .iter()
                    .find(|(checkpoint, _)| full_name(workbench, checkpoint.name()) == snapshot);
                rows.push(Row {
                    machine: name.clone(),
                    created: jiff::Timestamp::from_second(creation_time)
                        .map(|time| time.to_string())
                        .unwrap_or_default(),
                    memory: live,
                    checkpoint: match verdict {
                        Some((_, Verdict::Valid)) => "valid".to_owned(),
                        Some((_, Verdict::Stale(reason))) => format!("stale: {reason}"),
                        Some((_, Verdict::Missing | Verdict::Unused)) => "unused".to_owned(),
                        None => String::new(),
                    },
                    snapshot,
                });
            }
        }
        if self.json {
            print_json(&rows)?;
        } else {
            let rows = rows.into_iter().map(|row| {
                let memory = if row.memory { "yes" } else { "no" };
                [row.machine, row.snapshot, row.created, memory.to_owned(), row.checkpoint]
            });
            print(table(["machine", "snapshot", "created", "memory", "checkpoint"], rows));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Put a machine into the state of a snapshot. It runs afterwards if it ran when the snapshot was taken.
#[derive(Debug, Args)]
pub(super) struct Revert {
    /// The machine.
    machine: String,
    /// The snapshot's name; `clean`, `dependencies` and `init` are short for this project's checkpoints.
    snapshot: String,
}

impl Revert {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let (host, snapshot) = find(&workbench, &self.machine, &self.snapshot).await?;
        let _lock = MachineLock::acquire(&workbench.dirs.locks(), &self.machine).into_diagnostic()?;
        host.hypervisor.revert(&self.machine, &snapshot).await.into_diagnostic()?;
        let (_, existing) = workbench.find_existing(&self.machine).await?;
        if existing.domain.state == DomainState::Running
            && let Err(refused) = run::synchronize_clock(&*host.hypervisor, &self.machine).await
        {
            eprintln!("the guest's clock shows the snapshot's time: {refused}");
        }
        print(format!("{} is as it was at {snapshot}\n", self.machine));
        Ok(ExitCode::SUCCESS)
    }
}

/// Delete a snapshot of a machine.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The machine.
    machine: String,
    /// The snapshot's name; `clean`, `dependencies` and `init` are short for this project's checkpoints.
    snapshot: String,
}

impl Delete {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let (host, snapshot) = find(&workbench, &self.machine, &self.snapshot).await?;
        let _lock = MachineLock::acquire(&workbench.dirs.locks(), &self.machine).into_diagnostic()?;
        host.hypervisor.delete_snapshot(&self.machine, &snapshot).await.into_diagnostic()?;
        print(format!("{snapshot} of {} is deleted\n", self.machine));
        Ok(ExitCode::SUCCESS)
    }
}

/// A machine's snapshot by its full or short name, and the hypervisor that has it.
async fn find<'a>(
    workbench: &'a Workbench,
    machine: &str,
    snapshot: &str,
) -> miette::Result<(&'a Host, String)> {
    Selection::one(machine).of(&workbench.farm)?;
    let (host, Existing { snapshots, .. }) = workbench.find_existing(machine).await?;
    let full = full_name(workbench, snapshot);
    match snapshots.iter().find(|found| found.name == snapshot || found.name == full) {
        Some(found) => Ok((host, found.name.clone())),
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

/// The snapshot's name of a checkpoint's name; any other name as it is.
fn full_name(workbench: &Workbench, name: &str) -> String {
    let project = &workbench.farm.config.project;
    match Checkpoint::ALL.into_iter().find(|checkpoint| checkpoint.name() == name) {
        Some(checkpoint) => checkpoint.snapshot_name(&project.id, &project.revision.to_string()),
        None => name.to_owned(),
    }
}

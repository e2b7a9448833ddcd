use std::{process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use miette::IntoDiagnostic;

use crate::{
    base::parse_duration,
    cli::{FarmArgs, planned::Planned, print, selection::Selection},
    hypervisor::Hypervisor,
    plan::{Retention, expendable},
};

/// Delete checkpoints that are old, too many, or wanted no more.
///
/// Only checkpoints go, never other snapshots, and none on which something stands that stays. A valid one goes only for its
/// age or number.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).multiple(true),
    after_help = "Examples:\n  farmhand snapshot prune --unreachable --dry-run\n  farmhand snapshot prune debian_vs_amd64 --older-than 30d --keep 3"
)]
pub(in crate::cli) struct Prune {
    #[command(flatten)]
    selection: Selection,
    /// Those older than this: `30d`, `12h`, `1w 2d`.
    #[arg(long, value_name = "TIME", group = "which", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Those of this project that the farm wants no more: stale ones, and those of other revisions.
    #[arg(long, group = "which")]
    unreachable: bool,
    /// Keep the newest N of each machine, whatever else is asked for. Alone: delete all others.
    #[arg(long, value_name = "N", group = "which")]
    keep: Option<usize>,
    /// Only say what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(in crate::cli) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let seconds = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let retention = Retention {
            older_than: self.older_than.map(seconds),
            unreachable: self.unreachable,
            keep: self.keep,
        };
        let planned = Planned::look(args, &self.selection).await?;
        let workbench = &planned.workbench;
        let now = jiff::Timestamp::now().as_second();
        let (mut failed, mut any) = (false, false);
        for machine in planned.machines() {
            let name = &machine.machine.name;
            let Some(existing) = &machine.existing else { continue };
            let project = &workbench.farm.config.project;
            let going = expendable(project, &machine.plan.checkpoints, &existing.snapshots, &retention, now);
            any |= !going.is_empty();
            let hypervisor = &workbench.hosts[machine.host].hypervisor;
            if self.dry_run {
                for snapshot in &going {
                    print(format!("{name}: {snapshot} would be deleted\n"))?;
                }
            } else if !going.is_empty()
                && let Err(report) =
                    workbench.locked(hypervisor, name, delete(&**hypervisor, name, &going)).await
            {
                failed = true;
                eprintln!("{report:?}");
            }
        }
        if !any {
            print("no checkpoint is to be deleted\n")?;
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn delete(hypervisor: &dyn Hypervisor, machine: &str, snapshots: &[String]) -> miette::Result<()> {
    for snapshot in snapshots {
        hypervisor.delete_snapshot(machine, snapshot).await.into_diagnostic()?;
        print(format!("{machine}: {snapshot} is deleted\n"))?;
    }
    Ok(())
}

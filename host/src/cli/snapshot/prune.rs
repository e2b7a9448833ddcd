use std::process::ExitCode;

use clap::{ArgGroup, Args};
use jiff::{Span, SpanRelativeTo};
use miette::IntoDiagnostic;

use crate::{
    cli::{
        FarmArgs, print,
        workbench::{Planned, Workbench},
    },
    plan::{Retention, expendable},
};

/// The longest time that can be asked for: a hundred years, in seconds.
const MAX_AGE: i64 = 100 * 365 * 24 * 3600;

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
    /// Only of these machines.
    machines: Vec<String>,
    /// Those older than this: `30d`, `12h`, `1w 2d`.
    #[arg(long, value_name = "TIME", group = "which", value_parser = seconds)]
    older_than: Option<i64>,
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
        let retention =
            Retention { older_than: self.older_than, unreachable: self.unreachable, keep: self.keep };
        let Planned { workbench, jobs } = Planned::new(args, &self.machines, false).await?;
        let now = jiff::Timestamp::now().as_second();
        let (mut failed, mut any) = (false, false);
        for job in jobs {
            let name = &job.machine.name;
            let Some(existing) = workbench.existing(name).await? else { continue };
            let project = &workbench.farm.config.project;
            let going = expendable(project, &job.plan.checkpoints, &existing.snapshots, &retention, now);
            any |= !going.is_empty();
            if self.dry_run {
                going.iter().for_each(|snapshot| print(format!("{name}: {snapshot} would be deleted\n")));
            } else if !going.is_empty()
                && let Err(report) = workbench.locked(name, delete(&workbench, name, &going)).await
            {
                failed = true;
                eprintln!("{report:?}");
            }
        }
        if !any {
            print("no checkpoint is to be deleted\n");
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn delete(workbench: &Workbench, machine: &str, snapshots: &[String]) -> miette::Result<()> {
    for snapshot in snapshots {
        workbench.hypervisor.delete_snapshot(machine, snapshot).await.into_diagnostic()?;
        print(format!("{machine}: {snapshot} is deleted\n"));
    }
    Ok(())
}

/// A time such as `30d` or `1h 30m`, in seconds.
fn seconds(text: &str) -> Result<i64, String> {
    let expected = "expected a time such as `30d` or `12h`";
    let span: Span = text.parse().map_err(|_| expected.to_owned())?;
    // Months and years differ in length.
    let time = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("{expected}: in weeks, days or shorter units"))?;
    let seconds = time.as_secs();
    if (0..=MAX_AGE).contains(&seconds) && !time.is_negative() {
        Ok(seconds)
    } else {
        Err(format!("{expected}, of at most a hundred years"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_bounded() {
        for (text, expected) in [
            ("30d", 30 * 86_400),
            ("12h", 43_200),
            ("1w 2d", 9 * 86_400),
            ("90m", 5400),
            ("0s", 0),
            ("36500d", MAX_AGE),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "30", "d", "-1d", "30d ago", "1mo", "1y", "36501d", "99999999999999d", "soon"] {
            assert!(seconds(text).unwrap_err().contains("expected a time"), "{text}");
        }
    }
}

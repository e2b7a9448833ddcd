use std::{num::NonZeroUsize, process::ExitCode};

use miette::IntoDiagnostic;
use tokio::sync::mpsc;

use super::{FarmArgs, prune, workbench::Planned};
use crate::{
    report::{Format, Reporter},
    run::{self, Event},
};

/// Bring machines up: make those that are missing, restore the deepest checkpoint that is valid, carry out the phases above
/// it, and shut down.
///
/// The exit code is 0 when all machines passed, 1 when one failed, 2 when nothing was begun because the input is wrong.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand up\n  farmhand up debian_vs_amd64 --fresh\n  farmhand up --jobs 4 --json"
)]
pub(super) struct Up {
    /// Only these machines.
    machines: Vec<String>,
    /// Work on at most this many machines at once [default: the farm's `serial`, else all].
    #[arg(long, short)]
    jobs: Option<NonZeroUsize>,
    /// Install the machines anew, whatever exists.
    #[arg(long)]
    fresh: bool,
    /// Also show each step as it begins, and what modules say for their authors.
    #[arg(long, short)]
    verbose: bool,
    /// Write a transcript of each step to this folder: what the module asked of the guest, and what it was answered.
    ///
    /// `farmhand module test` and the SDK play transcripts back without a machine. Secrets are not in them; what commands in
    /// the guest wrote is.
    #[arg(long, value_name = "FOLDER")]
    record: Option<camino::Utf8PathBuf>,
    /// Print the run's events, one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Up {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let mut planned = Planned::new(args, &self.machines, self.fresh).await?;
        if prune::recover(&planned.workbench).await? {
            planned = Planned::new(args, &self.machines, self.fresh).await?;
        }
        let Planned { workbench, mut jobs } = planned;
        for job in &mut jobs {
            job.steps.read_secrets(&workbench.farm)?;
        }
        let at_once = self.jobs.or(workbench.farm.config.serial);
        let format = if self.json { Format::Json } else { Format::Text { verbose: self.verbose } };

        let (sender, events) = mpsc::unbounded_channel();
        let reporting = tokio::task::spawn_blocking(move || report(format, events));
        let summary = {
            // A reporter that has ended has said why itself.
            let events = move |event: Event| drop(sender.send(event));
            run::run(workbench.site(std::sync::Arc::new(events), self.record), jobs, at_once).await
        };
        reporting.await.into_diagnostic()?.into_diagnostic()?;
        Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Shows events until the run has ended. When standard output is gone, the run goes on unseen.
fn report(format: Format, mut events: mpsc::UnboundedReceiver<Event>) -> std::io::Result<()> {
    let mut reporter = Reporter::new(format);
    while let Some(event) = events.blocking_recv() {
        reporter.report(&event)?;
    }
    Ok(())
}

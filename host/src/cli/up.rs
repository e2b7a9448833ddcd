use std::{num::NonZeroUsize, process::ExitCode, sync::Arc};

use miette::IntoDiagnostic;
use tokio::sync::mpsc;

use super::{
    FarmArgs,
    interrupt::{INTERRUPTED, stop_at_signal},
    planned::{PlanArgs, Planned},
    prune,
};
use crate::{
    report::{Format, Reporter},
    run::{self, Event, EventSink, Orders, Summary},
};

/// Bring machines up: make those that are missing, restore the deepest checkpoint that is valid, carry out the phases above
/// it, and shut down.
///
/// Ctrl-C ends a run gently: no further machine is begun, phases are ended, terminate and shutdown still run. A second one ends
/// it at once. Either way the next run goes on from what there is.
///
/// The exit code is 0 when all machines passed, 1 when one failed or was not begun, 2 when nothing was begun because the input
/// is wrong, 130 when the run was interrupted.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand up\n  farmhand up debian_vs_amd64 --fresh\n  farmhand up --jobs 4 --json\n  farmhand up 'debian*' --from init --skip shutdown"
)]
pub(super) struct Up {
    #[command(flatten)]
    plan: PlanArgs,
    /// Work on at most this many machines at once [default: the farm's `serial`, else as many as the hypervisors take].
    #[arg(long, short)]
    jobs: Option<NonZeroUsize>,
    /// Begin no further machine once one has failed. Those that are worked on are finished.
    #[arg(long, conflicts_with = "max_failures")]
    fail_fast: bool,
    /// Begin no further machine once so many have failed [default: the farm's `max_failures`, else never].
    #[arg(long, value_name = "N")]
    max_failures: Option<NonZeroUsize>,
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
        let mut planned = Planned::new(args, &self.plan).await?;
        if prune::recover(&planned.workbench).await? {
            planned = Planned::new(args, &self.plan).await?;
        }
        let stop = stop_at_signal().into_diagnostic()?;
        let format = if self.json { Format::Json } else { Format::Text { verbose: self.verbose } };
        let (sender, received) = mpsc::unbounded_channel();
        // A reporter that has ended has said why itself.
        let events: Arc<dyn EventSink> = Arc::new(move |event: Event| drop(sender.send(event)));
        let config = &planned.workbench.farm.config;
        let one = self.fail_fast.then_some(NonZeroUsize::MIN);
        let orders = Orders {
            project: config.project.clone(),
            events: events.clone(),
            at_once: self.jobs.or(config.serial),
            capacities: planned.capacities.clone(),
            max_failures: one.or(self.max_failures).or(config.max_failures),
            stop: stop.clone(),
        };
        let jobs = planned.into_jobs(&events, self.record.as_ref())?;
        drop(events);
        let reporting = tokio::task::spawn_blocking(move || report(format, received));
        let summary = run::run(orders, jobs).await;
        reporting.await.into_diagnostic()?.into_diagnostic()?;
        Ok(match summary {
            _ if stop.is_cancelled() => ExitCode::from(INTERRUPTED),
            Summary { failed: 0, skipped: 0, .. } => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
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

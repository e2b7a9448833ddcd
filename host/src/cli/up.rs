use std::{num::NonZeroUsize, process::ExitCode, sync::Arc};

use miette::IntoDiagnostic;
use tokio::task::spawn_blocking;

use super::{
    FarmArgs,
    chosen::{Chosen, PlanArgs},
    interrupt::{INTERRUPTED, stop_at_signal},
    planned::Planned,
    prune,
    workbench::{Outside, Workbench},
};
use crate::{
    farm::Farm,
    report::{Format, Hub, Record, Records, Reporter},
    run::{self, EventSink, Orders, RunId, Summary},
};

/// Bring machines up: make those that are missing, restore the deepest checkpoint that is valid, carry out the phases above
/// it, and shut down.
///
/// Ctrl-C ends a run gently: no further machine is begun, phases are ended, terminate and shutdown still run. A second one ends
/// it at once. Either way the next run goes on from what there is.
///
/// A record of the run is kept: `farmhand report` shows it again. The exit code is 0 when all machines passed, 1 when one
/// failed or was not begun, 2 when nothing was begun because the input is wrong, 130 when the run was interrupted.
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
        let farm = Farm::load(&args.farm)?;
        let mut chosen = Chosen::new(&farm, &self.plan).await?;
        chosen.read_secrets(&farm)?;
        let workbench = Workbench::connect(args, farm).await?;
        let recovered = prune::recover(&workbench).await?;
        let planned = Planned::new(args, workbench, chosen).await;
        let planned = planned.inspect_err(|_| recovered.iter().for_each(|done| eprintln!("{done}")))?;
        let stop = stop_at_signal().into_diagnostic()?;
        let format = if self.json { Format::Json } else { Format::Text { verbose: self.verbose } };
        let run = RunId::new();
        let record = begin_record(&planned.workbench, &run).await;
        let folder = record.as_ref().map(|record| record.folder().to_owned());
        let hub = Hub::default();
        let reporter = Reporter::new(format, record.as_ref().map(|_| run.clone()));
        let feed = hub.listen();
        let shown = spawn_blocking(move || reporter.show(feed));
        let recorded = record.map(|record| {
            let feed = hub.listen();
            spawn_blocking(move || record.write(feed))
        });
        let events: Arc<dyn EventSink> = Arc::new(hub);
        let config = &planned.workbench.farm.config;
        let one = self.fail_fast.then_some(NonZeroUsize::MIN);
        let orders = Orders {
            run: run.clone(),
            project: config.project.clone(),
            recovered,
            events: events.clone(),
            at_once: self.jobs.or(config.serial),
            capacities: planned.capacities.clone(),
            max_failures: one.or(self.max_failures).or(config.max_failures),
            stop: stop.clone(),
        };
        let outside = Outside { run, folder, events, record: self.record };
        let jobs = planned.into_jobs(outside);
        // The hub goes with the run; then the two come to their ends.
        let summary = run::run(orders, jobs).await;
        if let Err(error) = shown.await.into_diagnostic()? {
            eprintln!("the rest of the run could not be shown: {error}");
        }
        if let Some(recorded) = recorded
            && let Err(error) = recorded.await.into_diagnostic()?
        {
            warn("the record of this run is not complete", error);
        }
        Ok(match summary {
            _ if stop.is_cancelled() => ExitCode::from(INTERRUPTED),
            Summary { failed: 0, skipped: 0, .. } => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

/// The record of this run. Without one, which is said, the run goes on.
async fn begin_record(workbench: &Workbench, run: &RunId) -> Option<Record> {
    let records = Records::new(workbench.dirs.runs());
    let config = &workbench.farm.config;
    let (run, project, keep) = (run.clone(), config.project.id.clone(), config.keep_runs);
    match spawn_blocking(move || records.begin(&run, &project, keep)).await {
        Ok(Ok((record, not_removed))) => {
            if let Some(error) = not_removed {
                warn("old records are still there", error);
            }
            Some(record)
        }
        Ok(Err(error)) => {
            warn("this run is not recorded", error);
            None
        }
        Err(error) => {
            warn("this run is not recorded", error);
            None
        }
    }
}

fn warn(what: &str, error: impl std::error::Error + Send + Sync + 'static) {
    eprintln!("{:?}", miette::Report::from_err(error).wrap_err(what.to_owned()));
}

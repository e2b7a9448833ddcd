//! Carries plans out and tells what happens. It decides nothing: what to do is in the plans.

mod address;
mod cloud_init;
mod error;
mod event;
mod existing;
mod first_boot;
mod id;
mod install;
mod journal;
mod local_storage;
mod lock;
mod machine;
mod network;
mod owner;
mod phase;
mod ports;
mod ready;
mod rehearsal;
mod remote_storage;
mod state;
mod storage;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, time::Instant};

use camino::Utf8PathBuf;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

pub use address::{Source, Unknown};
pub use error::RunError;
pub use event::{EVENT_FORMAT, Event, EventSink, Failure, Level, Retried, TimedEvent};
pub use existing::look;
pub use id::{NoRunId, RunId};
pub use install::{domain_inputs, remove};
pub use journal::{Entry, Journal, JournalError, Leftover, Recovered, Stage};
pub use local_storage::LocalStorage;
pub use lock::{LockError, Locks, Notice};
pub use ports::Ports;
pub use ready::{endpoint, reach, start, synchronize_clock};
pub use rehearsal::{RehearsedEnd, RehearsedPhase, RehearsedStep, rehearse};
pub use remote_storage::RemoteStorage;
pub use storage::{Fetched, ProgressInWords, Seed, Storage, StorageError};

use crate::{
    base::{Checkpoint, Login},
    farm::{DomainInputs, Gate, Machine, Project, Timeouts},
    guest::{Connector, Way},
    hypervisor::{Hypervisor, NewNetwork},
    module::ResolvedSteps,
    plan::{Capacity, Demand, Existing, MachinePlan, Options, Schedule, Wanted},
};

/// Everything outside that work on a machine touches.
pub struct Site {
    /// Where its domain and snapshots are.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// How its guest is connected to.
    pub connector: Arc<dyn Connector>,
    /// How guests of the hypervisor are reached from here.
    pub way: Way,
    /// Where images and disks are.
    pub storage: Arc<dyn Storage>,
    /// Who is told what happens.
    pub events: Arc<dyn EventSink>,
    /// The machines' locks.
    pub locks: Arc<Locks>,
    /// Where it is written down what is about to be made.
    pub journal: Journal,
    /// The private half of farmhand's own login key.
    pub login_key: Utf8PathBuf,
    /// The folder that gets a transcript of each step, if somebody wants them.
    pub record: Option<Utf8PathBuf>,
    /// The run's name.
    pub run: RunId,
    /// The run's folder, if its record is kept.
    pub folder: Option<Utf8PathBuf>,
    /// The folder with what guests answered to commands that only look, a file a machine; without one it is not kept.
    pub probes: Option<Utf8PathBuf>,
    /// Whose checkpoints these are.
    pub project: Project,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// The ports of machines.
    pub ports: Arc<Ports>,
}

impl Site {
    /// How to log in to a machine.
    pub fn login(&self, machine: &Machine) -> Login {
        machine.login(&self.login_key)
    }

    /// The name of a checkpoint's snapshot.
    pub fn snapshot_name(&self, checkpoint: Checkpoint) -> String {
        checkpoint.snapshot_name(&self.project.id, &self.project.revision.to_string())
    }

    /// The folder for a machine's artifacts: `MACHINE/artifacts` in the run's folder. It is made when the first one comes.
    pub fn artifacts(&self, machine: &str) -> Option<Utf8PathBuf> {
        Some(self.folder.as_ref()?.join(machine).join("artifacts"))
    }

    fn notice(&self, machine: &str, notice: Notice) {
        match notice {
            Notice::Progress(message) => self.progress(machine, message),
            Notice::Warning(line) => self.warn(machine, line),
        }
    }

    fn progress(&self, machine: &str, message: String) {
        self.events.emit(Event::Progress { machine: machine.to_owned(), message });
    }

    fn warn(&self, machine: &str, line: String) {
        self.events.emit(Event::Log { machine: machine.to_owned(), level: Level::Warn, line });
    }
}

/// A machine and what is to be done with it.
pub struct MachineJob {
    /// The machine.
    pub machine: Machine,
    /// Where it is.
    pub site: Arc<Site>,
    /// What it takes of its hypervisor.
    pub demand: Demand,
    /// What to do.
    pub plan: MachinePlan,
    /// What the hypervisor had of it when that was planned.
    pub existing: Option<Existing>,
    /// What the user lets the run do.
    pub options: Options,
    /// What its checkpoints are recorded as.
    pub wanted: Wanted,
    /// The modules of its steps.
    pub steps: ResolvedSteps,
    /// What its domain is made from, but for paths and port.
    pub inputs: DomainInputs,
    /// What its network of libvirt's is made as, if that was missing when the run was planned.
    pub network: Option<NewNetwork>,
}

/// How a run goes about its machines.
pub struct Orders {
    /// Its id.
    pub run: RunId,
    /// Whose run it is.
    pub project: Project,
    /// What was done before it about machines that killed runs left.
    pub recovered: Vec<Recovered>,
    /// Who is told what happens.
    pub events: Arc<dyn EventSink>,
    /// How many machines are worked on at once; as many as the hypervisors take when absent.
    pub at_once: Option<NonZeroUsize>,
    /// What each hypervisor has for the machines.
    pub capacities: Vec<Capacity>,
    /// After how many failed machines no further one is begun.
    pub max_failures: Option<NonZeroUsize>,
    /// When it is cancelled, the run ends gently: nothing further is begun, phases are ended, `terminate` and `shutdown` run.
    pub stop: CancellationToken,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many machines passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were not begun.
    pub skipped: usize,
}

/// Carries out the plans of all machines. A machine's failure touches no other.
pub async fn run(orders: Orders, jobs: Vec<MachineJob>) -> Summary {
    let begun = Instant::now();
    let Orders { run, project, recovered, events, at_once, capacities, max_failures, stop } = orders;
    let plans = jobs.iter().map(|job| job.plan.clone()).collect();
    events.emit(Event::RunStarted {
        format: EVENT_FORMAT,
        run,
        farmhand: env!("CARGO_PKG_VERSION").to_owned(),
        project: project.id,
        plans,
    });
    for Recovered { machine, what } in recovered {
        events.emit(Event::Log { machine, level: Level::Info, line: what });
    }
    let demands: Vec<_> = jobs.iter().map(|job| job.demand).collect();
    let mut schedule = Schedule::new(&demands, capacities, at_once);
    let mut waiting: Vec<_> = jobs.into_iter().map(Some).collect();
    let mut tasks = JoinSet::new();
    let mut names: HashMap<Id, (usize, String)> = HashMap::new();
    let mut summary = Summary::default();
    let mut stopping = false;
    loop {
        // Asked here, for the last machine may end before the select below looks.
        if stop.is_cancelled() && !stopping {
            stopping = true;
            events.emit(Event::Interrupted);
        }
        let enough = max_failures.filter(|most| summary.failed >= most.get());
        let reason = match enough {
            _ if stopping => Some("the run was interrupted".to_owned()),
            Some(most) => Some(format!("{most} failed, and no more may (max_failures)")),
            None => None,
        };
        let (reason, skipped) = match reason {
            Some(reason) => (reason, schedule.give_up()),
            None => (CROWDED_OUT.to_owned(), schedule.crowded_out()),
        };
        for job in skipped.into_iter().filter_map(|machine| waiting[machine].take()) {
            summary.skipped += 1;
            events.emit(Event::MachineSkipped { machine: job.machine.name, reason: reason.clone() });
        }
        while let Some(machine) = schedule.begin() {
            let Some(job) = waiting.get_mut(machine).and_then(Option::take) else { continue };
            let name = job.machine.name.clone();
            let task = tasks.spawn(work(job, stop.clone()));
            names.insert(task.id(), (machine, name));
        }
        let ended = tokio::select! {
            ended = tasks.join_next_with_id() => ended,
            () = stop.cancelled(), if !stopping => continue,
        };
        let (id, Ended { failed, runs }) = match ended {
            None => break,
            Some(Ok((id, ended))) => (id, ended),
            Some(Err(error)) => {
                // A bug of ours in one machine's work must not take the others along.
                let machine = names.get(&error.id()).map(|(_, name)| name.clone()).unwrap_or_default();
                let causes = vec![format!("farmhand itself failed: {error}")];
                let failure = Failure {
                    during: "run".to_owned(),
                    step: None,
                    causes,
                    help: None,
                    last_output: Vec::new(),
                };
                events.emit(Event::MachineFinished { machine, failure: Some(failure), seconds: 0.0 });
                (error.id(), Ended { failed: true, runs: true })
            }
        };
        if failed {
            summary.failed += 1
        } else {
            summary.passed += 1
        }
        if let Some((machine, _)) = names.remove(&id) {
            schedule.end(machine, runs);
        }
    }
    let Summary { passed, failed, skipped } = summary;
    events.emit(Event::RunFinished { passed, failed, skipped, seconds: begun.elapsed().as_secs_f64() });
    summary
}

/// Why a machine is not begun beside those that run on.
const CROWDED_OUT: &str = "machines that were left running take what it needs of its hypervisor; shut some down \
    (`farmhand up MACHINE --only shutdown`), or do not leave `shutdown` out";

/// How the work on a machine ended.
struct Ended {
    failed: bool,
    /// Whether it still runs, and takes what it takes. What can't be asked is taken to.
    runs: bool,
}

/// Works on one machine.
async fn work(job: MachineJob, stop: CancellationToken) -> Ended {
    let begun = Instant::now();
    let (site, machine) = (job.site.clone(), job.machine.name.clone());
    let ran = job.demand.runs;
    let shuts_down = job.options.allowed.contains(&Gate::Shutdown);
    site.events.emit(Event::MachineStarted { machine: machine.clone() });
    let failure = machine::run(job, &stop).await;
    let failed = failure.is_some();
    let runs = match &failure {
        None if shuts_down => false,
        // Another run works on it.
        Some(failure) if failure.during == "lock" => ran,
        _ => match site.hypervisor.domain(&machine).await {
            Ok(domain) => domain.is_some_and(|domain| domain.state.is_active()),
            Err(_) => true,
        },
    };
    let seconds = begun.elapsed().as_secs_f64();
    site.events.emit(Event::MachineFinished { machine, failure, seconds });
    Ended { failed, runs }
}

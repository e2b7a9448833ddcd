//! Carries plans out and tells what happens. It decides nothing: what to do is in the plans.

mod error;
mod event;
mod first_boot;
mod install;
mod local_storage;
mod lock;
mod machine;
mod ready;
mod steps;
mod storage;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Instant,
};

use camino::Utf8PathBuf;
use tokio::{sync::Semaphore, task::JoinSet};

pub use error::RunError;
pub use event::{Event, EventSink, Failure, Level};
pub use install::{domain_inputs, remove};
pub use local_storage::LocalStorage;
pub use lock::{LockError, MachineLock};
pub use ready::{endpoint, reach, synchronize_clock};
pub use storage::{Fetched, ProgressInWords, Seed, Storage, StorageError};

use crate::{
    base::{Checkpoint, Login},
    farm::{DomainInputs, Machine, Project, Timeouts},
    guest::Connector,
    hypervisor::Hypervisor,
    module::ResolvedSteps,
    plan::{MachinePlan, Wanted},
};

/// Everything outside that a run touches.
pub struct Site {
    /// Where domains and snapshots are.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// How guests are reached.
    pub connector: Arc<dyn Connector>,
    /// Where images and disks are.
    pub storage: Arc<dyn Storage>,
    /// Who is told what happens.
    pub events: Arc<dyn EventSink>,
    /// The folder of the machines' lock files.
    pub locks: Utf8PathBuf,
    /// The private half of farmhand's own login key.
    pub login_key: Utf8PathBuf,
    /// The folder that gets a transcript of each step, if somebody wants them.
    pub record: Option<Utf8PathBuf>,
    /// Whose checkpoints these are.
    pub project: Project,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// The ports that this run has given to machines: those that it is about to define are not known to the hypervisor yet.
    pub ports: Mutex<BTreeSet<u16>>,
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
    /// What to do.
    pub plan: MachinePlan,
    /// What its checkpoints are recorded as.
    pub wanted: Wanted,
    /// The modules of its steps.
    pub steps: ResolvedSteps,
    /// What its domain is made from, but for paths and port.
    pub inputs: DomainInputs,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many machines passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
}

/// Carries out the plans of all machines, `jobs` of them at once. A machine's failure touches no other.
pub async fn run(site: Arc<Site>, jobs: Vec<MachineJob>, at_once: Option<NonZeroUsize>) -> Summary {
    let begun = Instant::now();
    let plans = jobs.iter().map(|job| job.plan.clone()).collect();
    site.events.emit(Event::RunStarted { project: site.project.id.clone(), plans });
    let places = Arc::new(Semaphore::new(at_once.map_or(Semaphore::MAX_PERMITS, NonZeroUsize::get)));
    let mut tasks = JoinSet::new();
    let mut names = std::collections::HashMap::new();
    for job in jobs {
        // A closed semaphore would mean no bound, never no run; it is not closed anywhere.
        let place = places.clone().acquire_owned().await.ok();
        let site = site.clone();
        let name = job.machine.name.clone();
        let task = tasks.spawn(async move {
            let _place = place;
            let begun = Instant::now();
            let machine = job.machine.name.clone();
            site.events.emit(Event::MachineStarted { machine: machine.clone() });
            let failure = machine::run(&site, job).await;
            let failed = failure.is_some();
            site.events.emit(Event::MachineFinished {
                machine,
                failure,
                seconds: begun.elapsed().as_secs_f64(),
            });
            failed
        });
        names.insert(task.id(), name);
    }
    let mut summary = Summary { passed: 0, failed: 0 };
    while let Some(ended) = tasks.join_next().await {
        let failed = ended.unwrap_or_else(|error| {
            // A bug of ours in one machine's work must not take the others along.
            let machine = names.get(&error.id()).cloned().unwrap_or_default();
            let causes = vec![format!("farmhand itself failed: {error}")];
            let failure =
                Failure { during: "run".to_owned(), step: None, causes, help: None, last_output: Vec::new() };
            site.events.emit(Event::MachineFinished { machine, failure: Some(failure), seconds: 0.0 });
            true
        });
        if failed { summary.failed += 1 } else { summary.passed += 1 }
    }
    let Summary { passed, failed } = summary;
    site.events.emit(Event::RunFinished { passed, failed, seconds: begun.elapsed().as_secs_f64() });
    summary
}

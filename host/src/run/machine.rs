//! The life of one machine: its plan, operation by operation.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    Event, Failure, MachineJob, Retried, RunError, Site, Stage, error, install, look, network,
    phase::{self, LastOutput},
    ready::{self, Deadline},
    state,
};
use crate::{
    base::{Checkpoint, Phase, SnapshotKind},
    guest::{Command, Facts, Guest, GuestError, Stream, facts},
    hypervisor::NewSnapshot,
    module::Probes,
    plan::{self, Operation, PlannedOperation, Retry},
};

/// How long a guest may take to write out what its file systems hold back.
const SYNC_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Carries out a machine's plan while it is locked. Gives the first failure, if there was one.
pub(super) async fn run(job: MachineJob, stop: &CancellationToken) -> Option<Failure> {
    let site = &*job.site.clone();
    let name = job.machine.name.clone();
    let tell = |notice| site.notice(&name, notice);
    match site.locks.during(&site.hypervisor, &name, &tell, work(site, job, stop)).await {
        Ok(failure) => failure,
        Err(locked) => Some(fail(site, &name, "lock".to_owned(), locked.into(), Vec::new())),
    }
}

async fn work(site: &Site, mut job: MachineJob, stop: &CancellationToken) -> Option<Failure> {
    let name = job.machine.name.clone();
    if let Err(error) = site.journal.begin(&*site.hypervisor, &name, Stage::Working).await {
        return Some(fail(site, &name, "journal".to_owned(), error.into(), Vec::new()));
    }
    let failure = carry_out(site, &mut job, stop).await;
    if let Err(error) = site.journal.end(&*site.hypervisor, &name).await {
        site.warn(&name, error::causes(&error).join(": "));
    }
    failure
}

async fn carry_out(site: &Site, job: &mut MachineJob, stop: &CancellationToken) -> Option<Failure> {
    let name = job.machine.name.clone();
    if let Err(error) = plan_anew_if_changed(site, job).await {
        return Some(fail(site, &name, "plan".to_owned(), error, Vec::new()));
    }
    // As it was planned: what is installed now replaces it.
    job.wanted = job.wanted.assuming(job.existing.as_ref());
    let mut first_failure = None;
    let kept = site.probes.as_ref().map(|folder| state::probes_file(folder, &name));
    let mut life = Life { probes: Arc::new(state::open(kept.clone()).await), ..Life::default() };
    for planned in job.plan.operations.clone() {
        let operation = planned.operation;
        if first_failure.is_some() && !runs_after_failure(operation, &life) {
            continue;
        }
        let begun = Instant::now();
        let reason = planned.reason.clone();
        site.events.emit(Event::OperationStarted { machine: name.clone(), operation, reason });
        // What a panic leaves behind in `life` is the connection, which is given up like after any failure.
        let work = AssertUnwindSafe(life.carry_out(site, job, &planned)).catch_unwind();
        let carried_out = if yields(operation) {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(Err(RunError::Interrupted)),
                carried_out = work => carried_out,
            }
        } else {
            work.await
        };
        match carried_out.unwrap_or_else(|panic| Err(RunError::Panic(error::panic_message(&*panic)))) {
            Ok(()) => {
                state::follow(&life.probes, operation, &job.wanted);
                site.events.emit(Event::OperationFinished {
                    machine: name.clone(),
                    operation,
                    seconds: begun.elapsed().as_secs_f64(),
                });
            }
            Err(error) => {
                if !matches!(operation, Operation::Phase { .. }) {
                    life.probes.lost();
                }
                let output = life.output.lines();
                // It may be broken, and it may be what failed: `terminate` gets a new one.
                life.disconnect().await;
                let failure = fail(site, &name, operation.to_string(), error, output);
                first_failure.get_or_insert(failure);
            }
        }
    }
    life.disconnect().await;
    if let Some(path) = kept
        && let Err(error) = state::save(life.probes, path).await
    {
        site.warn(&name, format!("what the guest answered can't be kept for `plan --deep`: {error}"));
    }
    first_failure
}

/// Plans anew when another run worked on the machine between the planning and the locking.
async fn plan_anew_if_changed(site: &Site, job: &mut MachineJob) -> Result<(), RunError> {
    let name = &job.machine.name;
    let existing = look(&*site.hypervisor, name).await?;
    if existing != job.existing {
        job.plan = plan::plan(name, &site.project, &job.wanted, existing.as_ref(), &job.options)?;
        job.existing = existing;
        site.events.emit(Event::Replanned { plan: job.plan.clone() });
    }
    Ok(())
}

/// After a failure, `terminate` still runs when the guest could be reached before, and the machine is shut down.
fn runs_after_failure(operation: Operation, life: &Life) -> bool {
    match operation {
        Operation::Phase { phase: Phase::Terminate } => life.reached,
        Operation::Shutdown => true,
        _ => false,
    }
}

/// Whether an operation is given up when the run is interrupted. Those that take a moment are finished, and what ends a run is
/// part of its gentle end.
fn yields(operation: Operation) -> bool {
    match operation {
        Operation::Phase { phase } => phase != Phase::Terminate,
        Operation::Install | Operation::Startup | Operation::Restore { .. } => true,
        Operation::Discard { .. } | Operation::Create { .. } | Operation::Shutdown => false,
    }
}

fn fail(site: &Site, machine: &str, during: String, error: RunError, last_output: Vec<String>) -> Failure {
    let help = error.help(machine);
    let step = if let RunError::Step { step, .. } = &error { Some(step.clone()) } else { None };
    let failure = Failure { during, step, causes: error::causes(&error), help, last_output };
    site.events.emit(Event::OperationFailed { machine: machine.to_owned(), failure: failure.clone() });
    failure
}

/// Shuts a machine down: gracefully, by force after a time.
async fn shut_down(site: &Site, name: &str) -> Result<(), RunError> {
    if !site.hypervisor.shutdown(name, site.timeouts.shutdown).await? {
        site.warn(name, "it did not shut down in time: pulling the plug".to_owned());
        site.hypervisor.destroy(name).await?;
    }
    Ok(())
}

/// What a run knows of a machine while it works on it.
#[derive(Default)]
struct Life {
    guest: Option<Arc<dyn Guest>>,
    /// Whether the guest could be reached since the machine was booted or restored.
    reached: bool,
    facts: Option<Facts>,
    /// What the guest answered to commands that only look.
    probes: Arc<Probes>,
    output: Arc<LastOutput>,
}

impl Life {
    async fn carry_out(
        &mut self,
        site: &Site,
        job: &mut MachineJob,
        planned: &PlannedOperation,
    ) -> Result<(), RunError> {
        let name = job.machine.name.clone();
        match planned.operation {
            Operation::Install => install::install(site, job).await,
            Operation::Startup => self.boot(site, job).await,
            Operation::Restore { checkpoint } => self.restore(site, job, checkpoint).await.map(drop),
            Operation::Discard { checkpoint } => {
                Ok(site.hypervisor.delete_snapshot(&name, &site.snapshot_name(checkpoint)).await?)
            }
            Operation::Create { checkpoint } => self.create(site, job, checkpoint).await,
            Operation::Phase { phase } => self.phase(site, job, phase, planned.retry).await,
            Operation::Shutdown => self.shut_down(site, &name).await,
        }
    }

    async fn boot(&mut self, site: &Site, job: &MachineJob) -> Result<(), RunError> {
        self.leave().await;
        self.arrive(ready::boot(site, &job.machine, job.network.as_ref()).await?);
        Ok(())
    }

    /// Goes back to a checkpoint. Gives whether the machine runs now: one that was off at that time is to be booted next.
    async fn restore(
        &mut self,
        site: &Site,
        job: &MachineJob,
        checkpoint: Checkpoint,
    ) -> Result<bool, RunError> {
        self.leave().await;
        let name = &job.machine.name;
        network::prepare(site, &job.machine, job.network.as_ref()).await?;
        site.hypervisor.revert(name, &site.snapshot_name(checkpoint)).await?;
        let runs = ready::is_running(site, name).await?;
        if runs {
            self.arrive(ready::reconnect(site, &job.machine).await?);
        }
        Ok(runs)
    }

    /// Carries out a phase, again and again if it fails and the plan says so.
    async fn phase(
        &mut self,
        site: &Site,
        job: &MachineJob,
        phase: Phase,
        retry: Option<Retry>,
    ) -> Result<(), RunError> {
        let mut tried = 0;
        loop {
            let failed = match self.try_phase(site, job, phase).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let Some(Retry { times, from }) = retry.filter(|retry| tried < retry.times) else {
                return Err(failed);
            };
            tried += 1;
            let retried = Retried { retry: tried, retries: times, causes: error::causes(&failed) };
            site.events.emit(Event::PhaseRetried { machine: job.machine.name.clone(), phase, retried });
            self.disconnect().await;
            let Some(checkpoint) = from else { continue };
            if !self.restore(site, job, checkpoint).await? {
                self.boot(site, job).await?;
            }
            state::follow(&self.probes, Operation::Restore { checkpoint }, &job.wanted);
        }
    }

    async fn try_phase(&mut self, site: &Site, job: &MachineJob, phase: Phase) -> Result<(), RunError> {
        let guest = self.guest(site, job).await?;
        let facts = match &self.facts {
            Some(facts) => facts.clone(),
            None => self.facts.insert(facts::probe(&*guest).await?).clone(),
        };
        self.probes.keep_facts(&facts);
        let place = phase::Place { guest: &guest, facts: &facts, probes: &self.probes, output: &self.output };
        let work = phase::run(site, job, phase, place);
        match job.options.rules.of(phase).timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .unwrap_or(Err(RunError::PhaseTimedOut { phase, limit })),
        }
    }

    async fn shut_down(&mut self, site: &Site, name: &str) -> Result<(), RunError> {
        self.disconnect().await;
        // There is none when installing it failed.
        if site.hypervisor.domain(name).await?.is_none() {
            return Ok(());
        }
        shut_down(site, name).await
    }

    /// The guest, over the open connection; a new one when there is none (the machine ran already, and nothing was
    /// restored).
    async fn guest(&mut self, site: &Site, job: &MachineJob) -> Result<Arc<dyn Guest>, RunError> {
        if let Some(guest) = &self.guest {
            return Ok(guest.clone());
        }
        let guest = ready::connect(site, &job.machine, Deadline::after(site.timeouts.connection)).await?;
        self.arrive(guest.clone());
        Ok(guest)
    }

    fn arrive(&mut self, guest: Arc<dyn Guest>) {
        self.guest = Some(guest);
        self.reached = true;
    }

    /// The machine becomes another one, as it were.
    async fn leave(&mut self) {
        self.disconnect().await;
        self.reached = false;
    }

    async fn disconnect(&mut self) {
        self.facts = None;
        if let Some(guest) = self.guest.take() {
            guest.close().await;
        }
    }

    /// Makes a checkpoint. The guest's file systems are synced before, so that the disk alone is in order, too.
    async fn create(
        &mut self,
        site: &Site,
        job: &MachineJob,
        checkpoint: Checkpoint,
    ) -> Result<(), RunError> {
        let guest = self.guest(site, job).await?;
        let sync = Command { timeout: Some(SYNC_LIMIT), ..Command::new(["sync"]) };
        let exit = guest.exec(&sync, &mut |_: Stream, _: &[u8]| {}).await?;
        if !exit.success() {
            return Err(GuestError::Disconnected(format!("`sync` ended with {exit}")).into());
        }
        let machine = &job.machine;
        let kind = machine.template().snapshot_kind(machine, &job.inputs);
        let snapshot = NewSnapshot {
            name: site.snapshot_name(checkpoint),
            description: job.wanted.record(checkpoint).to_description(),
            kind: kind.map_err(|problem| RunError::Definition(Box::new(problem)))?,
        };
        if snapshot.kind == SnapshotKind::Disk {
            // Only of a machine that is off do the disks say all.
            self.leave().await;
            shut_down(site, &machine.name).await?;
            site.hypervisor.create_snapshot(&machine.name, &snapshot).await?;
            self.boot(site, job).await?;
        } else {
            site.hypervisor.create_snapshot(&machine.name, &snapshot).await?;
        }
        if checkpoint == Checkpoint::Clean {
            site.journal.begin(&*site.hypervisor, &job.machine.name, Stage::Working).await?;
        }
        Ok(())
    }
}

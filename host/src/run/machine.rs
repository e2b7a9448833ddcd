//! The life of one machine: its plan, operation by operation.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt as _;

use super::{
    Event, Failure, MachineJob, RunError, Site, error, install,
    lock::MachineLock,
    ready, state,
    steps::{self, LastOutput},
};
use crate::{
    base::{Checkpoint, Phase},
    guest::{Command, Facts, Guest, GuestError, Stream, facts},
    hypervisor::NewSnapshot,
    module::Probes,
    plan::Operation,
};

/// Carries out a machine's plan. Gives the first failure, if there was one.
pub(super) async fn run(site: &Site, mut job: MachineJob) -> Option<Failure> {
    let name = job.machine.name.clone();
    let _lock = match MachineLock::acquire(&site.locks, &name) {
        Ok(lock) => lock,
        Err(locked) => return Some(fail(site, &name, "lock".to_owned(), locked.into(), Vec::new())),
    };
    let mut first_failure = None;
    let kept = site.probes.as_ref().map(|folder| state::probes_file(folder, &name));
    let mut life = Life { probes: Arc::new(state::open(kept.clone()).await), ..Life::default() };
    for operation in job.plan.operations.clone() {
        if first_failure.is_some() && !runs_after_failure(&operation, &life) {
            continue;
        }
        let begun = Instant::now();
        site.events.emit(Event::OperationStarted { machine: name.clone(), operation: operation.clone() });
        // What a panic leaves behind in `life` is the connection, which is given up like after any failure.
        let carried_out = AssertUnwindSafe(life.carry_out(site, &mut job, &operation)).catch_unwind().await;
        match carried_out.unwrap_or_else(|panic| Err(RunError::Panic(error::panic_message(&*panic)))) {
            Ok(()) => {
                state::follow(&life.probes, &operation, &job.wanted);
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

/// After a failure, `terminate` still runs when the guest could be reached before, and the machine is shut down.
fn runs_after_failure(operation: &Operation, life: &Life) -> bool {
    match operation {
        Operation::Phase { phase: Phase::Terminate } => life.reached,
        Operation::Shutdown => true,
        _ => false,
    }
}

fn fail(site: &Site, machine: &str, during: String, error: RunError, last_output: Vec<String>) -> Failure {
    let help = error.help(machine);
    let step = if let RunError::Step { step, .. } = &error { Some(step.clone()) } else { None };
    let failure = Failure { during, step, causes: error::causes(&error), help, last_output };
    site.events.emit(Event::OperationFailed { machine: machine.to_owned(), failure: failure.clone() });
    failure
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
        operation: &Operation,
    ) -> Result<(), RunError> {
        let name = job.machine.name.clone();
        let limit = site.timeouts.connection;
        match operation {
            Operation::Install { .. } => install::install(site, job).await?,
            Operation::Startup => {
                self.leave().await;
                self.arrive(ready::boot(site, &job.machine, limit).await?);
            }
            Operation::Restore { checkpoint } => {
                self.leave().await;
                site.hypervisor.revert(&name, &site.snapshot_name(*checkpoint)).await?;
                // A machine that was off at that time is booted next.
                if ready::is_running(site, &name).await? {
                    self.arrive(ready::reconnect(site, &job.machine, limit).await?);
                }
            }
            Operation::Discard { checkpoint } => {
                site.hypervisor.delete_snapshot(&name, &site.snapshot_name(*checkpoint)).await?;
            }
            Operation::Create { checkpoint } => self.create(site, job, *checkpoint).await?,
            Operation::Phase { phase } => {
                let guest = self.guest(site, job).await?;
                let facts = match &self.facts {
                    Some(facts) => facts.clone(),
                    None => self.facts.insert(facts::probe(&*guest).await?).clone(),
                };
                self.probes.keep_facts(&facts);
                steps::run_phase(site, job, *phase, &guest, &facts, &self.probes, &self.output).await?;
            }
            Operation::Shutdown => {
                self.disconnect().await;
                // There is none when installing it failed.
                if site.hypervisor.domain(&name).await?.is_none() {
                    return Ok(());
                }
                if !site.hypervisor.shutdown(&name, site.timeouts.shutdown).await? {
                    site.warn(&name, "it did not shut down in time: pulling the plug".to_owned());
                    site.hypervisor.destroy(&name).await?;
                }
            }
        }
        Ok(())
    }

    /// The guest, over the open connection; a new one when there is none (the machine ran already, and nothing was
    /// restored).
    async fn guest(&mut self, site: &Site, job: &MachineJob) -> Result<Arc<dyn Guest>, RunError> {
        if let Some(guest) = &self.guest {
            return Ok(guest.clone());
        }
        let guest = ready::connect(site, &job.machine, site.timeouts.connection).await?;
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
        let exit = guest.exec(&Command::new(["sync"]), &mut |_: Stream, _: &[u8]| {}).await?;
        if !exit.success() {
            return Err(GuestError::Disconnected(format!("`sync` ended with {exit}")).into());
        }
        let snapshot = NewSnapshot {
            name: site.snapshot_name(checkpoint),
            description: job.wanted.record(checkpoint).to_description(),
        };
        site.hypervisor.create_snapshot(&job.machine.name, &snapshot).await?;
        Ok(())
    }
}

//! Phases: the steps of one phase, one after the other.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{Event, EventSink, Level, MachineJob, Retried, RunError, Site, error};
use crate::{
    base::Phase,
    farm::Machine,
    guest::{Facts, Guest, Stream},
    module::{self, Call, Context, ModuleLog, Probes, ResolvedStep},
};

/// How many lines of output a failure shows.
const LAST_OUTPUT: usize = 20;

/// Where a phase is carried out.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) guest: &'a Arc<dyn Guest>,
    pub(super) facts: &'a Facts,
    /// What the guest answered to commands that only look.
    pub(super) probes: &'a Arc<Probes>,
    pub(super) output: &'a Arc<LastOutput>,
}

/// Carries out a phase.
pub(super) async fn run(
    site: &Site,
    job: &MachineJob,
    phase: Phase,
    place: Place<'_>,
) -> Result<(), RunError> {
    let machine = &job.machine;
    let steps = job.steps.of(phase);
    for (index, step) in steps.iter().enumerate() {
        let index = index + 1;
        let name = step.step.name.clone();
        site.events.emit(Event::StepStarted {
            machine: machine.name.clone(),
            phase,
            index,
            count: steps.len(),
            name: name.clone(),
        });
        let begun = Instant::now();
        let mut tried = 0;
        let outcome = loop {
            place.output.clear();
            let call = call(site, machine, phase, (index, step), place);
            let error = match step.run(call).await {
                Ok(outcome) => break outcome,
                Err(source) => RunError::Step { step: name.clone(), source: Box::new(source) },
            };
            if tried == step.step.retries {
                return Err(error);
            }
            tried += 1;
            let retried = Retried { retry: tried, retries: step.step.retries, causes: error::causes(&error) };
            let (machine, name) = (machine.name.clone(), name.clone());
            site.events.emit(Event::StepRetried { machine, phase, index, name, retried });
            tokio::time::sleep(step.step.delay).await;
        };
        site.events.emit(Event::StepFinished {
            machine: machine.name.clone(),
            phase,
            index,
            name,
            changed: outcome.changed,
            summary: outcome.summary,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    Ok(())
}

/// One call of a step's module.
fn call(
    site: &Site,
    machine: &Machine,
    phase: Phase,
    (index, step): (usize, &ResolvedStep),
    place: Place<'_>,
) -> Call {
    // What is kept of a step has this name, beside those of the others.
    let file = format!("{phase}-{index}-{}", step.module.identity().name);
    let artifacts = site.artifacts(&machine.name).map(|folder| folder.join(&file));
    Call {
        context: context(machine, phase, step),
        guest: place.guest.clone(),
        facts: place.facts.clone(),
        grants: step.grants.clone(),
        log: Arc::new(MachineLog {
            machine: machine.name.clone(),
            events: site.events.clone(),
            last_output: place.output.clone(),
        }),
        secrets: step.secrets.clone(),
        limits: step.limits.clone(),
        artifacts,
        record: site.record.as_ref().map(|folder| folder.join(&machine.name).join(format!("{file}.json"))),
        probes: Some(place.probes.clone()),
        timeout: Some(step.step.timeout.unwrap_or(site.timeouts.step)),
    }
}

/// For what and with what a step's module is run.
pub(super) fn context(machine: &Machine, phase: Phase, step: &ResolvedStep) -> Context {
    Context {
        phase,
        platform: machine.platform().to_owned(),
        target: machine.target().to_owned(),
        machine: machine.name.clone(),
        settings: step.step.with.clone(),
        r#become: step.step.r#become,
    }
}

/// Turns what a module has to say into events.
struct MachineLog {
    machine: String,
    events: Arc<dyn EventSink>,
    last_output: Arc<LastOutput>,
}

impl ModuleLog for MachineLog {
    fn line(&self, level: module::Level, text: &str) {
        let level = match level {
            module::Level::Debug => Level::Debug,
            module::Level::Info => Level::Info,
            module::Level::Warn => Level::Warn,
            module::Level::Error => Level::Error,
        };
        self.events.emit(Event::Log { machine: self.machine.clone(), level, line: text.to_owned() });
    }

    fn progress(&self, message: &str, percent: Option<u8>) {
        let percent = percent.map(|percent| format!(" ({percent} %)")).unwrap_or_default();
        self.events
            .emit(Event::Progress { machine: self.machine.clone(), message: format!("{message}{percent}") });
    }

    fn output(&self, stream: Stream, line: &str) {
        self.last_output.push(line);
        self.events.emit(Event::Output { machine: self.machine.clone(), stream, line: line.to_owned() });
    }
}

/// The last lines that commands in a guest wrote.
#[derive(Default)]
pub(super) struct LastOutput(Mutex<VecDeque<String>>);

impl LastOutput {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_OUTPUT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

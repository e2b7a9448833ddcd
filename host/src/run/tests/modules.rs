//! Stand-ins for phase modules.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    base::{Digest, Phase},
    farm::Machine,
    guest::{Command, GuestError, Stream},
    hypervisor::simulated::Simulated,
    module::{
        Answer, Call, CommandCall, Failure, GuestCall, LimitHit, ModuleError, ModuleIdentity, ModuleLog,
        Outcome, PhaseModule, Rehearsal, ResolvedStep, ResolvedSteps,
    },
};

/// What a stand-in does once its command in the guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// It says why it could not do its work.
    Fail,
    /// It crashes, as WebAssembly does.
    Trap,
    /// It never returns by itself.
    Hang,
    /// The host's own code panics.
    Panic,
}

#[derive(Default)]
struct State {
    behaviours: HashMap<(String, Phase), Behaviour>,
    /// How often a behaviour is still shown; always when absent.
    times: HashMap<(String, Phase), usize>,
    editions: HashMap<Phase, u32>,
    calls: Vec<(String, Phase)>,
    busy: usize,
    most_busy: usize,
}

/// All stand-ins of a test, and what was asked of them.
pub(super) struct Modules {
    state: Mutex<State>,
    hypervisor: Simulated,
}

impl Modules {
    pub(super) fn new(hypervisor: Simulated) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), hypervisor })
    }

    /// The same modules, whose behaviour is their own.
    pub(super) fn fork(&self, hypervisor: Simulated) -> Arc<Self> {
        let state = State { editions: self.state().editions.clone(), ..State::default() };
        Arc::new(Self { state: Mutex::new(state), hypervisor })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a phase of a machine goes wrong.
    pub(super) fn set(&self, machine: &str, phase: Phase, behaviour: Behaviour) {
        self.state().behaviours.insert((machine.to_owned(), phase), behaviour);
    }

    /// From now on a phase of a machine goes wrong so often, and then well.
    pub(super) fn set_for(&self, machine: &str, phase: Phase, behaviour: Behaviour, times: usize) {
        self.set(machine, phase, behaviour);
        self.state().times.insert((machine.to_owned(), phase), times);
    }

    /// All phases go well again.
    pub(super) fn mend(&self) {
        self.state().behaviours.clear();
        self.state().times.clear();
    }

    /// Replaces the module of a phase by its next edition: it has another digest and writes other things to the disk.
    pub(super) fn edit(&self, phase: Phase) {
        *self.state().editions.entry(phase).or_default() += 1;
    }

    /// What the phases' present editions leave on a machine's disk, up to and with `last`.
    pub(super) fn traces(&self, last: Phase) -> Vec<String> {
        let state = self.state();
        Phase::ALL.into_iter().filter(|phase| *phase <= last).map(|phase| state.trace(phase)).collect()
    }

    /// The phases of a machine that were called, in order.
    pub(super) fn calls(&self, machine: &str) -> Vec<Phase> {
        self.state().calls.iter().filter(|(of, _)| of == machine).map(|(_, phase)| *phase).collect()
    }

    pub(super) fn clear_calls(&self) {
        self.state().calls.clear();
    }

    /// How many calls went on at once, at most.
    pub(super) fn most_busy(&self) -> usize {
        self.state().most_busy
    }

    /// The steps of a machine, each with a stand-in of its phase.
    pub(super) fn resolve(self: &Arc<Self>, machine: &Machine) -> ResolvedSteps {
        let steps = |phase: Phase| {
            let module = StandIn { phase, edition: self.state().trace(phase), modules: self.clone() };
            let module = Arc::new(module);
            let resolved = |step: &crate::farm::Step| ResolvedStep {
                step: step.clone(),
                module: module.clone(),
                known_as: crate::module::KnownAs::by_name("stand-in"),
                grants: crate::base::Grants::default(),
                limits: crate::module::Limits::default(),
                secrets: crate::module::Secrets::default(),
            };
            machine.phases().steps(phase).iter().map(resolved).collect()
        };
        ResolvedSteps::new(Phase::ALL.map(steps))
    }
}

impl State {
    fn trace(&self, phase: Phase) -> String {
        format!("{phase} {}", self.editions.get(&phase).copied().unwrap_or_default())
    }
}

/// Is busy until it is dropped, also by a panic.
struct Busy<'a>(&'a Modules);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

struct StandIn {
    phase: Phase,
    edition: String,
    modules: Arc<Modules>,
}

impl StandIn {
    fn begin(&self, machine: &str) -> (Busy<'_>, Option<Behaviour>) {
        let mut state = self.modules.state();
        let key = (machine.to_owned(), self.phase);
        let shown = state.times.get_mut(&key).is_none_or(|times| {
            let shown = *times > 0;
            *times = times.saturating_sub(1);
            shown
        });
        let behaviour = state.behaviours.get(&key).copied().filter(|_| shown);
        state.calls.push(key);
        state.busy += 1;
        state.most_busy = state.most_busy.max(state.busy);
        (Busy(&self.modules), behaviour)
    }

    async fn work(&self, call: &Call, behaviour: Option<Behaviour>) -> Result<Outcome, ModuleError> {
        let failed = |failure| ModuleError::Failed { module: self.edition.clone(), failure };
        let log: Arc<dyn ModuleLog> = call.log.clone();
        let mut output =
            |stream: Stream, chunk: &[u8]| log.output(stream, String::from_utf8_lossy(chunk).trim_end());
        let ran = call.guest.exec(&Command::new(["work", self.phase.name()]), &mut output).await;
        let exit = ran.map_err(|error| match error {
            GuestError::Disconnected(message) => failed(Failure::Disconnected(message)),
            other => failed(Failure::Guest(other.to_string())),
        })?;
        if !exit.success() {
            return Err(failed(Failure::CommandFailed(format!("`work` ended with {exit}"))));
        }
        // Half of what it has to do.
        let machine = &call.context.machine;
        let left = match behaviour {
            None => self.edition.clone(),
            Some(_) => format!("half of {}", self.edition),
        };
        self.modules.hypervisor.write(machine, &left);
        let artifacts = call.artifacts.as_ref().expect("the run has a folder for artifacts");
        std::fs::create_dir_all(artifacts).expect("the folder can be made");
        std::fs::write(artifacts.join("left.txt"), left).expect("the folder can be written to");
        match behaviour {
            None => Ok(Outcome { changed: true, summary: format!("{} done", self.phase) }),
            Some(Behaviour::Fail) => Err(failed(Failure::CommandFailed("make: *** [all] Error 2".into()))),
            Some(Behaviour::Trap) => Err(ModuleError::Trapped {
                module: self.edition.clone(),
                message: "unreachable executed".into(),
                last_line: None,
            }),
            Some(Behaviour::Hang) => std::future::pending().await,
            // Without the hook, which would print a backtrace each time.
            Some(Behaviour::Panic) => std::panic::resume_unwind(Box::new("a bug in farmhand")),
        }
    }
}

#[async_trait]
impl PhaseModule for StandIn {
    fn identity(&self) -> ModuleIdentity {
        ModuleIdentity {
            name: self.phase.name().to_owned(),
            version: "1.0.0".to_owned(),
            digest: Digest::of(&self.edition),
        }
    }

    async fn run(&self, call: Call) -> Result<Outcome, ModuleError> {
        let (_busy, behaviour) = self.begin(&call.context.machine);
        assert_eq!(call.context.phase, self.phase);
        // A module keeps to its time by itself.
        let limit = call.timeout.expect("every call has a time-out");
        let module = self.edition.clone();
        let limited = |_| ModuleError::Limit { module, limit: LimitHit::WallTime(limit) };
        tokio::time::timeout(limit, self.work(&call, behaviour)).await.map_err(limited)?
    }

    /// Looks, and then works.
    async fn rehearse(&self, call: Rehearsal) -> Result<Outcome, ModuleError> {
        assert_eq!(call.context.phase, self.phase);
        let ask = |word: &str, read_only| {
            let argv = vec![word.to_owned(), self.phase.name().to_owned()];
            call.answers.answer(&GuestCall::Exec(CommandCall { argv, read_only, ..CommandCall::default() }))
        };
        if let Answer::Failed(error) = ask("look", true) {
            let failure = Failure::Guest(format!("{error:?}"));
            return Err(ModuleError::Failed { module: self.edition.clone(), failure });
        }
        ask("work", false);
        Ok(Outcome { changed: true, summary: format!("{} done", self.phase) })
    }
}

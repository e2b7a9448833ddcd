use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use serde_json::Value;
use wasmtime::{Store, component::Resource};

use super::{
    bindings::{PhaseModulePre, farmhand::phase::types as wit},
    capability::LogGate,
    descriptor::Descriptor,
    engine::Engine,
    error::{Failure, LimitHit, ModuleError},
    grants::NotGranted,
    limits::Limits,
    loaded::Module,
    notes::Notes,
    probes::Probes,
    secrets::{MaskedLog, Secrets},
    state::{Lent, LentGuest, State, blame_error},
    text,
    transcript::{Answers, Recording},
};
use crate::{
    base::{Grants, Phase},
    guest::{Facts, Guest, Stream},
};

/// One call of a module.
pub struct Call {
    /// For what and with what it is run.
    pub context: Context,
    /// The guest that it is lent.
    pub guest: Arc<dyn Guest>,
    /// What is known of the guest.
    pub facts: Facts,
    /// What the module may do.
    pub grants: Grants,
    /// The secrets of the run. The module may use those among its grants, and sees none of them.
    pub secrets: Secrets,
    /// What it may use up.
    pub limits: Limits,
    /// How long it may take in all; [`Limits::wall_time`] when absent.
    pub timeout: Option<Duration>,
    /// Where its lines go.
    pub log: Arc<dyn ModuleLog>,
    /// The folder that its artifacts go to, made when the first one comes; without it they are refused.
    pub artifacts: Option<Utf8PathBuf>,
    /// The file that gets a transcript of the call.
    pub record: Option<Utf8PathBuf>,
    /// What keeps the answers to commands that only look, for `farmhand plan --deep`.
    pub probes: Option<Arc<Probes>>,
}

/// A call of a module without a guest: something else answers in its place, and nothing is changed anywhere.
pub struct Rehearsal {
    /// For what and with what it is run.
    pub context: Context,
    /// What answers.
    pub answers: Arc<dyn Answers>,
    /// What is known of the guest; a module that asks for what is absent is refused.
    pub facts: Option<Facts>,
    /// What the module may do.
    pub grants: Grants,
    /// What it may use up.
    pub limits: Limits,
    /// Where its lines go.
    pub log: Arc<dyn ModuleLog>,
}

/// For what and with what a module is run.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The phase.
    pub phase: Phase,
    /// The platform's name in the farm.
    pub platform: String,
    /// The target's name in the farm.
    pub target: String,
    /// The machine's name.
    pub machine: String,
    /// The step's settings.
    pub settings: Value,
    /// Whether the step asks for root in the guest.
    pub r#become: bool,
}

/// What a module did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it changed the guest's state.
    pub changed: bool,
    /// One line for the operator, at most 500 characters.
    pub summary: String,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for a reason.
    Debug,
    /// What the operator should see.
    Info,
    /// What may go wrong.
    Warn,
    /// What went wrong.
    Error,
}

/// Where a module's lines go. All of them are plain text, free of control codes, of at most 8 KiB. Must not block.
pub trait ModuleLog: Send + Sync {
    /// Takes a line of the module's own, or of the host about the module.
    fn line(&self, level: Level, line: &str);

    /// Takes a line that a command in the guest wrote.
    fn output(&self, stream: Stream, line: &str);

    /// Takes word of how far the module has got: one line, and per cent where that is known.
    fn progress(&self, message: &str, percent: Option<u8>);
}

const MAX_SUMMARY: usize = 500;

/// What can be said against a call before it is made.
pub(super) fn check(module: &Module, context: &Context, grants: &Grants) -> Result<(), ModuleError> {
    let descriptor = module.descriptor();
    let (name, phase) = (descriptor.name.clone(), context.phase);
    if !descriptor.can_carry_out(phase) {
        let supported = descriptor.phases.iter().map(|phase| phase.name()).collect::<Vec<_>>().join(", ");
        return Err(ModuleError::WrongPhase { module: name, phase, supported });
    }
    NotGranted::check(descriptor, &context.settings, grants)?;
    module
        .check_settings(&context.settings)
        .map_err(|problems| ModuleError::Settings { module: name, problems })
}

/// What a call is made with.
pub(super) struct Lending {
    pub(super) context: Context,
    pub(super) guest: LentGuest,
    pub(super) timeout: Duration,
    pub(super) state: State,
}

impl Lending {
    /// What this call is made with. What it asks of the guest is taken down in `recording`.
    pub(super) fn live(call: Call, recording: Option<Arc<Recording>>) -> Self {
        let timeout = call.timeout.unwrap_or(call.limits.wall_time);
        let log = MaskedLog { log: call.log, secrets: call.secrets.clone() };
        let gate = LogGate::new(Arc::new(log), &call.limits);
        let mut state = State::new(call.grants, call.limits, gate);
        state.secrets = call.secrets;
        state.artifacts = call.artifacts;
        let lent = Lent::Live { guest: call.guest, notes: Notes::new(recording, call.probes) };
        Self { context: call.context, guest: LentGuest { lent, facts: Some(call.facts) }, timeout, state }
    }
}

impl From<Rehearsal> for Lending {
    fn from(call: Rehearsal) -> Self {
        let timeout = call.limits.wall_time;
        let gate = LogGate::new(call.log, &call.limits);
        let state = State::new(call.grants, call.limits, gate);
        let lent = Lent::Answered(call.answers);
        Self { context: call.context, guest: LentGuest { lent, facts: call.facts }, timeout, state }
    }
}

/// Calls `run` in a store of its own, with all limits on.
pub(super) async fn run(
    engine: &Engine,
    name: &str,
    module: &PhaseModulePre<State>,
    lending: Lending,
) -> Result<Outcome, ModuleError> {
    let Lending { context, guest, timeout: limit, state } = lending;
    let (grants, secrets) = (state.grants.clone(), state.secrets.clone());
    let mut store = state.into_store(engine.wasmtime());
    let context = wit::Context {
        phase: context.phase.into(),
        platform: context.platform,
        target: context.target,
        machine: context.machine,
        settings: context.settings.to_string(),
        become_: context.r#become,
    };
    let _running = engine.ticker().start().map_err(|error| host(name, &error))?;
    let called = tokio::time::timeout(limit, async {
        // The host keeps the guest: the module only borrows it for the call.
        let guest = store.data_mut().table.push(guest)?;
        let borrowed = Resource::new_borrow(guest.rep());
        let instance = module.instantiate_async(&mut store).await?;
        instance.call_run(&mut store, &context, borrowed).await
    })
    .await;
    store.data_mut().finish_log();
    match called {
        Err(_) => Err(ModuleError::Limit { module: name.to_owned(), limit: LimitHit::WallTime(limit) }),
        Ok(Err(error)) => Err(blame_error(name, &error, store.data())),
        Ok(Ok(Err(failure))) => {
            let failure = Failure::from_module(failure, name, &grants, &secrets);
            Err(ModuleError::Failed { module: name.to_owned(), failure })
        }
        Ok(Ok(Ok(outcome))) => {
            let summary = text::one_line(&outcome.summary, MAX_SUMMARY);
            Ok(Outcome { changed: outcome.changed, summary: secrets.mask_text(&summary).into_owned() })
        }
    }
}

/// Calls `describe`: nothing is granted, no guest is lent, and what it logs goes nowhere.
pub(super) async fn describe(
    engine: &Engine,
    name: &str,
    module: &PhaseModulePre<State>,
) -> Result<Descriptor, ModuleError> {
    let (mut store, limit) = (without_grants(engine), engine.limits().for_describe().wall_time);
    let _running = engine.ticker().start().map_err(|error| host(name, &error))?;
    let called = tokio::time::timeout(limit, async {
        let instance = module.instantiate_async(&mut store).await?;
        instance.call_describe(&mut store).await
    })
    .await;
    match called {
        Err(_) => Err(ModuleError::Limit { module: name.to_owned(), limit: LimitHit::WallTime(limit) }),
        Ok(Err(error)) => Err(blame_error(name, &error, store.data())),
        Ok(Ok(descriptor)) => Descriptor::from_module(descriptor)
            .map_err(|message| ModuleError::Descriptor { module: name.to_owned(), message }),
    }
}

/// Makes an instance as each call does, and throws it away.
pub(super) async fn instantiate(
    engine: &Engine,
    name: &str,
    module: &PhaseModulePre<State>,
) -> Result<(), ModuleError> {
    let mut store = without_grants(engine);
    let _running = engine.ticker().start().map_err(|error| host(name, &error))?;
    let instance = module.instantiate_async(&mut store).await;
    instance.map(drop).map_err(|error| blame_error(name, &error, store.data()))
}

fn without_grants(engine: &Engine) -> Store<State> {
    let limits = engine.limits().for_describe();
    let gate = LogGate::closed(&limits);
    State::new(Grants::default(), limits, gate).into_store(engine.wasmtime())
}

fn host(module: &str, error: &std::io::Error) -> ModuleError {
    ModuleError::Host { module: module.to_owned(), message: format!("can't start a thread: {error}") }
}

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use camino::Utf8PathBuf;
use wasmtime::{Store, UpdateDeadline, component::ResourceTable};

use super::{
    capability::{ArtifactBudget, LogGate, OutputBudget},
    error::{LimitHit, ModuleError},
    limits::{Limiter, Limits},
    notes::Notes,
    secrets::Secrets,
    ticker::TICK,
    transcript::Answers,
    wasi::Wasi,
};
use crate::{
    base::Grants,
    guest::{Facts, Guest},
};

/// The guest behind the resource that a module is lent for one call.
#[allow(unreachable_pub)] // The bindings re-export it.
pub struct LentGuest {
    pub(super) lent: Lent,
    /// What is known of it; absent when the guest was never seen.
    pub(super) facts: Option<Facts>,
}

/// Who answers a module's calls.
#[derive(Clone)]
pub(super) enum Lent {
    /// A guest. What is asked and answered is taken down for those who want it.
    Live { guest: Arc<dyn Guest>, notes: Notes },
    /// A transcript, or a check that holds effects back.
    Answered(Arc<dyn Answers>),
}

/// What belongs to one call of a module. Thrown away after it.
pub(super) struct State {
    pub(super) table: ResourceTable,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    pub(super) log: LogGate,
    pub(super) output: OutputBudget,
    pub(super) secrets: Secrets,
    /// The folder that artifacts are kept in.
    pub(super) artifacts: Option<Utf8PathBuf>,
    /// The artifacts that were kept.
    pub(super) kept: ArtifactBudget,
    /// How many commands are open.
    pub(super) commands: Arc<AtomicUsize>,
    /// How many files are.
    pub(super) files: Arc<AtomicUsize>,
    pub(super) wasi: Wasi,
    limiter: Limiter,
    /// Epochs in which the module computed.
    ticks: u32,
}

impl State {
    pub(super) fn new(grants: Grants, limits: Limits, log: LogGate) -> Self {
        let mut table = ResourceTable::new();
        // One guest, lent once; commands; what WASI has of streams and clocks.
        table.set_max_capacity(limits.handles);
        Self {
            table,
            grants,
            output: OutputBudget::new(limits.logged_output),
            secrets: Secrets::default(),
            artifacts: None,
            kept: ArtifactBudget::default(),
            commands: Arc::default(),
            files: Arc::default(),
            wasi: Wasi::new(&log),
            limiter: Limiter::new(&limits),
            limits,
            log,
            ticks: 0,
        }
    }

    /// Gives what is left to be said: lines of standard output and error, and how many lines were dropped.
    pub(super) fn finish_log(&mut self) {
        self.wasi.finish();
        self.log.finish();
    }

    /// A store in which all limits are on.
    pub(super) fn into_store(self, engine: &wasmtime::Engine) -> Store<Self> {
        let Limits { host_call_data, cpu_time, handles, .. } = self.limits;
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(host_call_data);
        // Those of resources that a module defines itself are memory of the host's, too.
        store.set_max_component_handles(handles);
        let allowed = ticks(cpu_time);
        // Called at most once in an epoch, and only while the module computes: so the time of calls to the host does not
        // count, however long they take. Yielding lets the runtime's other tasks (and the time-out) go on.
        store.epoch_deadline_callback(move |mut store| {
            let state = store.data_mut();
            state.ticks += 1;
            if state.ticks > allowed {
                return Err(wasmtime::Error::new(LimitHit::CpuTime(cpu_time)));
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store.set_epoch_deadline(1);
        store
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX - 1)
}

/// Says why a call into a module failed.
pub(super) fn blame_error(module: &str, error: &wasmtime::Error, state: &State) -> ModuleError {
    let module = module.to_owned();
    if let Some(limit) = error.downcast_ref::<LimitHit>() {
        return ModuleError::Limit { module, limit: *limit };
    }
    if error.downcast_ref::<wasmtime::Trap>() == Some(&wasmtime::Trap::StackOverflow) {
        return ModuleError::Limit { module, limit: LimitHit::Stack(state.limits.stack) };
    }
    // The outer errors are only the backtrace.
    let message = error.root_cause().to_string();
    // wasmtime keeps the types of these to itself.
    if message.contains("store handle limit exceeded") || message.contains("resource table has no free keys")
    {
        return ModuleError::Limit { module, limit: LimitHit::Handles(state.limits.handles) };
    }
    if message.contains("resource limit exceeded") {
        return ModuleError::Limit { module, limit: LimitHit::Instances(state.limits.instances) };
    }
    if message.contains("fuel allocated for hostcalls has been exhausted") {
        return ModuleError::Limit { module, limit: LimitHit::HostCallData(state.limits.host_call_data) };
    }
    let message = super::text::one_line(&message, 500);
    let last_line = state.log.last_error().map(|line| state.secrets.mask_text(&line).into_owned());
    ModuleError::Trapped { module, message, last_line }
}

//! A hypervisor in memory, for tests of whatever uses one.
//!
//! It obeys the same contract tests as the real one. A test can look at the calls that were made ([`Simulated::calls`]),
//! make calls go wrong ([`Simulated::inject`]), and play the guest: whether its agent answers and what, whether it heeds the
//! power button, and what is on its disk ([`Simulated::write`], which snapshots keep and bring back).

mod call;
mod domain;
mod network;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

pub use self::call::{Call, Fault, Method};
use self::{call::Pretended, network::SimulatedNetwork, pool::SimulatedPool};
use super::{
    Address, AddressSource, Domain, DomainLock, DomainMetadata, DomainState, HypervisorError, Snapshot,
};
use crate::base::SnapshotKind;

/// What a simulated guest agent answers to a command, or its error.
pub type AgentAnswers = Arc<dyn Fn(&Value) -> Result<Value, String> + Send + Sync>;

/// What happens in a simulated guest.
#[derive(Clone)]
struct Guest {
    agent_starts: bool,
    heeds_power_button: bool,
    answers: AgentAnswers,
}

#[derive(Clone)]
struct Machine {
    /// What its XML says.
    domain: Domain,
    has_agent_channel: bool,
    metadata: Option<DomainMetadata>,
    state: DomainState,
    guest: Guest,
    /// The addresses of its guest, and who else than DHCP knows them.
    addresses: Vec<(AddressSource, Address)>,
    disk: Vec<String>,
    snapshots: Vec<Kept>,
    current: Option<String>,
}

/// A snapshot and what it brings back.
#[derive(Clone)]
struct Kept {
    snapshot: Snapshot,
    state: DomainState,
    metadata: Option<DomainMetadata>,
    disk: Vec<String>,
}

/// A fault that has not met its call yet.
struct Injected {
    method: Method,
    domain: Option<String>,
    /// How many calls go well before.
    spared: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<String, Machine>,
    networks: BTreeMap<String, SimulatedNetwork>,
    pools: BTreeMap<String, SimulatedPool>,
    calls: Vec<Call>,
    faults: VecDeque<Injected>,
    time: i64,
    locks: BTreeMap<String, DomainLock>,
    /// Why it has no driver for locks, if it has none.
    keeps_no_locks: Option<String>,
}

/// A hypervisor in memory. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Simulated {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    /// Memory in MiB, and CPUs.
    size: (u64, u32),
}

impl Default for Simulated {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulated {
    /// A hypervisor for `x86_64` guests without any domain, with more memory and CPUs than any test needs.
    pub fn new() -> Self {
        Self::of_size(1 << 30, 1 << 20)
    }

    /// A hypervisor with that much memory (MiB) and that many CPUs.
    pub fn of_size(memory: u64, cpus: u32) -> Self {
        let state = State { time: 1_700_000_000, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()), size: (memory, cpus) }
    }

    /// Another hypervisor that has the same machines, without faults: what happens to one does not happen to the other.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let state = State {
            machines: state.machines.clone(),
            networks: state.networks.clone(),
            pools: state.pools.clone(),
            time: state.time,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()), size: self.size }
    }

    /// The calls that were made up to now, in order, failed ones too.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Forgets the calls that were made.
    pub fn clear_calls(&self) {
        self.state().calls.clear();
    }

    /// Makes the next call of `method` (about `domain`, if one is given) go wrong. Several faults of one method meet one call
    /// each, in the order in which they were injected.
    pub fn inject(&self, method: Method, domain: Option<&str>, fault: Fault) {
        self.inject_after(0, method, domain, fault);
    }

    /// As [`Self::inject`], after `spared` such calls have gone well.
    pub fn inject_after(&self, spared: usize, method: Method, domain: Option<&str>, fault: Fault) {
        let domain = domain.map(str::to_owned);
        self.state().faults.push_back(Injected { method, domain, spared, fault });
    }

    /// Forgets the faults that have not met a call yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Faults that have not met a call yet.
    pub fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// A domain and its snapshots, oldest first, without a call: no fault is met, nothing is noted.
    pub fn look(&self, domain: &str) -> Option<(Domain, Vec<Snapshot>)> {
        let state = self.state();
        let machine = state.machines.get(domain)?;
        let snapshots = machine.snapshots.iter().map(|kept| kept.snapshot.clone()).collect();
        Some((machine.describe(), snapshots))
    }

    /// Whether the guest's agent starts (now, if the domain runs, and at each boot). It does unless told otherwise; a
    /// domain without a channel for it has none.
    pub fn set_agent_starts(&self, domain: &str, starts: bool) {
        self.change(domain, |machine| machine.guest.agent_starts = starts);
    }

    /// What the guest's agent answers: the whole answer (`{"return": ...}`). Without this it knows only `guest-ping`.
    pub fn set_agent_answers(&self, domain: &str, answers: AgentAnswers) {
        self.change(domain, |machine| machine.guest.answers = answers);
    }

    /// Whether the guest shuts down when it is asked to. It does unless told otherwise.
    pub fn set_heeds_power_button(&self, domain: &str, heeds: bool) {
        self.change(domain, |machine| machine.guest.heeds_power_button = heeds);
    }

    /// The guest powers itself off, or the domain's QEMU dies.
    pub fn power_off(&self, domain: &str) {
        self.change(domain, |machine| machine.state = DomainState::ShutOff);
    }

    /// The domain is paused by someone.
    pub fn pause(&self, domain: &str) {
        self.change(domain, |machine| machine.state = DomainState::Paused);
    }

    /// The guest writes a line to its disk.
    pub fn write(&self, domain: &str, line: &str) {
        self.change(domain, |machine| machine.disk.push(line.to_owned()));
    }

    /// The lines on the guest's disk; none if there is no such domain.
    pub fn disk(&self, domain: &str) -> Vec<String> {
        self.state().machines.get(domain).map(|machine| machine.disk.clone()).unwrap_or_default()
    }

    /// The lines on the disk that a snapshot keeps; none if there is no such snapshot.
    pub fn kept_disk(&self, domain: &str, snapshot: &str) -> Vec<String> {
        let state = self.state();
        let mut kept = state.machines.get(domain).into_iter().flat_map(|machine| &machine.snapshots);
        let found = kept.find(|kept| kept.snapshot.name == snapshot);
        found.map(|kept| kept.disk.clone()).unwrap_or_default()
    }

    /// From now on it keeps no locks, for this reason.
    pub fn set_keeps_no_locks(&self, why: &str) {
        let mut state = self.state();
        state.locks.clear();
        state.keeps_no_locks = Some(why.to_owned());
    }

    /// Forgets all locks, as libvirt does when its daemon is started anew.
    pub fn forget_locks(&self) {
        self.state().locks.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, domain: &str, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.state().machines.get_mut(domain) {
            change(machine);
        }
        self.changed.send_replace(());
    }

    /// Carries out one call: logs it, lets it meet its fault, else does it.
    async fn call<T>(
        &self,
        method: Method,
        domain: &str,
        argument: &str,
        act: impl FnOnce(&mut State) -> Result<T, String> + Send,
    ) -> Result<T, HypervisorError>
    where
        T: Pretended + Send,
    {
        let call = Call { method, domain: domain.to_owned(), argument: argument.to_owned() };
        let error = |message| HypervisorError::Libvirt { operation: call.to_string(), message };
        let fault = {
            let mut state = self.state();
            state.calls.push(call.clone());
            state.meet(method, domain)
        };
        match fault {
            Some(Fault::Fail(message)) => return Err(error(message)),
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::HalfWay(message)) => {
                self.state().half_way(method, domain);
                self.changed.send_replace(());
                return Err(error(message));
            }
            Some(Fault::Pretend) => return T::pretended().ok_or_else(|| error("pretended".to_owned())),
            Some(Fault::FailAfter(_)) | None => {}
        }
        let result = act(&mut self.state());
        self.changed.send_replace(());
        match fault {
            Some(Fault::FailAfter(message)) => Err(error(message)),
            _ => result.map_err(error),
        }
    }

    /// Waits until `done` says so; `None` when it does not by the end of `timeout`.
    async fn wait<T>(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&State) -> Option<Result<T, String>>,
    ) -> Option<Result<T, String>> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(result) = done(&self.state()) {
                    return result;
                }
                // The sender lives as long as `self`.
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(timeout, wait).await.ok()
    }
}

impl State {
    /// The fault that the present call meets.
    fn meet(&mut self, method: Method, domain: &str) -> Option<Fault> {
        let meets = |injected: &Injected| {
            injected.method == method && injected.domain.as_deref().is_none_or(|about| about == domain)
        };
        let index = self.faults.iter().position(meets)?;
        let injected = self.faults.get_mut(index)?;
        if injected.spared > 0 {
            injected.spared -= 1;
            return None;
        }
        self.faults.remove(index).map(|injected| injected.fault)
    }

    /// What a call leaves that dies half way.
    fn half_way(&mut self, method: Method, domain: &str) {
        let Some(machine) = self.machines.get_mut(domain) else { return };
        match method {
            Method::Start => machine.state = DomainState::Paused,
            Method::CreateSnapshot if machine.is_active() => machine.state = DomainState::Paused,
            Method::Revert => machine.state = DomainState::ShutOff,
            Method::Undefine if !machine.is_active() => {
                machine.snapshots.clear();
                machine.current = None;
            }
            _ => {}
        }
    }

    fn machine(&mut self, name: &str) -> Result<&mut Machine, String> {
        self.machines
            .get_mut(name)
            .ok_or_else(|| format!("Domain not found: no domain with matching name '{name}'"))
    }

    fn running(&mut self, name: &str) -> Result<&mut Machine, String> {
        let machine = self.machine(name)?;
        if machine.is_active() {
            Ok(machine)
        } else {
            Err("Requested operation is not valid: domain is not running".to_owned())
        }
    }
}

impl Machine {
    fn new(domain: Domain, has_agent_channel: bool) -> Self {
        let answers = |command: &Value| match command["execute"].as_str() {
            Some("guest-ping") => Ok(json!({"return": {}})),
            command => Err(format!("The command {} has not been found", command.unwrap_or_default())),
        };
        Self {
            metadata: domain.metadata.clone(),
            domain,
            has_agent_channel,
            state: DomainState::ShutOff,
            guest: Guest { agent_starts: true, heeds_power_button: true, answers: Arc::new(answers) },
            addresses: Vec::new(),
            disk: Vec::new(),
            snapshots: Vec::new(),
            current: None,
        }
    }

    fn is_active(&self) -> bool {
        self.state.is_active()
    }

    fn describe(&self) -> Domain {
        Domain { state: self.state, metadata: self.metadata.clone(), ..self.domain.clone() }
    }

    /// What stands on an external snapshot does so through its files: libvirt merges them into those of the present state,
    /// and into no others.
    fn may_delete(&self, name: &str) -> Result<(), String> {
        let find =
            |name: &str| self.snapshots.iter().map(|kept| &kept.snapshot).find(|kept| kept.name == name);
        let external = find(name).is_some_and(|snapshot| snapshot.kind != SnapshotKind::Internal);
        let children =
            self.snapshots.iter().filter(|kept| kept.snapshot.parent.as_deref() == Some(name)).count();
        let parent = |snapshot: &&Snapshot| find(snapshot.parent.as_deref()?);
        let current = self.current.as_deref().and_then(find);
        let active = std::iter::successors(current, parent).any(|snapshot| snapshot.name == name);
        if external && children > usize::from(active) {
            return Err("unsupported configuration: it is external and has children".to_owned());
        }
        Ok(())
    }

    fn agent(&self) -> Result<&AgentAnswers, String> {
        if self.state == DomainState::Running && self.guest.agent_starts && self.has_agent_channel {
            Ok(&self.guest.answers)
        } else {
            Err("Guest agent is not responding: QEMU guest agent is not connected".to_owned())
        }
    }
}

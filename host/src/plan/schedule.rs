//! When each machine's turn is.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroUsize,
};

/// What a machine takes of its hypervisor while it is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The hypervisor: its place in the list of capacities.
    pub hypervisor: usize,
    /// Memory in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// What a hypervisor has for the machines of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// How many machines it may run at once; no bound when absent.
    pub machines: Option<NonZeroUsize>,
    /// Memory in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

impl Capacity {
    /// A hypervisor without bounds.
    pub const UNBOUNDED: Self = Self { machines: None, memory: u64::MAX, vcpus: u32::MAX };
}

/// What a hypervisor's machines take at present.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    machines: usize,
    memory: u64,
    vcpus: u32,
}

impl Load {
    /// Whether a machine fits, too. One alone always does: whether it fits at all was for the placing to say.
    fn takes(&self, demand: &Demand, capacity: &Capacity) -> bool {
        self.machines == 0
            || (capacity.machines.is_none_or(|most| self.machines < most.get())
                && self.memory.saturating_add(demand.memory) <= capacity.memory
                && self.vcpus.saturating_add(demand.vcpus) <= capacity.vcpus)
    }
}

/// The order of a run: which machine is begun next, given those that are being worked on.
///
/// Machines are begun in the order of the farm. On one hypervisor none overtakes another, so that a large machine gets its turn
/// however many small ones there are; a hypervisor that is full does not hold up the others.
#[derive(Debug, Clone)]
pub struct Schedule {
    waiting: VecDeque<(usize, Demand)>,
    busy: BTreeMap<usize, Demand>,
    loads: Vec<Load>,
    capacities: Vec<Capacity>,
    jobs: Option<NonZeroUsize>,
}

impl Schedule {
    /// A schedule for machines that are known by their place in `demands`. At most `jobs` are worked on at once.
    pub fn new(demands: &[Demand], capacities: Vec<Capacity>, jobs: Option<NonZeroUsize>) -> Self {
        let loads = vec![Load::default(); capacities.len()];
        let waiting = demands.iter().copied().enumerate().collect();
        Self { waiting, busy: BTreeMap::new(), loads, capacities, jobs }
    }

    /// The next machine to begin; none when one that is being worked on has to end first, or none is left.
    pub fn begin(&mut self) -> Option<usize> {
        if self.jobs.is_some_and(|jobs| self.busy.len() >= jobs.get()) {
            return None;
        }
        let mut full = BTreeSet::new();
        let fits = |(_, demand): &(usize, Demand)| {
            let at = demand.hypervisor;
            let load = self.loads.get(at).copied().unwrap_or_default();
            let capacity = self.capacities.get(at).copied().unwrap_or(Capacity::UNBOUNDED);
            let fits = !full.contains(&at) && load.takes(demand, &capacity);
            if !fits {
                full.insert(at);
            }
            fits || full.len() == self.capacities.len()
        };
        let place = self.waiting.iter().position(fits)?;
        let (_, demand) = *self.waiting.get(place)?;
        if full.contains(&demand.hypervisor) {
            return None;
        }
        let (machine, demand) = self.waiting.remove(place)?;
        self.change(&demand, |load, demand| Load {
            machines: load.machines + 1,
            memory: load.memory.saturating_add(demand.memory),
            vcpus: load.vcpus.saturating_add(demand.vcpus),
        });
        self.busy.insert(machine, demand);
        Some(machine)
    }

    /// A machine's work has ended.
    pub fn end(&mut self, machine: usize) {
        if let Some(demand) = self.busy.remove(&machine) {
            self.change(&demand, |load, demand| Load {
                machines: load.machines.saturating_sub(1),
                memory: load.memory.saturating_sub(demand.memory),
                vcpus: load.vcpus.saturating_sub(demand.vcpus),
            });
        }
    }

    /// Takes all machines out that were not begun, in order.
    pub fn give_up(&mut self) -> Vec<usize> {
        self.waiting.drain(..).map(|(machine, _)| machine).collect()
    }

    fn change(&mut self, demand: &Demand, change: impl Fn(Load, &Demand) -> Load) {
        if let Some(load) = self.loads.get_mut(demand.hypervisor) {
            *load = change(*load, demand);
        }
    }
}

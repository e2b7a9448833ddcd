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
    /// Whether it runs already: then it takes that before it is worked on, too.
    pub runs: bool,
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

    fn add(&mut self, demand: &Demand) {
        self.machines += 1;
        self.memory = self.memory.saturating_add(demand.memory);
        self.vcpus = self.vcpus.saturating_add(demand.vcpus);
    }

    fn remove(&mut self, demand: &Demand) {
        self.machines = self.machines.saturating_sub(1);
        self.memory = self.memory.saturating_sub(demand.memory);
        self.vcpus = self.vcpus.saturating_sub(demand.vcpus);
    }
}

/// The order of a run: which machine is begun next, given those that are being worked on.
///
/// Machines are begun in the order of the farm. On one hypervisor none overtakes another, so that a large machine gets its turn
/// however many small ones there are; a hypervisor that is full does not hold up the others. A machine that runs already takes
/// nothing more, so it waits for none.
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
        let mut loads = vec![Load::default(); capacities.len()];
        for demand in demands.iter().filter(|demand| demand.runs) {
            if let Some(load) = loads.get_mut(demand.hypervisor) {
                load.add(demand);
            }
        }
        let waiting = demands.iter().copied().enumerate().collect();
        Self { waiting, busy: BTreeMap::new(), loads, capacities, jobs }
    }

    fn fits(&self, demand: &Demand) -> bool {
        let load = self.loads.get(demand.hypervisor).copied().unwrap_or_default();
        let capacity = self.capacities.get(demand.hypervisor).copied().unwrap_or(Capacity::UNBOUNDED);
        demand.runs || load.takes(demand, &capacity)
    }

    /// The next machine to begin; none when one that is being worked on has to end first, or none is left.
    pub fn begin(&mut self) -> Option<usize> {
        if self.jobs.is_some_and(|jobs| self.busy.len() >= jobs.get()) {
            return None;
        }
        let mut full = BTreeSet::new();
        let place = self.waiting.iter().position(|(_, demand)| {
            let fits = self.fits(demand) && (demand.runs || !full.contains(&demand.hypervisor));
            if !fits {
                full.insert(demand.hypervisor);
            }
            fits
        })?;
        let (machine, demand) = self.waiting.remove(place)?;
        if let Some(load) = self.loads.get_mut(demand.hypervisor).filter(|_| !demand.runs) {
            load.add(&demand);
        }
        self.busy.insert(machine, demand);
        Some(machine)
    }

    /// A machine's work has ended. What it takes is free again unless it still runs.
    pub fn end(&mut self, machine: usize, runs: bool) {
        if let Some(demand) = self.busy.remove(&machine)
            && let Some(load) = self.loads.get_mut(demand.hypervisor).filter(|_| !runs)
        {
            load.remove(&demand);
        }
    }

    /// Takes out those whose turn never comes: beside machines that run on they do not fit, and nothing that could make room is
    /// worked on there any more.
    pub fn crowded_out(&mut self) -> Vec<usize> {
        let running = self.waiting.iter().filter(|(_, demand)| demand.runs).map(|(_, demand)| demand);
        let mut goes_on: BTreeSet<_> =
            self.busy.values().chain(running).map(|demand| demand.hypervisor).collect();
        let stays = |(_, demand): &(usize, Demand)| {
            // Those behind one that begins wait for it.
            let stays = goes_on.contains(&demand.hypervisor) || self.fits(demand);
            if stays {
                goes_on.insert(demand.hypervisor);
            }
            stays
        };
        let (waiting, out): (Vec<_>, Vec<_>) = self.waiting.iter().copied().partition(stays);
        self.waiting = waiting.into();
        out.into_iter().map(|(machine, _)| machine).collect()
    }

    /// Takes all machines out that were not begun, in order.
    pub fn give_up(&mut self) -> Vec<usize> {
        self.waiting.drain(..).map(|(machine, _)| machine).collect()
    }
}

//! On which hypervisor a machine goes.

use std::collections::BTreeSet;

use super::Capacity;
use crate::{
    farm::DomainType,
    hypervisor::{Capabilities, GuestCapability},
};

/// A hypervisor that machines can go to.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name in the farm.
    pub name: String,
    /// Its connection URI.
    pub uri: String,
    /// What the farm says of it.
    pub labels: BTreeSet<String>,
    /// What it can run.
    pub capabilities: Capabilities,
    /// What it has for the machines of the farm.
    pub capacity: Capacity,
    /// The names of all its domains.
    pub domains: BTreeSet<String>,
}

/// What a machine needs of its hypervisor.
#[derive(Debug, Clone)]
pub struct Need {
    /// The machine's name.
    pub machine: String,
    /// Its architecture in libvirt's words; the hypervisor's own when absent.
    pub arch: Option<String>,
    /// How it is run; KVM, else QEMU's own translation, when absent.
    pub domain_type: Option<DomainType>,
    /// Labels that the hypervisor must have.
    pub labels: Vec<String>,
    /// The connection URI that its definition names.
    pub connection: Option<String>,
    /// Memory in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// Where a machine goes, and how it is run there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The hypervisor: its place among the candidates.
    pub hypervisor: usize,
    /// How it is run.
    pub domain_type: DomainType,
    /// Architecture and emulator.
    pub guest: GuestCapability,
}

/// Why a machine can go nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No hypervisor will do.
    #[error("no hypervisor can run {machine}:{}", reasons.iter().map(|reason| format!("\n  {reason}")).collect::<String>())]
    Nowhere {
        /// The machine's name.
        machine: String,
        /// Why each will not do.
        reasons: Vec<String>,
    },
    /// It exists more than once.
    #[error(
        "{machine} exists on {first} and on {second}; remove one: farmhand destroy --connect URI {machine}"
    )]
    Twice {
        /// The machine's name.
        machine: String,
        /// The name of a hypervisor that has it.
        first: String,
        /// The name of another.
        second: String,
    },
}

/// Decides for each machine, in order, where it goes and how it is run: where it exists already, for its checkpoints are there;
/// else KVM before QEMU's own translation, then the hypervisor that is least loaded by the machines before it, then the first
/// of the farm.
pub fn place(needs: &[Need], candidates: &[Candidate]) -> Vec<Result<Placed, PlaceError>> {
    let mut loads = vec![0_u64; candidates.len()];
    // What exists counts from the start, or the first new machine would go where it happens to stand in the farm.
    let homes: Vec<Vec<usize>> = needs
        .iter()
        .map(|need| {
            (0..candidates.len()).filter(|&at| candidates[at].domains.contains(&need.machine)).collect()
        })
        .collect();
    for (need, homes) in needs.iter().zip(&homes) {
        if let [home] = homes[..] {
            loads[home] = loads[home].saturating_add(need.memory);
        }
    }
    let mut placed = Vec::with_capacity(needs.len());
    for (need, homes) in needs.iter().zip(&homes) {
        placed.push(match homes[..] {
            [first, second, ..] => Err(PlaceError::Twice {
                machine: need.machine.clone(),
                first: candidates[first].name.clone(),
                second: candidates[second].name.clone(),
            }),
            [home] => fit(need, &candidates[home])
                .map(|(domain_type, guest)| Placed { hypervisor: home, domain_type, guest: guest.clone() })
                .map_err(|reason| {
                    nowhere(need, vec![format!("{}, where it is: {reason}", candidates[home].name)])
                }),
            [] => {
                let chosen = choose(need, candidates, &loads);
                if let Ok(placed) = &chosen {
                    loads[placed.hypervisor] = loads[placed.hypervisor].saturating_add(need.memory);
                }
                chosen
            }
        });
    }
    placed
}

fn choose(need: &Need, candidates: &[Candidate], loads: &[u64]) -> Result<Placed, PlaceError> {
    let mut reasons = Vec::new();
    let mut best: Option<(_, Placed)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        match fit(need, candidate) {
            Err(reason) => reasons.push(format!("{}: {reason}", candidate.name)),
            Ok((domain_type, guest)) => {
                // Parts per million of its memory.
                let load = u128::from(loads[at]) * 1_000_000 / u128::from(candidate.capacity.memory.max(1));
                let rank = (domain_type == DomainType::Qemu, load);
                if best.as_ref().is_none_or(|(best, _)| rank < *best) {
                    best = Some((rank, Placed { hypervisor: at, domain_type, guest: guest.clone() }));
                }
            }
        }
    }
    best.map(|(_, placed)| placed).ok_or_else(|| nowhere(need, reasons))
}

fn nowhere(need: &Need, reasons: Vec<String>) -> PlaceError {
    PlaceError::Nowhere { machine: need.machine.clone(), reasons }
}

/// How a hypervisor would run a machine, or why it will not do.
fn fit<'a>(need: &Need, candidate: &'a Candidate) -> Result<(DomainType, &'a GuestCapability), String> {
    if let Some(uri) = need.connection.as_ref().filter(|uri| **uri != candidate.uri) {
        return Err(format!("its connection is {}, and the definition names {uri}", candidate.uri));
    }
    let missing: Vec<_> =
        need.labels.iter().filter(|label| !candidate.labels.contains(*label)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(format!("it lacks the label {}", missing.join(", ")));
    }
    let Capacity { memory, vcpus, .. } = candidate.capacity;
    if need.memory > memory {
        return Err(format!("{} MiB of memory are needed, and it has {memory} MiB", need.memory));
    }
    if need.vcpus > vcpus {
        return Err(format!("{} virtual CPUs are needed, and it has {vcpus}", need.vcpus));
    }
    let Capabilities { host_arch, guests, .. } = &candidate.capabilities;
    let arch = need.arch.as_ref().unwrap_or(host_arch);
    let kinds = match need.domain_type {
        Some(kind) => vec![kind],
        None => vec![DomainType::Kvm, DomainType::Qemu],
    };
    let guest = |kind: &DomainType| {
        let found = guests.iter().find(|guest| guest.arch == *arch && guest.domain_type == kind.name())?;
        Some((*kind, found))
    };
    kinds.iter().find_map(guest).ok_or_else(|| {
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let available: Vec<_> =
            guests.iter().map(|guest| format!("{} ({})", guest.arch, guest.domain_type)).collect();
        format!(
            "it can't run {arch} ({}); it runs {}",
            kinds.join(" or "),
            if available.is_empty() { "nothing".to_owned() } else { available.join(", ") }
        )
    })
}

//! What a run will do with a machine: a pure function of what the farm wants and what exists. Nothing here does I/O.

mod key;
mod retention;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use key::{CheckpointRecord, Inputs, Origin, StepInputs, Wanted};
pub use retention::{Retention, expendable};

use crate::{
    base::{Checkpoint, Phase, SnapshotKind},
    farm::{Gate, Project},
    hypervisor::{Domain, DomainState, Snapshot},
};

/// What a hypervisor has of a machine.
#[derive(Debug, Clone)]
pub struct Existing {
    /// Its domain.
    pub domain: Domain,
    /// The domain's snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// What the user lets a run do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Operations that may be done.
    pub allowed: BTreeSet<Gate>,
    /// Install the machine anew, whatever exists.
    pub fresh: bool,
}

/// What a run will do with one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The machine's name.
    pub machine: String,
    /// Its checkpoints, from the shallowest to the deepest, and whether each still holds.
    pub checkpoints: IndexMap<Checkpoint, Verdict>,
    /// What will be done, in order.
    pub operations: Vec<Operation>,
}

/// Whether a checkpoint still holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum Verdict {
    /// It does: what it was made from has not changed.
    Valid,
    /// It does not, and why.
    Stale(String),
    /// It does not exist.
    Missing,
    /// Its phase has no steps: none is made.
    Unused,
}

/// One thing that is done with a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "operation")]
pub enum Operation {
    /// Make it: images, disks, domain. Whatever of it exists is removed before.
    Install {
        /// Why that is needed.
        reason: String,
    },
    /// Boot it and wait until a command can be run.
    Startup,
    /// Go back to a checkpoint and wait until a command can be run.
    Restore {
        /// Which.
        checkpoint: Checkpoint,
    },
    /// Delete a checkpoint that no longer holds.
    Discard {
        /// Which.
        checkpoint: Checkpoint,
    },
    /// Make a checkpoint of the present state.
    Create {
        /// Which.
        checkpoint: Checkpoint,
    },
    /// Carry out a phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// Shut it down.
    Shutdown,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Install { .. } => f.write_str("install"),
            Self::Startup => f.write_str("startup"),
            Self::Restore { checkpoint } => write!(f, "restore {checkpoint}"),
            Self::Discard { checkpoint } => write!(f, "discard {checkpoint}"),
            Self::Create { checkpoint } => write!(f, "create {checkpoint}"),
            Self::Phase { phase } => write!(f, "{phase}"),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

/// Why there is no plan for a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A domain of the machine's name exists, and farmhand did not make it.
    #[error(
        "the hypervisor has a domain `{0}` that farmhand did not make; give the machine another `vm.metadata.name`, or remove that domain"
    )]
    ForeignDomain(String),
}

/// Decides what to do with a machine.
pub fn plan(
    machine: &str,
    project: &Project,
    wanted: &Wanted,
    existing: Option<&Existing>,
    options: &Options,
) -> Result<MachinePlan, PlanError> {
    let stored = match existing {
        None => None,
        Some(existing) => match &existing.domain.metadata {
            None => return Err(PlanError::ForeignDomain(machine.to_owned())),
            Some(metadata) => serde_json::from_value::<Origin>(metadata.origin.clone()).ok(),
        },
    };
    let wanted = wanted.assuming(stored.as_ref());
    let allows = |gate| options.allowed.contains(&gate);
    let checkpoints = verdicts(project, &wanted, existing);
    let valid = |checkpoint| checkpoints.get(&checkpoint) == Some(&Verdict::Valid);

    let mut operations = Vec::new();
    let reason = install_reason(&wanted, existing, stored.as_ref(), options, valid(Checkpoint::Clean));
    let installs = reason.is_some();
    operations.extend(reason.map(|reason| Operation::Install { reason }));

    let deepest = (!installs)
        .then(|| {
            Checkpoint::ALL
                .into_iter()
                .rev()
                .find(|&checkpoint| valid(checkpoint) && allows(Gate::Restore(checkpoint)))
        })
        .flatten();
    if let Some(checkpoint) = deepest {
        operations.push(Operation::Restore { checkpoint });
    }
    let runs = match (deepest, existing) {
        // A snapshot that was taken of a running machine runs again.
        (Some(checkpoint), Some(existing)) => {
            snapshot(project, existing, checkpoint).is_some_and(|snapshot| snapshot.live)
        }
        (None, Some(existing)) => !installs && existing.domain.state == DomainState::Running,
        (_, None) => false,
    };
    if !runs && allows(Gate::Startup) {
        operations.push(Operation::Startup);
    }

    for checkpoint in Checkpoint::ALL.into_iter().filter(|&checkpoint| Some(checkpoint) > deepest) {
        if let Some(phase) = checkpoint.phase() {
            if !wanted.has_steps(phase) {
                continue;
            }
            if allows(Gate::Phase(phase)) {
                operations.push(Operation::Phase { phase });
            }
        }
        if allows(Gate::Create(checkpoint)) {
            if let Some(existing) = existing.filter(|_| !installs) {
                let going = discards(project, existing, checkpoint, allows);
                let going = going.map(|checkpoint| Operation::Discard { checkpoint });
                operations.extend(going.filter(|discard| !operations.contains(discard)).collect::<Vec<_>>());
            }
            operations.push(Operation::Create { checkpoint });
        }
    }
    for phase in [Phase::Main, Phase::Terminate] {
        if wanted.has_steps(phase) && allows(Gate::Phase(phase)) {
            operations.push(Operation::Phase { phase });
        }
    }
    if allows(Gate::Shutdown) {
        operations.push(Operation::Shutdown);
    }
    Ok(MachinePlan { machine: machine.to_owned(), checkpoints, operations })
}

/// What has to go before a checkpoint is made: the one that is there of that name, and before it those that stand on it where
/// it is external, because libvirt can't delete it under them. They are stale, as it is.
fn discards(
    project: &Project,
    existing: &Existing,
    checkpoint: Checkpoint,
    allows: impl Fn(Gate) -> bool,
) -> impl Iterator<Item = Checkpoint> {
    let find = |checkpoint| snapshot(project, existing, checkpoint);
    let external = find(checkpoint).is_some_and(|snapshot| snapshot.kind != SnapshotKind::Internal);
    let goes = move |other: &Checkpoint| {
        *other == checkpoint || (external && *other > checkpoint && allows(Gate::Create(*other)))
    };
    Checkpoint::ALL.into_iter().rev().filter(goes).filter(move |other| find(*other).is_some())
}

/// Why a machine must be installed, if it must.
fn install_reason(
    wanted: &Wanted,
    existing: Option<&Existing>,
    stored: Option<&Origin>,
    options: &Options,
    has_clean: bool,
) -> Option<String> {
    if existing.is_none() {
        return Some("it does not exist".to_owned());
    }
    if options.fresh {
        return Some("a fresh one was asked for".to_owned());
    }
    let Some(stored) = stored else {
        return Some("its domain was made by another version of farmhand".to_owned());
    };
    if let Some(difference) = stored.difference(&wanted.origin) {
        return Some(difference);
    }
    // Phases run only above `clean`: without it, nobody knows what is on the disk.
    let interrupted = !has_clean && options.allowed.contains(&Gate::Create(Checkpoint::Clean));
    interrupted.then(|| "it has no valid clean checkpoint".to_owned())
}

/// Whether each checkpoint still holds: its key, and those of all that it stands on.
fn verdicts(
    project: &Project,
    wanted: &Wanted,
    existing: Option<&Existing>,
) -> IndexMap<Checkpoint, Verdict> {
    let mut stale_below: Option<Checkpoint> = None;
    Checkpoint::ALL
        .into_iter()
        .map(|checkpoint| {
            if checkpoint.phase().is_some_and(|phase| !wanted.has_steps(phase)) {
                return (checkpoint, Verdict::Unused);
            }
            let verdict = match existing.and_then(|existing| snapshot(project, existing, checkpoint)) {
                None => Verdict::Missing,
                Some(snapshot) => match wanted.difference(checkpoint, &snapshot.description) {
                    Some(difference) => Verdict::Stale(match stale_below {
                        Some(below) => format!("it stands on {below}, which is stale"),
                        None => difference,
                    }),
                    None => Verdict::Valid,
                },
            };
            if matches!(verdict, Verdict::Stale(_)) {
                stale_below.get_or_insert(checkpoint);
            }
            (checkpoint, verdict)
        })
        .collect()
}

fn snapshot<'a>(project: &Project, existing: &'a Existing, checkpoint: Checkpoint) -> Option<&'a Snapshot> {
    let name = checkpoint.snapshot_name(&project.id, &project.revision.to_string());
    existing.snapshots.iter().find(|snapshot| snapshot.name == name)
}

//! What a run will do: pure functions of what the farm wants and what exists. Nothing here does I/O.
//!
//! [`plan`] decides what is done with one machine, [`place`] on which hypervisor, [`network`] in what network there,
//! [`Schedule`] when.

mod explain;
mod gates;
mod key;
mod machine;
mod network;
mod place;
mod retention;
mod schedule;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use explain::{ExplainedCheckpoint, explain};
pub use gates::{GateChoice, GateError};
pub use key::{CheckpointRecord, Inputs, Origin, StepInputs, Wanted};
pub use machine::plan;
pub use network::{Member, NetworkError, network};
pub use place::{Candidate, Need, PlaceError, Placed, place};
pub use retention::{Retention, expendable};
pub use schedule::{Capacity, Demand, Schedule};

use crate::{
    base::{Checkpoint, Phase},
    farm::{Gate, PhaseRules},
    hypervisor::{Domain, Snapshot},
};

/// What a hypervisor has of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its domain.
    pub domain: Domain,
    /// The domain's snapshots.
    pub snapshots: Vec<Snapshot>,
}

impl Existing {
    /// Whether it takes memory and CPUs now.
    pub fn is_active(&self) -> bool {
        self.domain.state.is_active()
    }

    /// What it was installed from; nothing when another version of farmhand made it.
    fn origin(&self) -> Option<Origin> {
        serde_json::from_value(self.domain.metadata.as_ref()?.origin.clone()).ok()
    }
}

/// What the user lets a run do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Operations that may be done.
    pub allowed: BTreeSet<Gate>,
    /// Install the machine anew, whatever exists.
    pub fresh: bool,
    /// How long the phases' checkpoints hold, and how often a phase is tried.
    pub rules: PhaseRules,
    /// The present time: seconds since the epoch.
    pub now: i64,
}

/// What a run will do with one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The machine's name.
    pub machine: String,
    /// Its checkpoints, from the shallowest to the deepest, and whether each still holds.
    pub checkpoints: IndexMap<Checkpoint, Verdict>,
    /// What will be done, in order.
    pub operations: Vec<PlannedOperation>,
}

/// An operation that will be done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedOperation {
    /// What.
    #[serde(flatten)]
    pub operation: Operation,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// What is done when it fails; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// How a phase that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often, at most.
    pub times: u32,
    /// The checkpoint that is restored before: a phase starts from where it started first, so that what it leaves is what its
    /// key says. `None` for `terminate`, which ends what is there.
    pub from: Option<Checkpoint>,
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

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Stale(reason) => write!(f, "stale: {reason}"),
            Self::Missing => f.write_str("missing"),
            Self::Unused => f.write_str("not used: its phase has no steps"),
        }
    }
}

/// One thing that is done with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "operation")]
pub enum Operation {
    /// Make it: images, disks, domain. Whatever of it exists is removed before.
    Install,
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

impl Operation {
    /// The gate that must be allowed for it. Installing has none: it makes what the others work on.
    pub fn gate(self) -> Option<Gate> {
        Some(match self {
            Self::Install => return None,
            Self::Startup => Gate::Startup,
            Self::Restore { checkpoint } => Gate::Restore(checkpoint),
            Self::Discard { checkpoint } | Self::Create { checkpoint } => Gate::Create(checkpoint),
            Self::Phase { phase } => Gate::Phase(phase),
            Self::Shutdown => Gate::Shutdown,
        })
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Install => f.write_str("install"),
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
    /// Something is to be done in a machine that is off, and nothing that is allowed gets it to run.
    #[error(
        "{machine} is off, and nothing that is allowed starts it, so `{operation}` can't be done; allow `startup` or a `restore`, too"
    )]
    Off {
        /// The machine's name.
        machine: String,
        /// The first thing that needs it.
        operation: Operation,
    },
}

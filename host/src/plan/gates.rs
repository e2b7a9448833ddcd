//! Which operations the command line leaves of those that the farm allows.

use std::collections::BTreeSet;

use crate::{base::Phase, farm::Gate};

/// What the command line says about which operations may be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateChoice {
    /// Only these, if any is named.
    pub only: Vec<Gate>,
    /// Not these.
    pub skip: Vec<Gate>,
    /// Begin with this phase: it and those after it are done again. Those before it are done only where no checkpoint holds.
    pub from: Option<Phase>,
    /// End with this phase and its checkpoint. The machine is shut down after it.
    pub until: Option<Phase>,
}

/// Why nothing is left to be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// The phases are in the wrong order.
    #[error("--from {from} is after --until {until}, so nothing is left to be done")]
    Order {
        /// The first phase.
        from: Phase,
        /// The last one.
        until: Phase,
    },
    /// No operation is left.
    #[error(
        "nothing is left to be done: the farm's `allowed_phases` and the command line together allow no operation"
    )]
    Nothing,
}

impl GateChoice {
    /// What is left of `allowed`.
    pub fn of(&self, allowed: &BTreeSet<Gate>) -> Result<BTreeSet<Gate>, GateError> {
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from > until
        {
            return Err(GateError::Order { from, until });
        }
        let stays = |gate: &Gate| {
            (self.only.is_empty() || self.only.contains(gate))
                && !self.skip.contains(gate)
                && self.from.is_none_or(|from| begins_with(from, *gate))
                && self.until.is_none_or(|until| ends_with(until, *gate))
        };
        let left: BTreeSet<_> = allowed.iter().copied().filter(stays).collect();
        if left.is_empty() { Err(GateError::Nothing) } else { Ok(left) }
    }
}

/// Whether a gate stays open when a run begins with a phase: what that phase or a later one left is not restored.
fn begins_with(from: Phase, gate: Gate) -> bool {
    match gate {
        Gate::Restore(checkpoint) => checkpoint.phase().is_none_or(|phase| phase < from),
        Gate::Phase(Phase::Main) => from <= Phase::Main,
        _ => true,
    }
}

/// Whether a gate stays open when a run ends with a phase.
fn ends_with(until: Phase, gate: Gate) -> bool {
    match gate {
        Gate::Phase(phase) => phase <= until,
        Gate::Create(checkpoint) | Gate::Restore(checkpoint) => {
            checkpoint.phase().is_none_or(|phase| phase <= until)
        }
        Gate::Startup | Gate::Shutdown => true,
    }
}

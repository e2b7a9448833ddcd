//! What is done with one machine.

use super::{
    Existing, MachinePlan, Operation, Options, Origin, PlanError, PlannedOperation, Retry, Verdict, Wanted,
    verdict::{snapshot, verdicts},
};
use crate::{
    base::{Checkpoint, Phase, SnapshotKind},
    farm::{Gate, Project},
    hypervisor::DomainState,
};

/// Decides what to do with a machine.
///
/// The deepest checkpoint that holds and may be restored is restored, and what lies above it is done. A checkpoint is made only
/// of a state that is known: above a restore or an installation, with all phases in between carried out. Anything else would
/// give it a key that does not say what it is.
pub fn plan(
    machine: &str,
    project: &Project,
    wanted: &Wanted,
    existing: Option<&Existing>,
    options: &Options,
) -> Result<MachinePlan, PlanError> {
    if existing.is_some_and(|existing| existing.domain.metadata.is_none()) {
        return Err(PlanError::ForeignDomain(machine.to_owned()));
    }
    let stored = existing.and_then(Existing::origin);
    let wanted = wanted.assuming(existing);
    let allows = |gate| options.allowed.contains(&gate);
    let checkpoints = verdicts(project, &wanted, existing, options);
    let valid = |checkpoint| checkpoints.get(&checkpoint) == Some(&Verdict::Valid);
    let mut operations = Operations { options, list: Vec::new() };

    let usable = Checkpoint::ALL
        .into_iter()
        .rev()
        .find(|&checkpoint| valid(checkpoint) && allows(Gate::Restore(checkpoint)));
    let works = options.allowed.iter().any(|gate| *gate != Gate::Shutdown);
    let reason = install_reason(&wanted, existing, stored.as_ref(), options).or_else(|| {
        // A run was ended before it had made `clean`: nobody knows what is on the disk.
        let interrupted =
            usable.is_none() && !valid(Checkpoint::Clean) && allows(Gate::Create(Checkpoint::Clean));
        interrupted.then(|| "it has no valid clean checkpoint".to_owned())
    });
    let installs = works && reason.is_some();
    if let Some(reason) = reason.filter(|_| installs) {
        operations.add(Operation::Install, reason);
    } else if existing.is_none() {
        // Nothing is to be done but shutting down what is not there.
        return Ok(MachinePlan { machine: machine.to_owned(), checkpoints, operations: Vec::new() });
    }

    let deepest = usable.filter(|_| !installs);
    if let Some(checkpoint) = deepest {
        operations
            .add(Operation::Restore { checkpoint }, "it is the deepest checkpoint that holds".to_owned());
    }
    let runs = match (deepest, existing) {
        _ if installs => false,
        // A snapshot that was taken of a running machine runs again.
        (Some(checkpoint), Some(existing)) => {
            snapshot(project, existing, checkpoint).is_some_and(|snapshot| snapshot.live)
        }
        (None, Some(existing)) => existing.domain.state == DomainState::Running,
        (_, None) => false,
    };
    if !runs && works {
        operations.add_if_allowed(
            Operation::Startup,
            match deepest {
                Some(_) => "the checkpoint holds no memory",
                None if installs => "it was just installed",
                None => "it is off",
            },
        );
    }
    let starts = runs || allows(Gate::Startup);

    // Whether the present state is what keys say of it, and the checkpoint that is this very state.
    let mut known = installs || deepest.is_some();
    let mut here = deepest;
    for checkpoint in Checkpoint::ALL.into_iter().filter(|&checkpoint| Some(checkpoint) > deepest) {
        if let Some(phase) = checkpoint.phase() {
            if !wanted.has_steps(phase) {
                continue;
            }
            let reason = match &checkpoints[&checkpoint] {
                Verdict::Valid if installs => {
                    format!("{checkpoint} goes with the machine that is installed anew")
                }
                Verdict::Valid => format!("{checkpoint} may not be restored"),
                verdict => format!("{checkpoint} is {verdict}"),
            };
            if operations.add_phase(phase, reason, here) {
                here = None;
            } else {
                known = false;
            }
        }
        if !known || !allows(Gate::Create(checkpoint)) {
            continue;
        }
        if let Some(existing) = existing.filter(|_| !installs) {
            operations.discard(project, existing, checkpoint);
        }
        operations.add(Operation::Create { checkpoint }, "the next run can start here".to_owned());
        here = Some(checkpoint);
    }
    for phase in [Phase::Main, Phase::Terminate] {
        if wanted.has_steps(phase) {
            let reason = match phase {
                Phase::Terminate => "it ends every run",
                _ => "it is done in every run",
            };
            operations.add_phase(phase, reason.to_owned(), here);
            here = None;
        }
    }
    operations.add_if_allowed(Operation::Shutdown, "the machine's work is done");

    let in_guest = |planned: &&PlannedOperation| {
        matches!(planned.operation, Operation::Create { .. } | Operation::Phase { .. })
    };
    match operations.list.iter().find(in_guest) {
        Some(PlannedOperation { operation, .. }) if !starts => {
            Err(PlanError::Off { machine: machine.to_owned(), operation: *operation })
        }
        _ => Ok(MachinePlan { machine: machine.to_owned(), checkpoints, operations: operations.list }),
    }
}

/// The operations so far.
struct Operations<'a> {
    options: &'a Options,
    list: Vec<PlannedOperation>,
}

impl Operations<'_> {
    fn add(&mut self, operation: Operation, reason: String) {
        self.list.push(PlannedOperation { operation, reason, retry: None });
    }

    fn add_if_allowed(&mut self, operation: Operation, reason: &str) {
        if operation.gate().is_none_or(|gate| self.options.allowed.contains(&gate)) {
            self.add(operation, reason.to_owned());
        }
    }

    /// Discards a checkpoint for another one to take its place, and before it those that stand on it where it is external:
    /// libvirt can't delete it under them. They are as stale as it is.
    fn discard(&mut self, project: &Project, existing: &Existing, checkpoint: Checkpoint) {
        let kind = |checkpoint| snapshot(project, existing, checkpoint).map(|snapshot| snapshot.kind);
        let external = kind(checkpoint).is_some_and(|kind| kind != SnapshotKind::Internal);
        for other in Checkpoint::ALL.into_iter().rev().filter(|other| kind(*other).is_some()) {
            let goes = external && other > checkpoint && self.options.allowed.contains(&Gate::Create(other));
            let discard = Operation::Discard { checkpoint: other };
            if self.list.iter().any(|planned| planned.operation == discard) {
                continue;
            }
            if other == checkpoint {
                self.add(discard, "another one takes its place".to_owned());
            } else if goes {
                self.add(discard, format!("it stands on {checkpoint}, which goes"));
            }
        }
    }

    /// Adds a phase, if it is allowed. It is tried again from `from`.
    fn add_phase(&mut self, phase: Phase, reason: String, from: Option<Checkpoint>) -> bool {
        if !self.options.allowed.contains(&Gate::Phase(phase)) {
            return false;
        }
        let times = self.options.rules.of(phase).retries;
        // Where it started can't be come back to without a checkpoint.
        let from = if phase == Phase::Terminate { Some(None) } else { from.map(Some) };
        let retry = from.filter(|_| times > 0).map(|from| Retry { times, from });
        self.list.push(PlannedOperation { operation: Operation::Phase { phase }, reason, retry });
        true
    }
}

/// Why a machine must be installed, whatever checkpoints it has.
fn install_reason(
    wanted: &Wanted,
    existing: Option<&Existing>,
    stored: Option<&Origin>,
    options: &Options,
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
    stored.difference(&wanted.origin)
}

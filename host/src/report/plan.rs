use std::fmt::Write;

use crate::{
    base::Checkpoint,
    plan::{MachinePlan, Operation, PlannedOperation, Retry},
};

/// A plan for people: what each checkpoint is good for, and what will be done; if `verbose`, also why. The hypervisor that the
/// machine goes to is told where there is a choice.
pub fn plan_text(plan: &MachinePlan, hypervisor: Option<&str>, verbose: bool) -> String {
    let mut text = match hypervisor {
        Some(hypervisor) => format!("{} on {hypervisor}\n", plan.machine),
        None => format!("{}\n", plan.machine),
    };
    let width = Checkpoint::ALL.iter().map(|checkpoint| checkpoint.name().len()).max().unwrap_or_default();
    for (checkpoint, verdict) in &plan.checkpoints {
        let _ = writeln!(text, "  {:width$}  {verdict}", checkpoint.name());
    }
    if verbose {
        for PlannedOperation { operation, reason, retry } in &plan.operations {
            let _ = write!(text, "  -> {operation}: {reason}");
            let _ = match retry {
                Some(Retry { times, from: Some(from) }) => {
                    writeln!(text, "; if it fails, {times} more from {from}")
                }
                Some(Retry { times, from: None }) => writeln!(text, "; if it fails, {times} more"),
                None => writeln!(text),
            };
        }
        return text;
    }
    for planned in plan.operations.iter().filter(|planned| planned.operation == Operation::Install) {
        let _ = writeln!(text, "  will be installed: {}", planned.reason);
    }
    let _ = writeln!(text, "  -> {}", operations(plan));
    text
}

/// What a plan does, in one line.
pub(super) fn operations(plan: &MachinePlan) -> String {
    let operations: Vec<_> = plan.operations.iter().map(|planned| planned.operation.to_string()).collect();
    if operations.is_empty() { "nothing".to_owned() } else { operations.join(", ") }
}

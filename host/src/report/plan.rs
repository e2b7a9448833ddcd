use std::fmt::Write;

use crate::{
    base::Checkpoint,
    plan::{MachinePlan, Operation, Verdict},
};

/// A plan for people: what each checkpoint is good for, and what will be done.
pub fn plan_text(plan: &MachinePlan) -> String {
    let mut text = format!("{}\n", plan.machine);
    let width = Checkpoint::ALL.iter().map(|checkpoint| checkpoint.name().len()).max().unwrap_or_default();
    for (checkpoint, verdict) in &plan.checkpoints {
        let verdict = match verdict {
            Verdict::Valid => "valid".to_owned(),
            Verdict::Stale(reason) => format!("stale: {reason}"),
            Verdict::Missing => "missing".to_owned(),
            Verdict::Unused => "not used: its phase has no steps".to_owned(),
        };
        let _ = writeln!(text, "  {:width$}  {verdict}", checkpoint.name());
    }
    let reasons = plan.operations.iter().filter_map(|operation| match operation {
        Operation::Install { reason } => Some(reason),
        _ => None,
    });
    for reason in reasons {
        let _ = writeln!(text, "  will be installed: {reason}");
    }
    let operations: Vec<_> = plan.operations.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        text,
        "  -> {}",
        if operations.is_empty() { "nothing".to_owned() } else { operations.join(", ") }
    );
    text
}

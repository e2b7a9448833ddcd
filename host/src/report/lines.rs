//! One event, as lines of plain text.

use super::{plan::operations, seconds};
use crate::{
    base::Phase,
    plan::Operation,
    run::{Event, Failure, Level, Retried},
};

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Detail {
    /// Also steps as they begin, and lines for authors of modules.
    pub(super) verbose: bool,
}

/// The lines that an event gives. None for most.
pub(super) fn lines(event: &Event, detail: Detail) -> Vec<String> {
    match event {
        Event::OperationStarted { machine, operation: Operation::Install, reason } => {
            vec![format!("[{machine}] install: {reason}")]
        }
        Event::OperationStarted { machine, operation: Operation::Phase { phase }, .. } => {
            vec![format!("[{machine}] {phase}")]
        }
        Event::Interrupted => {
            vec![
                "interrupted: phases are ended; terminate and shutdown still run (again: stop at once)"
                    .to_owned(),
            ]
        }
        Event::MachineSkipped { machine, reason } => vec![format!("[{machine}] not begun: {reason}")],
        Event::Replanned { plan } => {
            let operations = operations(plan);
            vec![format!("[{}] it changed since the run was planned; now: {operations}", plan.machine)]
        }
        Event::StepRetried { machine, name, retried, .. } => again(machine, name, retried),
        Event::PhaseRetried { machine, phase, retried } => again(machine, phase.name(), retried),
        Event::OperationStarted { .. } | Event::RunStarted { .. } | Event::MachineStarted { .. } => vec![],
        Event::OperationFinished { operation: Operation::Phase { .. }, .. } => vec![],
        Event::OperationFinished { machine, operation, seconds: took } => {
            vec![format!("[{machine}] {operation}: done ({})", seconds(*took))]
        }
        Event::StepStarted { machine, phase, index, count, name } if detail.verbose => {
            vec![format!("[{machine}]   {phase} {index}/{count}: {name}")]
        }
        // Progress is for the status line.
        Event::StepStarted { .. } | Event::Progress { .. } => vec![],
        Event::StepFinished { machine, name, changed, summary, seconds: took, .. } => {
            let mark = if *changed { "changed" } else { "ok" };
            let summary = if summary.is_empty() { String::new() } else { format!(": {summary}") };
            vec![format!("[{machine}]   {mark}: {name}{summary} ({})", seconds(*took))]
        }
        Event::Output { machine, line, .. } => vec![format!("[{machine}]   | {line}")],
        Event::Log { level: Level::Debug, .. } if !detail.verbose => vec![],
        Event::Log { machine, level, line } => match level {
            Level::Debug | Level::Info => vec![format!("[{machine}]   {line}")],
            Level::Warn => vec![format!("[{machine}]   warning: {line}")],
            Level::Error => vec![format!("[{machine}]   error: {line}")],
        },
        Event::OperationFailed { machine, failure } => {
            let mut lines = vec![format!("[{machine}] {}: FAILED{}", failure.during, in_step(failure))];
            lines.extend(
                failure
                    .causes
                    .iter()
                    .flat_map(|cause| cause.lines())
                    .map(|line| format!("[{machine}]   {line}")),
            );
            lines
        }
        Event::MachineFinished { machine, failure, seconds: took } => {
            let result = if failure.is_some() { "FAILED" } else { "passed" };
            vec![format!("[{machine}] {result} ({})", seconds(*took))]
        }
        Event::RunFinished { .. } => vec![],
    }
}

/// A try that comes after a failure.
fn again(machine: &str, what: &str, Retried { retry, retries, causes }: &Retried) -> Vec<String> {
    let mut lines = vec![format!("[{machine}]   failed: {what}; trying again ({retry} of {retries})")];
    lines.extend(causes.iter().flat_map(|cause| cause.lines()).map(|line| format!("[{machine}]     {line}")));
    lines
}

/// `, step "..."` when a step failed.
pub(super) fn in_step(failure: &Failure) -> String {
    failure.step.as_ref().map(|step| format!(", step \"{step}\"")).unwrap_or_default()
}

/// What a machine is busy with, for a status line.
pub(super) fn activity(event: &Event) -> Option<(&str, Option<String>)> {
    match event {
        Event::OperationStarted { machine, operation, .. } => Some((machine, Some(operation.to_string()))),
        Event::Progress { machine, message } => Some((machine, Some(message.clone()))),
        Event::StepStarted { machine, phase, index, count, name } => {
            Some((machine, Some(step_activity(*phase, *index, *count, name))))
        }
        Event::MachineFinished { machine, .. } => Some((machine, None)),
        _ => None,
    }
}

fn step_activity(phase: Phase, index: usize, count: usize, name: &str) -> String {
    format!("{phase} {index}/{count}: {name}")
}

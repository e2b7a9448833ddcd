use super::{lines::in_step, seconds};
use crate::run::Failure;

/// How one machine ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) machine: String,
    pub(super) failure: Option<Failure>,
    pub(super) seconds: f64,
}

/// The last words of a run: a line a machine, failures with their reason and what to do next.
pub(super) fn summary(ended: &[Ended], took: f64) -> Vec<String> {
    let width = ended.iter().map(|ended| ended.machine.len()).max().unwrap_or_default();
    let mut lines = vec![String::new()];
    for Ended { machine, seconds: took, .. } in ended.iter().filter(|ended| ended.failure.is_none()) {
        lines.push(format!("passed  {machine:width$}  {}", seconds(*took)));
    }
    for Ended { machine, failure, seconds: took } in ended {
        let Some(failure) = failure else { continue };
        let during = format!("in {}{}", failure.during, in_step(failure));
        lines.push(format!("FAILED  {machine:width$}  {}, {during}", seconds(*took)));
        lines.extend(
            failure.causes.iter().flat_map(|cause| cause.lines()).map(|line| format!("        {line}")),
        );
        if !failure.last_output.is_empty() {
            lines.push("        last output:".to_owned());
            lines.extend(failure.last_output.iter().map(|line| format!("        | {line}")));
        }
        lines.extend(failure.help.iter().map(|help| format!("        help: {help}")));
        if failure.during != "lock" {
            lines.push(format!("        look: farmhand ssh '{machine}'"));
        }
    }
    let failed = ended.iter().filter(|ended| ended.failure.is_some()).count();
    lines.push(format!("{} machines passed, {failed} failed in {}", ended.len() - failed, seconds(took)));
    lines
}

use std::{fmt::Write as _, process::ExitCode};

use super::{FarmArgs, planned::Planned, print, print_json, selection::Selection};
use crate::{
    base::in_words,
    plan::{self, CheckpointRecord, ExplainedCheckpoint, Inputs, StepInputs},
};

/// Explain a machine's checkpoints: the chain of their keys, what went into each, and what differs from what is stored.
///
/// A checkpoint's key is a digest over the key below it and all that its phase is handed. Nothing is touched.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    selection: Selection,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Explained {
    machine: String,
    checkpoints: Vec<ExplainedCheckpoint>,
}

impl Explain {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::look(args, &self.selection).await?;
        let project = &planned.workbench.farm.config.project;
        let explained: Vec<_> = planned
            .machines()
            .iter()
            .map(|machine| Explained {
                machine: machine.machine.name.clone(),
                checkpoints: plan::explain(
                    project,
                    &machine.wanted,
                    machine.existing.as_ref(),
                    &machine.options,
                ),
            })
            .collect();
        if self.json {
            print_json(&explained)?;
        } else {
            let now = jiff::Timestamp::now().as_second();
            let texts: Vec<_> = explained.iter().map(|explained| text(explained, now)).collect();
            print(texts.join("\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(Explained { machine, checkpoints }: &Explained, now: i64) -> String {
    let mut text = format!("{machine}\n");
    for explained in checkpoints {
        let ExplainedCheckpoint { checkpoint, snapshot, verdict, wanted, stored, taken, difference } =
            explained;
        let _ = writeln!(text, "  {checkpoint} (snapshot {snapshot}): {verdict}");
        if *verdict == plan::Verdict::Unused {
            continue;
        }
        let below = wanted.parent.map_or_else(|| "nothing".to_owned(), |key| key.short());
        let _ = writeln!(text, "    key       {} = digest of {below} and", wanted.key.short());
        for line in inputs(wanted) {
            let _ = writeln!(text, "                {line}");
        }
        let age = taken.and_then(|taken| u64::try_from(now.saturating_sub(taken)).ok());
        let age = age.map(|age| format!(", taken {} ago", in_words(std::time::Duration::from_secs(age))));
        match stored {
            Some(stored) => {
                let same = if stored.key == wanted.key { "the same" } else { "another one" };
                let _ = writeln!(
                    text,
                    "    stored    {} ({same}{})",
                    stored.key.short(),
                    age.unwrap_or_default()
                );
            }
            None if taken.is_some() => {
                let _ = writeln!(text, "    stored    a snapshot without a key{}", age.unwrap_or_default());
            }
            None => {}
        }
        if let Some(difference) = difference {
            let _ = writeln!(text, "    differs   {difference}");
        }
    }
    text
}

/// What went into a key, a line each.
fn inputs(record: &CheckpointRecord) -> Vec<String> {
    match &record.inputs {
        Inputs::Origin(origin) => {
            let known = |digest: &Option<crate::base::Digest>| {
                digest.map_or_else(|| "not fetched yet".to_owned(), |digest| digest.short())
            };
            let resources = origin.resources.iter().map(|(name, digest)| format!("{name} {}", known(digest)));
            [format!("hardware {}", origin.shape.short())].into_iter().chain(resources).collect()
        }
        Inputs::Steps(steps) => {
            steps.iter().enumerate().map(|(index, step)| step_inputs(index + 1, step)).collect()
        }
    }
}

fn step_inputs(number: usize, step: &StepInputs) -> String {
    let StepInputs { module, version, digest, settings, r#become } = step;
    let root = if *r#become { ", as root" } else { "" };
    format!("step {number}: {module} {version} ({}){root}, settings {settings}", digest.short())
}

use std::process::ExitCode;

use super::{FarmArgs, print, print_json, workbench::Planned};
use crate::report::plan_text;

/// Show what `up` would do, and why: which checkpoints are valid, which are stale, what would be carried out.
///
/// Checks all input as `up` does, and touches no machine.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// Only these machines.
    machines: Vec<String>,
    /// Plan as for `up --fresh`.
    #[arg(long)]
    fresh: bool,
    /// Print the plans as JSON.
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::new(args, &self.machines, self.fresh).await?;
        let plans: Vec<_> = planned.jobs.iter().map(|job| &job.plan).collect();
        if self.json {
            print_json(&plans)?;
        } else {
            let texts: Vec<_> = plans.into_iter().map(plan_text).collect();
            print(texts.join("\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

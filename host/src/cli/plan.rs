use std::process::ExitCode;

use super::{
    FarmArgs,
    planned::{PlanArgs, Planned},
    print, print_json,
};
use crate::report::plan_text;

/// Show what `up` would do, and why: which checkpoints are valid, which are stale, what would be carried out.
///
/// Checks all input as `up` does, and touches no machine.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    plan: PlanArgs,
    /// Show for each operation why it is done.
    #[arg(long, short)]
    verbose: bool,
    /// Print the plans as JSON.
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::new(args, &self.plan).await?;
        let plans: Vec<_> = planned.machines().iter().map(|machine| &machine.plan).collect();
        if self.json {
            print_json(&plans)?;
        } else {
            let texts: Vec<_> = plans.into_iter().map(|plan| plan_text(plan, self.verbose)).collect();
            print(texts.join("\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

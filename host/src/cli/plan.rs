use std::process::ExitCode;

use serde::Serialize;

use super::{FarmArgs, chosen::PlanArgs, planned::Planned, print, print_json};
use crate::{
    plan::MachinePlan,
    report::{plan_text, rehearsal_text},
    run::{RehearsedPhase, rehearse},
};

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
    /// Also run the modules, and show the commands that they would run.
    ///
    /// No guest is asked or touched: what would change something is held back and taken to succeed; commands that only look are
    /// answered as the guest answered them in an earlier run. Where that was never asked, it is said that it is not known.
    #[arg(long)]
    deep: bool,
    /// Print the plans as JSON.
    #[arg(long)]
    json: bool,
}

/// A plan, and what its steps would do.
#[derive(Serialize)]
struct Deep<'a> {
    #[serde(flatten)]
    plan: &'a MachinePlan,
    phases: Vec<RehearsedPhase>,
}

impl Plan {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::load(args, &self.plan).await?;
        if self.deep {
            return self.deep(&planned).await;
        }
        let plans: Vec<_> = planned.machines().iter().map(|machine| &machine.plan).collect();
        if self.json {
            print_json(&plans)?;
        } else {
            let texts: Vec<_> = plans.into_iter().map(|plan| plan_text(plan, self.verbose)).collect();
            print(texts.join("\n"));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn deep(&self, planned: &Planned) -> miette::Result<ExitCode> {
        let known = planned.workbench.dirs.guest_probes();
        let mut rehearsed = Vec::new();
        for machine in planned.machines() {
            let rehearsal =
                rehearse(&machine.machine, &machine.plan, &machine.wanted, &machine.steps, &known).await;
            rehearsed.push((&machine.plan, rehearsal));
        }
        if self.json {
            let deep = rehearsed.into_iter().map(|(plan, machine)| Deep { plan, phases: machine.phases });
            print_json(&deep.collect::<Vec<_>>())?;
        } else {
            let texts: Vec<_> = rehearsed
                .iter()
                .map(|(plan, machine)| plan_text(plan, self.verbose) + &rehearsal_text(machine))
                .collect();
            print(texts.join("\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

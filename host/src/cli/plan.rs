use std::process::ExitCode;

use serde::Serialize;

use super::{
    FarmArgs,
    chosen::PlanArgs,
    planned::{Planned, PlannedMachine},
    print, print_json,
};
use crate::{
    hypervisor::NewNetwork,
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

/// What is shown of a machine.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    plan: &'a MachinePlan,
    /// The name of the hypervisor that it goes to.
    hypervisor: &'a str,
    /// The network of libvirt's that will be made for it, if its own is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a NewNetwork>,
    /// What its steps would do, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<Vec<RehearsedPhase>>,
}

impl Plan {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::load(args, &self.plan).await?;
        let workbench = &planned.workbench;
        let known = workbench.dirs.guest_probes();
        let mut shown = Vec::new();
        for PlannedMachine { machine, host, existing, wanted, plan, steps, network, .. } in planned.machines()
        {
            let phases = match self.deep {
                true => {
                    let wanted = wanted.assuming(existing.as_ref());
                    Some(rehearse(machine, plan, &wanted, steps, &known).await)
                }
                false => None,
            };
            let hypervisor = &workbench.hosts[*host].config.name;
            shown.push(Shown { plan, hypervisor, network: network.as_ref(), phases });
        }
        if self.json {
            print_json(&shown)?;
        } else {
            let is_choice = workbench.hosts.len() > 1;
            let texts: Vec<_> = shown.iter().map(|shown| self.text(shown, is_choice)).collect();
            print(texts.join("\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self, Shown { plan, hypervisor, network, phases }: &Shown<'_>, is_choice: bool) -> String {
        let mut text = plan_text(plan, is_choice.then_some(hypervisor), self.verbose);
        if let Some(NewNetwork { name, gateway, prefix }) = network {
            text += &format!("  network `{name}` will be made: {gateway}/{prefix}, with NAT and DHCP\n");
        }
        text + &phases.as_deref().map(rehearsal_text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    #[test]
    fn programs_are_told_the_hypervisor_and_phases_only_when_asked_for() {
        let plan = MachinePlan { machine: "a".into(), checkpoints: IndexMap::new(), operations: vec![] };
        let shown = |phases| {
            serde_json::to_value(Shown { plan: &plan, hypervisor: "near", network: None, phases }).unwrap()
        };
        let mut expected = serde_json::json!({
            "machine": "a", "checkpoints": {}, "operations": [], "hypervisor": "near"
        });
        assert_eq!(shown(None), expected);
        expected["phases"] = serde_json::json!([]);
        assert_eq!(shown(Some(vec![])), expected);
    }
}

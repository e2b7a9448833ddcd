use std::process::ExitCode;

use super::{FarmArgs, print, print_json, table::table, workbench::select};
use crate::{base::Phase, farm::Farm};

/// List the machines that the farm defines: platforms on targets.
///
/// Reads and checks the farm's files; no hypervisor is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Machines {
    /// Only these machines.
    machines: Vec<String>,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

impl Machines {
    pub(super) fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let farm = Farm::load(&args.farm)?;
        let machines = select(&farm, &self.machines)?;
        if self.json {
            print_json(&machines)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = machines.into_iter().map(|machine| {
            let phases: Vec<_> = Phase::ALL
                .into_iter()
                .filter(|&phase| !machine.phases().steps(phase).is_empty())
                .map(|phase| format!("{phase} ({})", machine.phases().steps(phase).len()))
                .collect();
            [
                machine.name.clone(),
                machine.platform().to_owned(),
                machine.target().to_owned(),
                machine.arch.clone().unwrap_or_else(|| "host's".to_owned()),
                machine.vcpus.to_string(),
                format!("{} MiB", machine.ram),
                phases.join(", "),
            ]
        });
        print(table(["machine", "platform", "target", "arch", "vcpus", "memory", "phases (steps)"], rows));
        Ok(ExitCode::SUCCESS)
    }
}

use std::process::ExitCode;

use serde_json::json;

use super::{
    FarmArgs,
    inspect::{Inspected, inspect, library},
    print, print_json,
    workbench::dirs,
};
use crate::{
    base::{Problem, Problems, counted},
    farm::Farm,
};

/// Check all that can be checked without a hypervisor, and list every problem.
///
/// farm.yaml, definitions, phase files with their modules, settings and grants, domain templates and what they give, against
/// libvirt's own schema where libvirt is installed. The exit code is 0 when all is in order, else 2.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Print the problems as JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let (count, mut problems) = match Farm::survey(&args.farm) {
            Ok((farm, mut problems)) => {
                let names: Vec<_> = farm.machines.keys().cloned().collect();
                let library = library(&farm, &dirs()?)?;
                let Inspected { steps, problems: found } = inspect(&farm, &names, &library).await;
                drop(steps);
                problems.extend(found);
                (farm.machines.len(), problems)
            }
            Err(problems) => (0, problems.into_iter().collect()),
        };
        Problem::dedup(&mut problems);
        let is_fine = problems.is_empty();
        if self.json {
            print_json(&problems.iter().map(as_json).collect::<Vec<_>>())?;
            return Ok(ExitCode::from(if is_fine { 0 } else { crate::cli::WRONG_INPUT }));
        }
        Problems::unless_empty(problems, ())?;
        let are = if count == 1 { "is" } else { "are" };
        print(format!("{} {are} in order\n", counted(count, "machine")))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(problem: &Problem) -> serde_json::Value {
    let position = problem.position();
    json!({
        "message": problem.message(),
        "help": problem.hint(),
        "file": position.map(|(file, ..)| file),
        "line": position.map(|(_, line, _)| line),
        "column": position.map(|(.., column)| column),
    })
}

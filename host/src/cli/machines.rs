use std::process::ExitCode;

use miette::IntoDiagnostic;
use serde_json::Value;

use super::{FarmArgs, print, print_json, selection::Selection, table::table};
use crate::{
    base::Phase,
    farm::{DomainInputs, Explained, Farm, Machine},
};

/// How much of a text is shown in a table.
const MAX_SHOWN: usize = 60;

/// List the machines that the farm defines: platforms on targets.
///
/// Reads and checks the farm's files; no hypervisor is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Machines {
    #[command(flatten)]
    selection: Selection,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
    /// Print them as YAML.
    #[arg(long, conflicts_with = "json")]
    yaml: bool,
    /// Show for each value of this machine's definition the file and line that it comes from.
    ///
    /// Passwords, and what was made from them, are not shown.
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["machines", "platform", "target", "yaml"])]
    explain: Option<String>,
    /// Print the domain XML that this machine's definition and template give.
    ///
    /// What is decided only when it is installed is filled in: paths of disks, the SSH port, farmhand's key.
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["machines", "json", "yaml", "explain"])]
    xml: Option<String>,
}

impl Machines {
    pub(super) fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let farm = Farm::load(&args.farm)?;
        if let Some(name) = &self.explain {
            return Selection::one(name)
                .of(&farm)?
                .into_iter()
                .try_for_each(|machine| self.explain(&farm, machine))
                .map(|()| ExitCode::SUCCESS);
        }
        if let Some(name) = &self.xml {
            for machine in Selection::one(name).of(&farm)? {
                print(machine.template().render(machine, &DomainInputs::stand_ins(machine))? + "\n")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let machines = self.selection.of(&farm)?;
        if self.json {
            print_json(&machines)?;
        } else if self.yaml {
            // By way of JSON: YAML would say a choice by a tag.
            let machines = serde_json::to_value(&machines).into_diagnostic()?;
            print(serde_yaml::to_string(&machines).into_diagnostic()?)?;
        } else {
            list(&machines)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn explain(&self, farm: &Farm, machine: &Machine) -> miette::Result<()> {
        let values = farm.explain(machine)?;
        if self.json {
            return print_json(&values);
        }
        let row = |explained: Explained| {
            let value = explained.value.as_ref().map_or_else(|| "(not shown)".to_owned(), show);
            [explained.path, value, format!("{}:{}", explained.file, explained.line)]
        };
        print(table(["value", "is", "from"], values.into_iter().map(row)))
    }
}

fn list(machines: &[&Machine]) -> miette::Result<()> {
    let rows = machines.iter().map(|machine| {
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
    print(table(["machine", "platform", "target", "arch", "vcpus", "memory", "phases (steps)"], rows))
}

/// A value in a line: a text as it is, unless that would be taken for something else.
fn show(value: &Value) -> String {
    let plain = |text: &&String| {
        let ambiguous =
            text.is_empty() || text.trim() != **text || serde_json::from_str::<Value>(text).is_ok();
        !ambiguous && !text.chars().any(char::is_control)
    };
    let whole = match value {
        Value::String(text) if plain(&text) => text.clone(),
        // JSON leaves the control characters from U+007F on as they are.
        other => other.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
    };
    let short: String = whole.chars().take(MAX_SHOWN).collect();
    if short.len() < whole.len() { short + "..." } else { whole }
}

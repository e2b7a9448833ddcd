use clap::Args;
use indexmap::IndexMap;
use miette::IntoDiagnostic;

use super::{
    inspect::{Inspected, inspect, library},
    selection::Selection,
    workbench::dirs,
};
use crate::{
    base::{Phase, Problems},
    farm::{Farm, Gate},
    module::ResolvedSteps,
    plan::{GateChoice, Options},
};

/// Which machines, and how much of their lives.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    selection: Selection,
    /// Install the machines anew, whatever exists.
    #[arg(long)]
    fresh: bool,
    /// Do only these operations, e.g. `startup,main`; the names are those of `allowed_phases` in farm.yaml.
    #[arg(long, value_name = "OPERATION", value_delimiter = ',', value_parser = gate)]
    only: Vec<Gate>,
    /// Leave these operations out, e.g. `shutdown`.
    #[arg(long, value_name = "OPERATION", value_delimiter = ',', value_parser = gate)]
    skip: Vec<Gate>,
    /// Begin with this phase: it and those after it are done again, whatever checkpoints there are of them.
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    from: Option<Phase>,
    /// End with this phase and its checkpoint; the machine is shut down after it.
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    until: Option<Phase>,
}

fn gate(text: &str) -> Result<Gate, String> {
    Gate::try_from(text.to_owned())
}

fn phase(text: &str) -> Result<Phase, String> {
    let names = || Phase::ALL.map(Phase::name).join(", ");
    Phase::ALL
        .into_iter()
        .find(|phase| phase.name() == text)
        .ok_or_else(|| format!("expected one of {}", names()))
}

impl PlanArgs {
    fn options(&self, farm: &Farm) -> miette::Result<Options> {
        let Self { fresh, only, skip, from, until, .. } = self.clone();
        let choice = GateChoice { only, skip, from, until };
        Ok(Options {
            allowed: choice.of(&farm.config.allowed()).into_diagnostic()?,
            fresh,
            rules: farm.config.per_phase.clone(),
            now: jiff::Timestamp::now().as_second(),
        })
    }
}

/// The machines that were chosen, and what may be done with them, with everything checked that can be without a hypervisor.
pub(super) struct Chosen {
    /// The machines' names, in the farm's order.
    pub(super) names: Vec<String>,
    pub(super) steps: IndexMap<String, ResolvedSteps>,
    pub(super) options: Options,
}

impl Chosen {
    /// Checks the phase modules, grants and settings of the machines, and their domains.
    pub(super) async fn new(farm: &Farm, plan: &PlanArgs) -> miette::Result<Self> {
        Self::with(farm, &plan.selection, plan.options(farm)?).await
    }

    /// As [`Self::new`], for commands that only look: as if every operation were allowed.
    pub(super) async fn to_look(farm: &Farm, selection: &Selection) -> miette::Result<Self> {
        let options = Options { allowed: Gate::all().collect(), ..PlanArgs::default().options(farm)? };
        Self::with(farm, selection, options).await
    }

    async fn with(farm: &Farm, selection: &Selection, options: Options) -> miette::Result<Self> {
        let library = library(farm, &dirs()?)?;
        let machines = selection.of(farm)?;
        let names: Vec<_> = machines.iter().map(|machine| machine.name.clone()).collect();
        let Inspected { steps, problems } = inspect(farm, &names, &library).await;
        Ok(Problems::unless_empty(problems, Self { names, steps, options })?)
    }

    /// Reads the secrets that the machines' modules were granted: before a run, and only then.
    pub(super) fn read_secrets(&mut self, farm: &Farm) -> Result<(), Problems> {
        ResolvedSteps::read_secrets(self.steps.values_mut(), farm)
    }
}

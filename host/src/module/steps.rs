//! From the steps of phase files to modules that carry them out: found, granted, and with settings that they take.

use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;
use indexmap::IndexMap;

use super::{Call, Library, Module, ModuleError, NotGranted, Outcome};
use crate::{
    base::{Digest, Grants, Phase, Problem, Problems},
    farm::{Farm, Machine, ModuleConfig, Step, Uses},
};

/// Something that carries out steps: a [`Module`], or a stand-in for tests of the rooms that use modules.
#[async_trait]
pub trait PhaseModule: Send + Sync {
    /// Which module it is.
    fn identity(&self) -> ModuleIdentity;

    /// Carries out a phase on a guest.
    async fn run(&self, call: Call) -> Result<Outcome, ModuleError>;
}

/// Which module a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleIdentity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its file.
    pub digest: Digest,
}

#[async_trait]
impl PhaseModule for Module {
    fn identity(&self) -> ModuleIdentity {
        let descriptor = self.descriptor();
        ModuleIdentity {
            name: descriptor.name.clone(),
            version: descriptor.version.clone(),
            digest: self.digest(),
        }
    }

    async fn run(&self, call: Call) -> Result<Outcome, ModuleError> {
        Self::run(self, call).await
    }
}

/// A step and the module that carries it out.
#[derive(Clone)]
pub struct ResolvedStep {
    /// The step.
    pub step: Step,
    /// Its module.
    pub module: Arc<dyn PhaseModule>,
    /// What the module may do.
    pub grants: Grants,
}

/// The steps of a machine's phases with their modules.
#[derive(Clone, Default)]
pub struct ResolvedSteps([Vec<ResolvedStep>; 4]);

impl ResolvedSteps {
    /// The steps of the phases, in the order of [`Phase::ALL`].
    pub fn new(phases: [Vec<ResolvedStep>; 4]) -> Self {
        Self(phases)
    }

    /// The steps of one phase.
    pub fn of(&self, phase: Phase) -> &[ResolvedStep] {
        &self.0[phase as usize]
    }
}

impl Library {
    /// Resolves all steps of the named machines. All problems are found, not only the first: modules that don't exist or
    /// don't load, grants that are missing, settings that the modules don't take.
    pub async fn resolve_farm(
        &self,
        farm: &Farm,
        machines: &[String],
    ) -> Result<IndexMap<String, ResolvedSteps>, Problems> {
        let mut problems = Vec::new();
        let mut resolved = IndexMap::new();
        for machine in machines.iter().filter_map(|name| farm.machines.get(name)) {
            let mut steps = ResolvedSteps::default();
            for phase in Phase::ALL {
                for step in machine.phases().steps(phase) {
                    match self.resolve_step(farm, machine, phase, step).await {
                        Ok(step) => steps.0[phase as usize].push(step),
                        Err(found) => problems.extend(found),
                    }
                }
            }
            resolved.insert(machine.name.clone(), steps);
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, resolved)
    }

    async fn resolve_step(
        &self,
        farm: &Farm,
        machine: &Machine,
        phase: Phase,
        step: &Step,
    ) -> Result<ResolvedStep, Vec<Problem>> {
        let problem = |message: String| step.problem(["uses"], message);
        let module = match &step.uses {
            Uses::Path(path) => self.load(path).await.map_err(|error| vec![problem(error.to_string())])?,
            Uses::Name(name) => match farm.config.modules.get(name).and_then(|config| config.path.as_ref()) {
                Some(path) => self
                    .load(&farm.root.join(path))
                    .await
                    .map_err(|error| vec![problem(error.to_string())])?,
                None => {
                    let found = self.resolve(name, machine.platform(), None).await;
                    found.map_err(|error| vec![problem(error.to_string())])?
                }
            },
        };
        let descriptor = module.descriptor();
        let mut problems = Vec::new();
        if !descriptor.can_carry_out(phase) {
            problems
                .push(problem(format!("module {} does not carry out the phase {phase}", descriptor.name)));
        }
        let config = config_of(farm, &module);
        let grants = config.map(|config| config.grants.clone()).unwrap_or_default();
        if let Err(missing) = NotGranted::check(descriptor, &grants) {
            problems.push(problem(missing.to_string()));
        } else if step.r#become && !grants.r#become {
            let message =
                format!("the step says `become: true`, which module {} was not granted", descriptor.name);
            let help = format!(
                "if you trust it, let `become: true` stand in farm.yaml under modules: {}: grants",
                descriptor.name
            );
            problems.push(step.problem(["become"], message).help(help));
        }
        if let Err(wrong) = module.check_settings(&step.with) {
            problems.extend(wrong.into_iter().map(|wrong| {
                let path = ["with"].into_iter().chain(wrong.path.split('/').filter(|name| !name.is_empty()));
                step.problem(
                    path,
                    format!("module {} does not take this: {}", descriptor.name, wrong.message),
                )
            }));
        }
        if problems.is_empty() {
            Ok(ResolvedStep { step: step.clone(), module, grants })
        } else {
            Err(problems)
        }
    }
}

/// What `farm.yaml` says of a module: under its name, if it comes from a module folder; under whatever name has its path, if
/// it is a file of the farm's. A file's own word for its name counts for nothing, or it could take another's grants.
fn config_of<'a>(farm: &'a Farm, module: &Module) -> Option<&'a ModuleConfig> {
    let file = |path: &Utf8Path| farm.root.join(path).canonicalize_utf8().ok();
    let source = Utf8Path::new(module.source()).canonicalize_utf8().ok();
    let modules = &farm.config.modules;
    let by_path =
        modules.values().find(|config| config.path.as_deref().is_some_and(|path| file(path) == source));
    let from_folder = || !source.as_ref().is_some_and(|source| source.starts_with(&farm.root));
    by_path.or_else(|| {
        let named = modules.get(&module.descriptor().name).filter(|config| config.path.is_none());
        named.filter(|_| from_folder())
    })
}

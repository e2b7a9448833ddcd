//! From the steps of phase files to modules that carry them out: found, granted, and with settings that they take.

use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;
use indexmap::IndexMap;

use super::{
    Call, Library, Limits, Module, ModuleError, NotGranted, Outcome, PinMismatch, Rehearsal, Secrets,
    grants::secrets_in,
};
use crate::{
    base::{Digest, Grants, Phase, Problem, Problems},
    farm::{Farm, Lock, Machine, ModuleConfig, Step, Uses},
};

/// Something that carries out steps: a [`Module`], or a stand-in for tests of the rooms that use modules.
#[async_trait]
pub trait PhaseModule: Send + Sync {
    /// Which module it is.
    fn identity(&self) -> ModuleIdentity;

    /// Carries out a phase on a guest.
    async fn run(&self, call: Call) -> Result<Outcome, ModuleError>;

    /// Carries out a phase with something in the guest's place; nothing is changed anywhere.
    async fn rehearse(&self, call: Rehearsal) -> Result<Outcome, ModuleError>;
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

    async fn rehearse(&self, call: Rehearsal) -> Result<Outcome, ModuleError> {
        Self::rehearse(self, call).await
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
    /// What it may use up.
    pub limits: Limits,
    /// The secrets that it was granted; none until [`ResolvedSteps::read_secrets`].
    pub secrets: Secrets,
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

    /// Reads the secrets that modules were granted: before a run, and only then.
    pub fn read_secrets(&mut self, farm: &Farm) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for step in self.0.iter_mut().flatten() {
            match Secrets::read(farm, &step.grants.secrets) {
                Ok(secrets) => step.secrets = secrets,
                Err(why) => problems.push(step.step.problem(["uses"], why)),
            }
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, ())
    }
}

/// A module that a farm's steps use.
pub struct UsedModule {
    /// The name under which the farm knows it.
    pub name: String,
    /// The module.
    pub module: Arc<Module>,
    /// What it was granted.
    pub grants: Grants,
}

impl Library {
    /// Resolves all steps of the named machines. All problems are found, not only the first: modules that don't exist or
    /// don't load, that are not as they were pinned, grants that are missing, settings that the modules don't take.
    pub async fn resolve_farm(
        &self,
        farm: &Farm,
        machines: &[String],
    ) -> Result<IndexMap<String, ResolvedSteps>, Problems> {
        let lock = Lock::read(&farm.root)?;
        let mut problems = Vec::new();
        let mut resolved = IndexMap::new();
        for machine in machines.iter().filter_map(|name| farm.machines.get(name)) {
            let mut steps = ResolvedSteps::default();
            for phase in Phase::ALL {
                for step in machine.phases().steps(phase) {
                    match self.resolve_step(farm, &lock, machine, phase, step).await {
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

    /// The modules that a farm's steps use, each once, in the order in which they come. Grants and settings are not looked at.
    pub async fn used_by(&self, farm: &Farm) -> Result<Vec<UsedModule>, Problems> {
        let mut used: Vec<UsedModule> = Vec::new();
        let mut problems = Vec::new();
        for machine in farm.machines.values() {
            for step in Phase::ALL.into_iter().flat_map(|phase| machine.phases().steps(phase)) {
                match self.find(farm, machine, step).await {
                    Err(problem) => problems.push(problem),
                    Ok(module) => {
                        let (name, config) = config_of(farm, &module);
                        let grants = config.map(|config| config.grants.clone()).unwrap_or_default();
                        if !used.iter().any(|used| used.name == name) {
                            used.push(UsedModule { name, module, grants });
                        }
                    }
                }
            }
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, used)
    }

    /// The module that a step uses.
    async fn find(&self, farm: &Farm, machine: &Machine, step: &Step) -> Result<Arc<Module>, Problem> {
        let problem = |message: String| step.problem(["uses"], message);
        let load = async |path: &Utf8Path| {
            let help =
                "build it anew with `farmhand module build`, or look at it with `farmhand module inspect`";
            self.load(path).await.map_err(|error| problem(error.to_string()).help(help))
        };
        match &step.uses {
            Uses::Path(path) => load(path).await,
            Uses::Name(name) => match farm.config.modules.get(name).and_then(|config| config.path.as_ref()) {
                Some(path) => load(&farm.root.join(path)).await,
                None => {
                    let found = self.resolve(name, machine.platform(), None).await;
                    let help = "`farmhand module list` shows the modules that there are and what they claim";
                    found.map_err(|error| problem(error.to_string()).help(help))
                }
            },
        }
    }

    async fn resolve_step(
        &self,
        farm: &Farm,
        lock: &Lock,
        machine: &Machine,
        phase: Phase,
        step: &Step,
    ) -> Result<ResolvedStep, Vec<Problem>> {
        let problem = |message: String| step.problem(["uses"], message);
        let module = self.find(farm, machine, step).await.map_err(|problem| vec![problem])?;
        let descriptor = module.descriptor();
        let mut problems = Vec::new();
        if !descriptor.can_carry_out(phase) {
            let message = format!("module {} does not carry out the phase {phase}", descriptor.name);
            problems.push(problem(message).help("move the step into the file of another phase"));
        }
        let (name, config) = config_of(farm, &module);
        let grants = config.map(|config| config.grants.clone()).unwrap_or_default();
        let pinned =
            lock.modules.get(&name).map(|locked| PinMismatch::check(&name, locked, &module, &grants));
        if let Some(Err(mismatch)) = pinned {
            problems.push(problem(mismatch.to_string()));
        }
        if let Err(missing) = NotGranted::check(descriptor, &step.with, &grants) {
            let help = format!("`farmhand module inspect {}` shows all that it asks for", descriptor.name);
            problems.push(problem(missing.to_string()).help(help));
        } else if step.r#become && !grants.r#become {
            let message =
                format!("the step says `become: true`, which module {} was not granted", descriptor.name);
            let help = format!(
                "if you trust it, let `become: true` stand in farm.yaml under modules: {}: grants",
                descriptor.name
            );
            problems.push(step.problem(["become"], message).help(help));
        }
        for secret in
            secrets_in(&step.with).into_iter().filter(|name| !farm.config.secrets.contains_key(*name))
        {
            let help = format!("say where it comes from:\nsecrets:\n  {secret}: {{ env: {secret} }}");
            let message = format!("the step hands over secret {secret}, which is not in farm.yaml");
            problems.push(step.problem(["with"], message).help(help));
        }
        if let Err(wrong) = module.check_settings(&step.with) {
            problems.extend(wrong.into_iter().map(|wrong| {
                // RFC 6901.
                let name = |name: &str| name.replace("~1", "/").replace("~0", "~");
                let names: Vec<String> = wrong.path.split('/').skip(1).map(name).collect();
                let path = ["with"].into_iter().chain(names.iter().map(String::as_str));
                let help =
                    format!("`farmhand module inspect {}` shows the settings that it takes", descriptor.name);
                let message = format!("module {} does not take this: {}", descriptor.name, wrong.message);
                let problem = match wrong.is_key {
                    true => step.key_problem(path, message),
                    false => step.problem(path, message),
                };
                problem.help(help)
            }));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let limits = Limits::default().with(&farm.config.limits);
        let limits = config.map(|config| limits.clone().with(&config.limits)).unwrap_or(limits);
        Ok(ResolvedStep { step: step.clone(), module, grants, limits, secrets: Secrets::default() })
    }
}

/// What `farm.yaml` says of a module, and under which name: its own, if it comes from a module folder; whatever name has its
/// path, if it is a file of the farm's. A file's own word for its name counts for nothing, or it could take another's grants;
/// one that no name has goes by its path.
fn config_of<'a>(farm: &'a Farm, module: &Module) -> (String, Option<&'a ModuleConfig>) {
    let file = |path: &Utf8Path| farm.root.join(path).canonicalize_utf8().ok();
    let source = Utf8Path::new(module.source()).canonicalize_utf8().ok();
    let modules = &farm.config.modules;
    let mut by_path =
        modules.iter().filter(|(_, config)| config.path.as_deref().is_some_and(|path| file(path) == source));
    if let Some((name, config)) = by_path.next() {
        return (name.clone(), Some(config));
    }
    match source.as_deref().and_then(|source| source.strip_prefix(&farm.root).ok()) {
        Some(inside) => (inside.to_string(), None),
        None => {
            let name = &module.descriptor().name;
            (name.clone(), modules.get(name).filter(|config| config.path.is_none()))
        }
    }
}

//! From the steps of phase files to modules that carry them out: found, granted, and with settings that they take.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use indexmap::IndexMap;

use super::{
    Call, KnownAs, Library, Limits, Module, ModuleError, NotGranted, Outcome, PinMismatch, Rehearsal,
    Secrets, grants::secrets_in, known::Found,
};
use crate::{
    base::{Digest, Grants, Phase, Problem, Problems, Secret},
    farm::{Farm, Lock, Machine, Step},
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
    /// By what the farm knows the module.
    pub known_as: KnownAs,
    /// What the module may do.
    pub grants: Grants,
    /// What it may use up.
    pub limits: Limits,
    /// The secrets of its run, of which the module may use those that it was granted; none until
    /// [`ResolvedSteps::read_secrets`].
    pub secrets: Secrets,
}

impl ResolvedStep {
    /// Has its module carry out a phase on a guest.
    pub async fn run(&self, call: Call) -> Result<Outcome, ModuleError> {
        self.module.run(call).await.map_err(|error| error.known_as(&self.known_as))
    }

    /// The same with something in the guest's place.
    pub async fn rehearse(&self, call: Rehearsal) -> Result<Outcome, ModuleError> {
        self.module.rehearse(call).await.map_err(|error| error.known_as(&self.known_as))
    }
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

    /// Reads the secrets that the modules of a run were granted: before it, and only then, each once. All steps get all of
    /// them: what one step writes to a guest another one may print, and nobody is to see it.
    pub fn read_secrets<'a>(of: impl IntoIterator<Item = &'a mut Self>, farm: &Farm) -> Result<(), Problems> {
        let mut steps: Vec<&mut ResolvedStep> =
            of.into_iter().flat_map(|steps| &mut steps.0).flatten().collect();
        let mut read: BTreeMap<&String, Result<Secret, String>> = BTreeMap::new();
        let mut problems = Vec::new();
        for step in &steps {
            for name in &step.grants.secrets {
                if let Err(why) = read.entry(name).or_insert_with(|| Secrets::read(farm, name)) {
                    problems.push(step.step.problem(["uses"], why.clone()));
                }
            }
        }
        Problem::dedup(&mut problems);
        let values = read.into_iter().filter_map(|(name, value)| Some((name.clone(), value.ok()?)));
        let secrets = Secrets::new(values.collect());
        for step in &mut steps {
            step.secrets = secrets.clone();
        }
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
                    Ok(found) => {
                        let (grants, name) = (found.grants(), found.known_as.name);
                        if !used.iter().any(|used| used.name == name) {
                            used.push(UsedModule { name, module: found.module, grants });
                        }
                    }
                }
            }
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, used)
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
        let found = self.find(farm, machine, step).await.map_err(|problem| vec![problem])?;
        let (grants, inspect) = (found.grants(), format!("`farmhand module inspect {}`", found.inspected()));
        let Found { module, known_as, config } = found;
        let descriptor = module.descriptor();
        let mut problems = Vec::new();
        if !descriptor.can_carry_out(phase) {
            let message = format!("module {} does not carry out the phase {phase}", descriptor.name);
            problems.push(problem(message).help("move the step into the file of another phase"));
        }
        let name = &known_as.name;
        let pinned = lock.modules.get(name).map(|locked| PinMismatch::check(name, locked, &module, &grants));
        if let Some(Err(mismatch)) = pinned {
            problems.push(problem(mismatch.to_string()));
        }
        if let Err(missing) = NotGranted::check(descriptor, &step.with, &grants) {
            let message = missing.known_as(&known_as).to_string();
            problems.push(problem(message).help(format!("{inspect} shows all that it asks for")));
        } else if step.r#become && !grants.r#become {
            let message = format!("the step says `become: true`, which module {name} was not granted");
            let wanted = Grants { r#become: true, ..grants.clone() };
            let help = format!("if you trust it, add to farm.yaml:\n{}", known_as.lines(&wanted));
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
                let message = format!("module {} does not take this: {}", descriptor.name, wrong.message);
                let problem = match wrong.is_key {
                    true => step.key_problem(path, message),
                    false => step.problem(path, message),
                };
                problem.help(format!("{inspect} shows the settings that it takes"))
            }));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let limits = Limits::default().with(&farm.config.limits);
        let limits = config.map(|config| limits.clone().with(&config.limits)).unwrap_or(limits);
        let (step, secrets) = (step.clone(), Secrets::default());
        Ok(ResolvedStep { step, module, known_as, grants, limits, secrets })
    }
}

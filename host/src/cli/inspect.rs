//! What can be found out about a farm without a hypervisor, beside what its files say.

use indexmap::IndexMap;
use miette::IntoDiagnostic;

use crate::{
    base::{Dirs, Problem},
    farm::{DomainSchema, Farm},
    module::{self, Engine, Library, Limits, ResolvedSteps},
};

/// What was found out about a farm without a hypervisor.
pub(super) struct Inspected {
    /// The steps of machines whose steps are in order.
    pub(super) steps: IndexMap<String, ResolvedSteps>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

/// Checks the named machines' phase modules, grants and settings, and their domains against libvirt's schema. Without the
/// schema it says so.
pub(super) async fn inspect(farm: &Farm, names: &[String], library: &Library) -> Inspected {
    let mut problems = Vec::new();
    let machines = names.iter().filter_map(|name| farm.machines.get(name));
    match DomainSchema::installed() {
        Ok(schema) => problems.extend(farm.check_domains(machines, &schema).err().into_iter().flatten()),
        Err(error) => eprintln!("domain XML is only checked to be well-formed: {error}"),
    }
    let steps = library.resolve_farm(farm, names).await.unwrap_or_else(|found| {
        problems.extend(found);
        IndexMap::new()
    });
    Inspected { steps, problems }
}

/// The phase modules that a farm may use.
pub(super) fn library(farm: &Farm, dirs: &Dirs) -> miette::Result<Library> {
    let limits = Limits::default().with(&farm.config.limits);
    Ok(Library::new(engine(dirs, limits)?, module::default_folders()))
}

/// What compiles modules, in processes of this very program, and runs them.
pub(super) fn engine(dirs: &Dirs, limits: Limits) -> miette::Result<Engine> {
    Engine::with_compiler(Some(dirs.modules()), limits, "/proc/self/exe".into()).into_diagnostic()
}

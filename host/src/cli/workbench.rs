//! What most commands need: the farm, its hypervisor, and plans for its machines.

use std::sync::Arc;

use camino::Utf8PathBuf;
use indexmap::IndexMap;
use miette::{IntoDiagnostic, WrapErr, miette};

use super::FarmArgs;
use crate::{
    base::Dirs,
    farm::{Farm, Machine},
    guest::{keypair, ssh::SshConnector},
    hypervisor::{
        Hypervisor,
        libvirt::{Libvirt, default_uri},
    },
    module::{self, Engine, Library, Limits, ResolvedSteps},
    plan::{self, Existing, Options, Origin, Wanted},
    run::{EventSink, LocalStorage, MachineJob, Site, Storage, domain_inputs},
};

/// A farm and the hypervisor it is on.
pub(super) struct Workbench {
    pub(super) farm: Farm,
    pub(super) dirs: Dirs,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    /// The hypervisor's libvirt connection URI.
    pub(super) uri: String,
}

impl Workbench {
    /// Loads the farm and connects to its hypervisor.
    pub(super) async fn open(args: &FarmArgs) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        Self::connect(args, farm).await
    }

    async fn connect(args: &FarmArgs, farm: Farm) -> miette::Result<Self> {
        let dirs = dirs()?;
        let uri = args.connect.clone().or_else(|| farm.config.hypervisor_uri().map(str::to_owned));
        let uri = uri.unwrap_or_else(default_uri);
        let hypervisor = Libvirt::connect(&uri).await.into_diagnostic()?;
        Ok(Self { farm, dirs, hypervisor: Arc::new(hypervisor), uri })
    }

    /// The machines that are named, or all when none is.
    pub(super) fn select(&self, names: &[String]) -> miette::Result<Vec<&Machine>> {
        select(&self.farm, names)
    }

    /// What the hypervisor has of a machine.
    pub(super) async fn existing(&self, name: &str) -> miette::Result<Option<Existing>> {
        let Some(domain) = self.hypervisor.domain(name).await.into_diagnostic()? else { return Ok(None) };
        let snapshots = self.hypervisor.snapshots(name).await.into_diagnostic()?;
        Ok(Some(Existing { domain, snapshots }))
    }

    /// What a run needs beside the plans.
    pub(super) fn site(&self, events: Arc<dyn EventSink>, record: Option<Utf8PathBuf>) -> Arc<Site> {
        Arc::new(Site {
            hypervisor: self.hypervisor.clone(),
            connector: Arc::new(SshConnector),
            storage: Arc::new(self.storage()),
            events,
            locks: self.dirs.locks(),
            login_key: self.dirs.login_key(),
            record,
            project: self.farm.config.project.clone(),
            timeouts: self.farm.config.timeouts(),
            ports: Default::default(),
        })
    }

    pub(super) fn storage(&self) -> LocalStorage {
        LocalStorage::new(&self.dirs, self.farm.root.clone())
    }
}

/// A farm whose files, phase modules and grants are all in order, and the plans for its machines.
pub(super) struct Planned {
    pub(super) workbench: Workbench,
    pub(super) jobs: Vec<MachineJob>,
}

impl Planned {
    /// Checks everything that can be checked without touching a machine, then plans.
    pub(super) async fn new(args: &FarmArgs, names: &[String], fresh: bool) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        let options = Options { allowed: farm.config.allowed(), fresh };
        let dirs = dirs()?;
        let engine = Engine::new(Some(dirs.modules()), Limits::default().with(&farm.config.limits))
            .into_diagnostic()?;
        let library = Library::new(engine, module::default_folders());
        let selected: Vec<_> =
            select(&farm, names)?.into_iter().map(|machine| machine.name.clone()).collect();
        let mut steps = library.resolve_farm(&farm, &selected).await?;
        let workbench = Workbench::connect(args, farm).await?;
        let jobs = workbench.jobs(&selected, &mut steps, &options).await?;
        Ok(Self { workbench, jobs })
    }
}

impl Workbench {
    async fn jobs(
        &self,
        names: &[String],
        steps: &mut IndexMap<String, ResolvedSteps>,
        options: &Options,
    ) -> miette::Result<Vec<MachineJob>> {
        let capabilities = self.hypervisor.capabilities().await.into_diagnostic()?;
        let storage = self.storage();
        let mut jobs = Vec::new();
        for name in names {
            let machine = &self.farm.machines[name];
            let login_key = match machine.needs_login_key() {
                true => Some(
                    keypair::ensure_login_key(&self.dirs.login_key()).into_diagnostic()?.as_str().to_owned(),
                ),
                false => None,
            };
            let inputs = domain_inputs(machine, &capabilities, login_key.as_deref())
                .into_diagnostic()
                .wrap_err_with(|| name.clone())?;
            let shape = machine.template().shape(machine, &inputs)?;
            let steps = steps.swap_remove(name).unwrap_or_default();
            let existing = self.existing(name).await?;
            // What a machine was installed from matters only when there is one.
            let resources = match existing {
                Some(_) => storage.identify(machine).await,
                None => storage.known(machine),
            };
            let wanted = Wanted::new(Origin { shape, resources, preparation: machine.preparation() }, &steps);
            let plan = plan::plan(name, &self.farm.config.project, &wanted, existing.as_ref(), options)
                .into_diagnostic()?;
            jobs.push(MachineJob { machine: machine.clone(), plan, wanted, steps, inputs });
        }
        Ok(jobs)
    }
}

/// farmhand's folders, made if need be.
pub(super) fn dirs() -> miette::Result<Dirs> {
    let dirs = Dirs::of_user().into_diagnostic()?;
    dirs.create().into_diagnostic().wrap_err("can't make farmhand's folders")?;
    Ok(dirs)
}

/// The machines of those names, in the farm's order; all when none is named.
pub(super) fn select<'a>(farm: &'a Farm, names: &[String]) -> miette::Result<Vec<&'a Machine>> {
    if let Some(unknown) = names.iter().find(|name| !farm.machines.contains_key(*name)) {
        let known: Vec<_> = farm.machines.keys().map(String::as_str).collect();
        return Err(miette!(
            help = format!("its machines are: {}", known.join(", ")),
            "the farm has no machine `{unknown}`"
        ));
    }
    Ok(farm.machines.values().filter(|machine| names.is_empty() || names.contains(&machine.name)).collect())
}

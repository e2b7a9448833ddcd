//! Plans for the farm's machines, with all input checked before.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use indexmap::IndexMap;
use miette::{IntoDiagnostic, miette};

use super::{
    FarmArgs,
    chosen::{Chosen, PlanArgs},
    networks,
    selection::Selection,
    workbench::{Host, Outside, Workbench},
};
use crate::{
    farm::{Farm, Machine},
    guest::keypair::{self, PublicKeyLine},
    hypervisor::{Domain, NewNetwork, libvirt::default_uri},
    module::ResolvedSteps,
    plan::{self, Candidate, Capacity, Demand, Existing, Need, Options, Origin, Placed, Wanted},
    run::{MachineJob, domain_inputs},
};

/// Memory that is left to the hypervisor itself, in MiB: what OpenStack's scheduler reserves, too.
const RESERVED_MEMORY: u64 = 512;

/// Virtual CPUs for each CPU of a hypervisor, as OpenStack's scheduler allots them at first.
const VCPUS_PER_CPU: u32 = 4;

/// How many machines are looked at at once.
const LOOKS: usize = 8;

/// A farm whose files, phase modules and grants are all in order, and what is wanted of its machines.
pub(super) struct Planned {
    pub(super) workbench: Workbench,
    /// What each hypervisor has for the machines.
    pub(super) capacities: Vec<Capacity>,
    machines: Vec<PlannedMachine>,
}

/// A machine, where it goes, and what is to be done with it.
pub(super) struct PlannedMachine {
    pub(super) machine: Machine,
    /// Its place among the workbench's hosts.
    pub(super) host: usize,
    pub(super) existing: Option<Existing>,
    pub(super) options: Options,
    pub(super) wanted: Wanted,
    pub(super) plan: plan::MachinePlan,
    inputs: crate::farm::DomainInputs,
    /// What its network of libvirt's is to be made as, if that is missing.
    pub(super) network: Option<NewNetwork>,
    pub(super) steps: ResolvedSteps,
}

impl Planned {
    /// Checks everything that can be checked without touching a machine, then plans.
    pub(super) async fn load(args: &FarmArgs, plan: &PlanArgs) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        let chosen = Chosen::new(&farm, plan).await?;
        Self::new(args, Workbench::connect(args, farm).await?, chosen).await
    }

    /// As [`Self::load`], for commands that only look: as if every operation were allowed.
    pub(super) async fn look(args: &FarmArgs, selection: &Selection) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        let chosen = Chosen::to_look(&farm, selection).await?;
        Self::new(args, Workbench::connect(args, farm).await?, chosen).await
    }

    /// Looks at what the hypervisors have, and plans.
    pub(super) async fn new(args: &FarmArgs, workbench: Workbench, chosen: Chosen) -> miette::Result<Self> {
        let Chosen { names, steps, options } = chosen;
        let hosts = try_join_all(workbench.hosts.iter().map(|host| look_around(host, &names))).await?;
        let (candidates, domains): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
        let port = |domain: &Domain| Some((domain.ssh_port?, domain.name.clone()));
        let forwards = workbench.farm.forwarded_ports();
        workbench
            .ports
            .note(forwards.into_iter().map(|port| (port, "a port forward of the farm".to_owned())));
        workbench.ports.note(domains.iter().flat_map(BTreeMap::values).filter_map(port));
        let placed = place(args, &workbench, &names, &candidates)?;
        let capacities = candidates.into_iter().map(|candidate| candidate.capacity).collect();
        let missing = networks::missing(&workbench, &placed).await?;
        let machines = workbench.plan(placed, &domains, &missing, steps, &options).await?;
        Ok(Self { workbench, capacities, machines })
    }

    /// The machines, in the farm's order.
    pub(super) fn machines(&self) -> &[PlannedMachine] {
        &self.machines
    }

    /// What a run is to do.
    pub(super) fn into_jobs(self, outside: Outside) -> Vec<MachineJob> {
        let Self { workbench, machines, .. } = self;
        let site = |host| workbench.site(host, outside.clone());
        let sites: Vec<_> = workbench.hosts.iter().map(site).collect();
        let job = |planned: PlannedMachine| {
            let PlannedMachine { machine, host, existing, options, wanted, plan, inputs, network, steps } =
                planned;
            let runs = existing.as_ref().is_some_and(Existing::is_active);
            let demand = Demand { hypervisor: host, memory: machine.ram, vcpus: machine.vcpus, runs };
            let site = sites[host].clone();
            MachineJob { machine, site, demand, plan, existing, options, wanted, steps, inputs, network }
        };
        machines.into_iter().map(job).collect()
    }
}

/// What a hypervisor can run and has.
async fn look_around(
    host: &Host,
    selected: &[String],
) -> miette::Result<(Candidate, BTreeMap<String, Domain>)> {
    let (capabilities, domains) =
        futures::future::try_join(host.hypervisor.capabilities(), host.hypervisor.domains())
            .await
            .into_diagnostic()?;
    // What runs there already takes its share; of this run's machines the schedule knows that.
    let others = domains.iter().filter(|domain| domain.state.is_active() && !selected.contains(&domain.name));
    let taken: u64 = others.map(|domain| domain.memory).sum();
    let config = &host.config;
    let capacity = Capacity {
        machines: config.max_machines,
        memory: config.max_memory.map_or_else(
            || capabilities.memory.saturating_sub(RESERVED_MEMORY).saturating_sub(taken),
            |size| u64::try_from(size.get()).unwrap_or(u64::MAX) >> 20,
        ),
        vcpus: config.max_vcpus.unwrap_or_else(|| capabilities.cpus.saturating_mul(VCPUS_PER_CPU)),
    };
    let candidate = Candidate {
        name: config.name.clone(),
        uri: host.uri.clone(),
        labels: config.labels.clone(),
        capabilities,
        capacity,
        domains: domains.iter().map(|domain| domain.name.clone()).collect(),
    };
    Ok((candidate, domains.into_iter().map(|domain| (domain.name.clone(), domain)).collect()))
}

/// Where each machine goes. All that can go nowhere are told at once.
fn place(
    args: &FarmArgs,
    workbench: &Workbench,
    selected: &[String],
    candidates: &[Candidate],
) -> miette::Result<Vec<(Machine, Placed)>> {
    let farm = &workbench.farm;
    let need = |name: &String| {
        let machine = &farm.machines[name];
        let connection = match &machine.connection {
            // The command line says where everything goes.
            _ if args.connect.is_some() => None,
            Some(uri) => Some(uri.clone()),
            // Hypervisors that only machines name are for those machines.
            None if farm.config.hypervisors.is_empty() => Some(default_uri()),
            None => None,
        };
        Need {
            machine: name.clone(),
            arch: machine.arch.clone(),
            domain_type: machine.domain_type,
            labels: machine.hypervisor_labels.clone(),
            connection,
            memory: machine.ram,
            vcpus: machine.vcpus,
        }
    };
    let needs: Vec<_> = selected.iter().map(need).collect();
    let mut placed = Vec::new();
    let mut errors = Vec::new();
    for (name, result) in selected.iter().zip(plan::place(&needs, candidates)) {
        match result {
            Ok(found) => placed.push((farm.machines[name].clone(), found)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(placed) } else { Err(miette!("{}", errors.join("\n"))) }
}

impl Workbench {
    async fn plan(
        &self,
        placed: Vec<(Machine, Placed)>,
        domains: &[BTreeMap<String, Domain>],
        missing: &BTreeMap<String, NewNetwork>,
        mut steps: IndexMap<String, ResolvedSteps>,
        options: &Options,
    ) -> miette::Result<Vec<PlannedMachine>> {
        let needs_key = placed.iter().any(|(machine, _)| machine.needs_login_key());
        let login_key = match needs_key {
            true => Some(keypair::ensure_login_key(&self.dirs.login_key()).into_diagnostic()?),
            false => None,
        };
        let login_key = login_key.as_ref().map(PublicKeyLine::as_str);
        let storages: Vec<_> = self.hosts.iter().map(|host| self.storage(host)).collect();
        let plan = |(machine, placed): (Machine, Placed)| {
            let steps = steps.swap_remove(&machine.name).unwrap_or_default();
            let storage = storages[placed.hypervisor].clone();
            async move {
                let name = &machine.name;
                let inputs = domain_inputs(&machine, &placed, login_key);
                let shape = machine.template().shape(&machine, &inputs)?;
                let existing = match domains[placed.hypervisor].get(name) {
                    Some(domain) => Some(Existing {
                        domain: domain.clone(),
                        snapshots: self.hosts[placed.hypervisor]
                            .hypervisor
                            .snapshots(name)
                            .await
                            .into_diagnostic()?,
                    }),
                    None => None,
                };
                // What a machine was installed from matters only when there is one.
                let resources = match existing {
                    Some(_) => storage.identify(&machine).await,
                    None => storage.known(&machine),
                };
                let origin = Origin { shape, resources, preparation: machine.preparation() };
                let wanted = Wanted::new(origin, &steps);
                let project = &self.farm.config.project;
                let plan =
                    plan::plan(name, project, &wanted, existing.as_ref(), options).into_diagnostic()?;
                let (host, options) = (placed.hypervisor, options.clone());
                let network = missing.get(name).cloned();
                Ok(PlannedMachine { machine, host, existing, options, wanted, plan, inputs, network, steps })
            }
        };
        stream::iter(placed).map(plan).buffered(LOOKS).try_collect().await
    }
}

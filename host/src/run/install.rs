//! Making a machine: images, disks, domain.

use std::sync::Arc;

use super::{Event, MachineJob, RunError, Site, Stage, Storage, network};
use crate::{
    farm::{DomainInputs, Machine},
    hypervisor::{DomainMetadata, GuestCapability, Hypervisor, domain_xml},
    plan::Placed,
};

/// Makes a machine anew. What there is of it (domain, snapshots, disks) is removed, after the images have been fetched and
/// verified.
pub(super) async fn install(site: &Site, job: &mut MachineJob) -> Result<(), RunError> {
    let machine = &job.machine;
    let name = &machine.name;
    let progress = {
        let (events, machine) = (site.events.clone(), name.clone());
        Arc::new(move |message| events.emit(Event::Progress { machine: machine.clone(), message }))
    };
    let fetched = site.storage.fetch(machine, progress).await?;
    for (resource, file) in &fetched {
        job.wanted.origin.resources.insert(resource.clone(), Some(file.digest));
    }

    site.journal.begin(&*site.hypervisor, name, Stage::Installing).await?;
    remove(&*site.hypervisor, &*site.storage, name).await?;
    let disks = site.storage.create_disks(machine, &fetched).await?;
    let mut inputs = job.inputs.clone();
    inputs.disks = disks;
    inputs.kernel = fetched.get("kernel").map(|file| file.path.clone());
    inputs.initrd = fetched.get("initrd").map(|file| file.path.clone());
    let seed = site.storage.create_seed(machine).await?;
    inputs.seed = seed.as_ref().map(|seed| seed.path.clone());
    let metadata = DomainMetadata {
        origin: serde_json::to_value(&job.wanted.origin).unwrap_or_default(),
        ssh_host_key: seed.map(|seed| seed.host_key),
    };

    inputs.ssh_port = site.ports.give(name)?;
    let xml = machine
        .template()
        .render(machine, &inputs)
        .map_err(|problem| RunError::Definition(Box::new(problem)))?;
    let xml = domain_xml::insert_metadata(&xml, &metadata)?;
    site.hypervisor.define(&xml).await?;
    Ok(())
}

/// Removes all there is of a machine: its domain with its snapshots, and its disks, also those that a killed run left without
/// a domain. Gives whether there was a domain.
pub async fn remove(
    hypervisor: &dyn Hypervisor,
    storage: &dyn Storage,
    name: &str,
) -> Result<bool, RunError> {
    let domain = hypervisor.domain(name).await?;
    if let Some(domain) = &domain {
        hypervisor.destroy(name).await?;
        network::release(hypervisor, domain).await?;
        hypervisor.undefine(name).await?;
    }
    storage.remove_disks(name).await?;
    Ok(domain.is_some())
}

/// What of a machine's domain depends on the hypervisor. Paths and port are not set yet.
pub fn domain_inputs(machine: &Machine, placed: &Placed, login_key: Option<&str>) -> DomainInputs {
    let GuestCapability { arch, emulator, .. } = placed.guest.clone();
    DomainInputs {
        domain_type: placed.domain_type,
        arch,
        emulator,
        disks: machine.disks.iter().map(|_| "".into()).collect(),
        kernel: machine.kernel.as_ref().map(|_| "".into()),
        initrd: machine.kernel.as_ref().and_then(|kernel| kernel.initrd.as_ref()).map(|_| "".into()),
        seed: machine.first_boot().map(|_| "".into()),
        ssh_port: 0,
        login_key: login_key.filter(|_| machine.takes_key_from_firmware()).map(str::to_owned),
    }
}

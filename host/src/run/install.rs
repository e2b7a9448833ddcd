//! Making a machine: images, disks, domain.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, PoisonError},
};

use super::{Event, MachineJob, RunError, Site, Storage};
use crate::{
    base::Digest,
    farm::{DomainInputs, DomainType, Machine},
    hypervisor::{Capabilities, DomainMetadata, Hypervisor, domain_xml},
};

/// Ports for SSH: below Linux's ephemeral ports (32768 to 60999).
const FIRST_PORT: u16 = 20_000;
/// How many of them there are.
const PORTS: u16 = 12_000;

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

    inputs.ssh_port = free_port(site, name).await?;
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
    let exists = hypervisor.domain(name).await?.is_some();
    if exists {
        hypervisor.destroy(name).await?;
        hypervisor.undefine(name).await?;
    }
    storage.remove_disks(name).await?;
    Ok(exists)
}

/// What of a machine's domain depends on the hypervisor: the first thing it can run of what the definition allows, KVM
/// before TCG. Paths and port are not set yet.
pub fn domain_inputs(
    machine: &Machine,
    capabilities: &Capabilities,
    login_key: Option<&str>,
) -> Result<DomainInputs, RunError> {
    let arch = machine.arch.as_deref().unwrap_or(&capabilities.host_arch);
    let kinds = match machine.domain_type {
        Some(kind) => vec![kind],
        None => vec![DomainType::Kvm, DomainType::Qemu],
    };
    let found = kinds.iter().find_map(|kind| {
        let guest = |guest: &&crate::hypervisor::GuestCapability| {
            guest.arch == arch && guest.domain_type == kind.name()
        };
        Some((*kind, capabilities.guests.iter().find(guest)?))
    });
    let Some((domain_type, guest)) = found else {
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let available: Vec<_> = capabilities
            .guests
            .iter()
            .map(|guest| format!("{} ({})", guest.arch, guest.domain_type))
            .collect();
        return Err(RunError::Unsupported {
            wanted: format!("{arch} ({})", kinds.join(" or ")),
            available: if available.is_empty() { "none".to_owned() } else { available.join(", ") },
        });
    };
    Ok(DomainInputs {
        domain_type,
        arch: arch.to_owned(),
        emulator: guest.emulator.clone(),
        disks: machine.disks.iter().map(|_| "".into()).collect(),
        kernel: machine.kernel.as_ref().map(|_| "".into()),
        initrd: machine.kernel.as_ref().and_then(|kernel| kernel.initrd.as_ref()).map(|_| "".into()),
        seed: machine.first_boot().map(|_| "".into()),
        ssh_port: 0,
        login_key: login_key.filter(|_| machine.takes_key_from_firmware()).map(str::to_owned),
    })
}

/// The port that a machine gets if it is free, 0 being the first. It follows from the machine's name, so that a machine that is
/// made anew gets its old port back.
pub(super) fn favourite_port(machine: &str) -> u16 {
    u16::from_str_radix(&Digest::of(machine).hex()[..4], 16).unwrap_or_default() % PORTS
}

/// A port on loopback that neither a domain, another machine of this run nor a process has.
async fn free_port(site: &Site, machine: &str) -> Result<u16, RunError> {
    let domains = site.hypervisor.domains().await?;
    let taken: Vec<_> =
        domains.iter().filter(|domain| domain.name != machine).filter_map(|domain| domain.ssh_port).collect();
    let start = favourite_port(machine);
    let mut given = site.ports.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |port: &u16| {
        !taken.contains(port)
            && !given.contains(port)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    let port = (0..PORTS).map(|offset| FIRST_PORT + (start + offset) % PORTS).find(is_free);
    given.extend(port);
    port.ok_or(RunError::NoPort { first: FIRST_PORT, last: FIRST_PORT + PORTS - 1 })
}

//! A machine's network, before the machine runs: defined, started, and its address reserved.

use std::net::IpAddr;

use super::{RunError, Site};
use crate::{
    farm::Machine,
    hypervisor::{Domain, NewNetwork, Reservation},
};

/// Makes sure that the network of libvirt's in which a machine is can be used: it is defined as `new` says when it is missing,
/// started, and gives a fixed address to the machine. Does nothing for machines that are in none.
pub(super) async fn prepare(
    site: &Site,
    machine: &Machine,
    new: Option<&NewNetwork>,
) -> Result<(), RunError> {
    let Some(name) = machine.net.libvirt_network() else { return Ok(()) };
    let hypervisor = &site.hypervisor;
    if let Some(new) = new
        && hypervisor.network(name).await?.is_none()
    {
        site.progress(&machine.name, format!("making the network `{name}` ({}/{})", new.gateway, new.prefix));
        if let Err(error) = hypervisor.define_network(new).await
            // Another machine of this run may have been first.
            && hypervisor.network(name).await?.is_none()
        {
            return Err(error.into());
        }
    }
    hypervisor.start_network(name).await?;
    match machine.net.ip {
        Some(ip) => reserve(site, machine, name, ip).await,
        None => Ok(()),
    }
}

/// Keeps the address that a machine has got by DHCP for it, so that it is still its own when the machine is put back into a
/// checkpoint, which holds the address in memory and nothing of the time that has passed.
pub(super) async fn keep(site: &Site, machine: &Machine, ip: &str) -> Result<(), RunError> {
    let (Some(name), Ok(ip @ IpAddr::V4(_))) = (machine.net.libvirt_network(), ip.parse()) else {
        return Ok(());
    };
    reserve(site, machine, name, ip).await.map_err(|refused| RunError::NotReady {
        requirement: "its address",
        problem: format!("{ip} can't be kept for it: {refused}"),
        hint: format!(
            "see who has it: virsh net-dumpxml {name}; `vm.net.ip` gives the machine another one, from its next installation on: farmhand up --fresh '{}'",
            machine.name
        ),
    })
}

async fn reserve(site: &Site, machine: &Machine, network: &str, ip: IpAddr) -> Result<(), RunError> {
    let reservation = Reservation { mac: machine.mac().to_owned(), ip };
    Ok(site.hypervisor.reserve_address(network, &reservation).await?)
}

/// Gives up all that is reserved for a domain.
pub(super) async fn release(
    hypervisor: &dyn crate::hypervisor::Hypervisor,
    domain: &Domain,
) -> Result<(), RunError> {
    for interface in &domain.interfaces {
        if let Some(network) = &interface.network {
            hypervisor.release_address(network, &interface.mac).await?;
        }
    }
    Ok(())
}

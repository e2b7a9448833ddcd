//! Networks and addresses, as libvirt has them.

use std::{
    ffi::{CStr, CString, c_char},
    net::IpAddr,
    ptr,
};

use async_trait::async_trait;
use virt::{
    connect::Connect,
    domain::Domain as VirtDomain,
    error::{Error, ErrorNumber},
    network::Network as VirtNetwork,
    sys,
};

use super::{
    ASK_LIMIT, CHANGE_LIMIT, Libvirt,
    calls::{Fault, bound_agent, c_text, if_any},
};
use crate::hypervisor::{
    Address, AddressSource, HypervisorError, Lease, Network, Networks, NewNetwork, Reservation, network_xml,
};

/// As `virNetworkUpdate` wants no parent of a reservation to be named.
const ANY_PARENT: i32 = -1;

#[async_trait]
impl Networks for Libvirt {
    async fn networks(&self) -> Result<Vec<Network>, HypervisorError> {
        self.call(ASK_LIMIT, "list the networks", networks).await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>, HypervisorError> {
        let (operation, name) = (format!("describe network {name}"), name.to_owned());
        self.call(ASK_LIMIT, &operation, move |connect| network(connect, &name)).await
    }

    async fn define_network(&self, network: &NewNetwork) -> Result<(), HypervisorError> {
        let (operation, network) = (format!("define network {}", network.name), network.clone());
        self.call(CHANGE_LIMIT, &operation, move |connect| define(connect, &network)).await
    }

    async fn start_network(&self, name: &str) -> Result<(), HypervisorError> {
        let (operation, name) = (format!("start network {name}"), name.to_owned());
        self.call(CHANGE_LIMIT, &operation, move |connect| start(connect, &name)).await
    }

    async fn reserve_address(&self, network: &str, reservation: &Reservation) -> Result<(), HypervisorError> {
        let Reservation { mac, ip } = reservation;
        let operation = format!("reserve {ip} for {mac} in network {network}");
        let (network, reservation) = (network.to_owned(), reservation.clone());
        self.call(CHANGE_LIMIT, &operation, move |connect| reserve(connect, &network, &reservation)).await
    }

    async fn release_address(&self, network: &str, mac: &str) -> Result<(), HypervisorError> {
        let operation = format!("give up what is reserved for {mac} in network {network}");
        let (network, mac) = (network.to_owned(), mac.to_owned());
        self.call(CHANGE_LIMIT, &operation, move |connect| release(connect, &network, &mac)).await
    }

    async fn leases(&self, network: &str, mac: &str) -> Result<Vec<Lease>, HypervisorError> {
        let operation = format!("list the leases of {mac} in network {network}");
        let (network, mac) = (network.to_owned(), mac.to_owned());
        self.call(ASK_LIMIT, &operation, move |connect| leases(connect, &network, &mac)).await
    }

    async fn addresses(&self, domain: &str, source: AddressSource) -> Result<Vec<Address>, HypervisorError> {
        let operation = format!("tell the addresses of domain {domain}");
        self.domain_call(ASK_LIMIT, &operation, domain, move |domain| addresses(domain, source)).await
    }
}

fn networks(connect: &Connect) -> Result<Vec<Network>, Fault> {
    let mut networks = Vec::new();
    for network in connect.list_all_networks(0)? {
        // It may have gone since.
        networks.extend(describe(&network)?);
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

fn network(connect: &Connect, name: &str) -> Result<Option<Network>, Fault> {
    match lookup_if_any(connect, name)? {
        Some(network) => describe(&network),
        None => Ok(None),
    }
}

fn define(connect: &Connect, network: &NewNetwork) -> Result<(), Fault> {
    if lookup_if_any(connect, &network.name)?.is_some() {
        return Err(Fault::Refused("there is one of that name".to_owned()));
    }
    VirtNetwork::define_xml(connect, c_text(&network_xml::to_define(network))?)?;
    Ok(())
}

fn start(connect: &Connect, name: &str) -> Result<(), Fault> {
    let network = VirtNetwork::lookup_by_name(connect, c_text(name)?)?;
    if network.is_active()? {
        return Ok(());
    }
    match network.create() {
        // Another one may have started it just now.
        Err(_) if network.is_active()? => Ok(()),
        started => Ok(started.map(drop)?),
    }
}

fn reserve(connect: &Connect, name: &str, reservation: &Reservation) -> Result<(), Fault> {
    let network = VirtNetwork::lookup_by_name(connect, c_text(name)?)?;
    let reserved = reservations(&network)?;
    if reserved.contains(reservation) {
        return Ok(());
    }
    if let Some(old) = reserved.iter().find(|other| other.mac == reservation.mac) {
        update(&network, sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, old)?;
    }
    update(&network, sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, reservation)
}

fn release(connect: &Connect, name: &str, mac: &str) -> Result<(), Fault> {
    let Some(network) = lookup_if_any(connect, name)? else { return Ok(()) };
    match reservations(&network)?.iter().find(|reservation| reservation.mac == mac) {
        Some(reservation) => update(&network, sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, reservation),
        None => Ok(()),
    }
}

fn reservations(network: &VirtNetwork) -> Result<Vec<Reservation>, Fault> {
    Ok(describe(network)?.map(|network| network.reservations).unwrap_or_default())
}

/// Changes a reservation of an active network now, and that of a persistent one for its next start.
fn update(
    network: &VirtNetwork,
    command: sys::virNetworkUpdateCommand,
    reservation: &Reservation,
) -> Result<(), Fault> {
    let mut flags = 0;
    if network.is_active()? {
        flags |= sys::VIR_NETWORK_UPDATE_AFFECT_LIVE;
    }
    if network.is_persistent()? {
        flags |= sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG;
    }
    let xml = network_xml::host(reservation);
    network.update(command, sys::VIR_NETWORK_SECTION_IP_DHCP_HOST, ANY_PARENT, c_text(&xml)?, flags)?;
    Ok(())
}

fn lookup_if_any(connect: &Connect, name: &str) -> Result<Option<VirtNetwork>, Fault> {
    if_any(VirtNetwork::lookup_by_name(connect, c_text(name)?), ErrorNumber::NoNetwork)
}

fn describe(network: &VirtNetwork) -> Result<Option<Network>, Fault> {
    let described = network.is_active().and_then(|active| Ok((network.get_xml_desc(0)?, active)));
    let Some((xml, active)) = if_any(described, ErrorNumber::NoNetwork)? else { return Ok(None) };
    network_xml::read(&xml, active).map(Some).map_err(Fault::Answer)
}

fn leases(connect: &Connect, name: &str, mac: &str) -> Result<Vec<Lease>, Fault> {
    let network = VirtNetwork::lookup_by_name(connect, c_text(name)?)?;
    let mac = CString::new(mac).map_err(|_| Fault::Refused("a NUL can't be sent to libvirt".to_owned()))?;
    let mut found: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
    // SAFETY: the network is open and `mac` ends with a NUL; libvirt fills `found` with an array that is freed below.
    let count = unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), mac.as_ptr(), &raw mut found, 0) };
    if count < 0 {
        return Err(Error::last_error().into());
    }
    let mut leases = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: libvirt gave `count` valid pointers, each to be freed once, after the last use.
        unsafe {
            let lease = *found.add(index);
            let expires = (*lease).expirytime;
            let ip = text((*lease).ipaddr).and_then(|text| text.parse().ok());
            leases.extend(ip.map(|ip| Lease { ip, expires }));
            sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the array is the caller's to free (virNetworkGetDHCPLeases); its elements are freed.
    unsafe { libc::free(found.cast()) };
    leases.sort_by_key(|lease| std::cmp::Reverse(if lease.expires == 0 { i64::MAX } else { lease.expires }));
    Ok(leases)
}

fn addresses(domain: &VirtDomain, source: AddressSource) -> Result<Vec<Address>, Fault> {
    let source = match source {
        AddressSource::Agent => {
            bound_agent(domain)?;
            sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
        }
        AddressSource::Arp => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    };
    let mut found: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain is open; libvirt fills `found` with an array that is freed below.
    let count = unsafe { sys::virDomainInterfaceAddresses(domain.as_ptr(), &raw mut found, source, 0) };
    if count < 0 {
        return Err(Error::last_error().into());
    }
    let mut addresses = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: libvirt gave `count` valid pointers, each to be freed once, after the last use; an interface has `naddrs`
        // addresses, and perhaps no MAC.
        unsafe {
            let interface = *found.add(index);
            let mac = text((*interface).hwaddr).unwrap_or_default().to_ascii_lowercase();
            for index in 0..(*interface).naddrs as usize {
                let ip =
                    text((*(*interface).addrs.add(index)).addr).and_then(|text| text.parse::<IpAddr>().ok());
                let ip = ip.filter(|ip| !ip.is_loopback());
                addresses.extend(ip.map(|ip| Address { ip, mac: mac.clone() }));
            }
            sys::virDomainInterfaceFree(interface);
        }
    }
    // SAFETY: the array is the caller's to free (virDomainInterfaceAddresses); its elements are freed.
    unsafe { libc::free(found.cast()) };
    Ok(addresses)
}

/// # Safety
/// `text` must be null, or valid and end with a NUL.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: see the function's own conditions.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

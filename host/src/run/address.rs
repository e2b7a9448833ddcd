//! Where a guest listens for SSH: each source of addresses is asked in turn, and says why it knows none.

use std::{fmt, net::IpAddr};

use super::{RunError, Site};
use crate::{
    farm::{LOOPBACK, Machine},
    guest::{Endpoint, Way},
    hypervisor::{AddressSource, Domain, Interface},
};

/// The port of an SSH server (RFC 4253, section 4.2).
const SSH: u16 = 22;

/// Who tells a guest's address, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A port of the hypervisor's loopback that leads into the guest.
    ForwardedPort,
    /// The definition.
    Static,
    /// DHCP of the network that it is in.
    Lease,
    /// The guest agent.
    Agent,
    /// The hypervisor's table of neighbours.
    Arp,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForwardedPort => "forwarded port",
            Self::Static => "static address",
            Self::Lease => "DHCP lease",
            Self::Agent => "guest agent",
            Self::Arp => "ARP",
        })
    }
}

/// Why a source knows no address of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The source.
    pub source: Source,
    /// In words that go on from its name.
    pub why: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.why)
    }
}

/// Where a guest is, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) endpoint: Endpoint,
    pub(super) source: Source,
}

/// Finds where a domain's guest listens. Which of its interfaces that is follows from the machine's MAC address, so that what is
/// known of others, or of those that had the address before, does not matter.
pub(super) async fn find(site: &Site, machine: &Machine, domain: &Domain) -> Result<Found, RunError> {
    let host_key = domain.metadata.as_ref().and_then(|metadata| metadata.ssh_host_key.clone());
    let found = |source, host: String, port| {
        let jump = site.way.jump().cloned();
        Found { endpoint: Endpoint { host, port, jump, host_key }, source }
    };
    let mut unknown = Vec::new();
    let mut add = |source, why: &str| unknown.push(Unknown { source, why: why.to_owned() });
    match (domain.ssh_port, &site.way) {
        (Some(port), Way::Here | Way::Through(_)) => {
            return Ok(found(Source::ForwardedPort, LOOPBACK.to_string(), port));
        }
        (Some(_), Way::Around) => {
            add(Source::ForwardedPort, "it is on the hypervisor's loopback, and no `proxy_jump` leads there");
        }
        (None, _) => add(Source::ForwardedPort, "the domain forwards none to the guest's port 22"),
    }
    match machine.net.ip {
        Some(ip) => return Ok(found(Source::Static, ip.to_string(), SSH)),
        None => add(Source::Static, "the definition gives none (vm.net.ip)"),
    }
    let mac = machine.mac();
    let interface = domain.interfaces.iter().find(|interface| interface.mac == mac);
    for source in [Source::Lease, Source::Agent, Source::Arp] {
        match ask(site, &domain.name, mac, interface, source).await {
            Ok(ip) => return Ok(found(source, ip.to_string(), SSH)),
            Err(why) => add(source, &why),
        }
    }
    Err(RunError::NoAddress { unknown })
}

/// What one source knows of an interface.
async fn ask(
    site: &Site,
    domain: &str,
    mac: &str,
    interface: Option<&Interface>,
    source: Source,
) -> Result<IpAddr, String> {
    let hypervisor = &site.hypervisor;
    let by = match source {
        Source::Agent => AddressSource::Agent,
        Source::Arp => AddressSource::Arp,
        Source::ForwardedPort | Source::Static | Source::Lease => {
            let Some(interface) = interface else {
                return Err(format!("the domain has no interface with the MAC address {mac}"));
            };
            let Some(network) = &interface.network else {
                return Err("it is in no network of libvirt's".to_owned());
            };
            let leases = hypervisor.leases(network, mac).await.map_err(|error| error.to_string())?;
            // The newest is first: older ones are of other installations of this machine.
            if let Some(lease) = leases.into_iter().find(|lease| is_reachable(&lease.ip)) {
                return Ok(lease.ip);
            }
            // A machine that was put back into a checkpoint has the address that was kept for it, also when its lease has
            // expired meanwhile.
            let network = hypervisor.network(network).await.map_err(|error| error.to_string())?;
            let Some(network) = network else { return Err("its network is gone".to_owned()) };
            let kept = network.reservations.iter().find(|reservation| reservation.mac == mac);
            return kept
                .map(|kept| kept.ip)
                .ok_or_else(|| format!("network `{}` has leased {mac} none", network.name));
        }
    };
    let addresses = hypervisor.addresses(domain, by).await.map_err(|error| error.to_string())?;
    let address = addresses.into_iter().find(|address| address.mac == mac && is_reachable(&address.ip));
    address.map(|address| address.ip).ok_or_else(|| format!("it knows none of {mac}"))
}

/// Whether an address says by itself where it is: one of a single link needs the link, too.
fn is_reachable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

//! The networks of libvirt's that machines are in: what is to be made of one that is missing, and whether the fixed addresses
//! can be had there.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    farm::Machine,
    hypervisor::{Network, NewNetwork, Subnet},
};

/// The prefix of a missing network whose machines name none.
const PREFIX: u8 = 24;

/// A machine in a network of libvirt's.
#[derive(Debug, Clone)]
pub struct Member {
    /// The machine's name.
    pub machine: String,
    /// Its interface's MAC address, in lower case.
    pub mac: String,
    /// Its fixed address, if it has one.
    pub ip: Option<IpAddr>,
    /// The length of that address's prefix, if the definition gives it.
    pub prefix: Option<u8>,
}

impl Member {
    /// A machine as its definition says.
    pub fn of(machine: &Machine) -> Self {
        Self {
            machine: machine.name.clone(),
            mac: machine.mac().to_owned(),
            ip: machine.net.ip,
            prefix: machine.net.prefix,
        }
    }
}

/// Why a machine can't be in a network as its definition says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No subnet has its address.
    #[error("the address {ip} of {machine} is not in network `{network}`, which has {has}")]
    Outside {
        /// The machine's name.
        machine: String,
        /// Its fixed address.
        ip: IpAddr,
        /// The network's name.
        network: String,
        /// Its subnets, in words.
        has: String,
    },
    /// It is the hypervisor's own.
    #[error("the address {ip} of {machine} is the hypervisor's own in network `{network}`")]
    Gateway {
        /// The machine's name.
        machine: String,
        /// Its fixed address.
        ip: IpAddr,
        /// The network's name.
        network: String,
    },
    /// It is kept for another interface.
    #[error("the address {ip} of {machine} is reserved for {mac} in network `{network}`")]
    Reserved {
        /// The machine's name.
        machine: String,
        /// Its fixed address.
        ip: IpAddr,
        /// The network's name.
        network: String,
        /// The other interface's MAC address.
        mac: String,
    },
    /// No DHCP gives it out.
    #[error("network `{network}` gives out no IPv4 addresses by DHCP, so {machine} can't get {ip} from it")]
    NoDhcp {
        /// The machine's name.
        machine: String,
        /// Its fixed address.
        ip: IpAddr,
        /// The network's name.
        network: String,
    },
    /// A missing network can't be made around it.
    #[error(
        "there is no network `{network}`, and none can be made for {machine} with the address {ip}/{prefix}"
    )]
    NoSubnet {
        /// The machine's name.
        machine: String,
        /// Its fixed address.
        ip: IpAddr,
        /// The length of its prefix.
        prefix: u8,
        /// The network's name.
        network: String,
    },
    /// All subnets that farmhand would take are taken.
    #[error("there is no network `{network}`, and no free subnet is left for it")]
    NoneLeft {
        /// The network's name.
        network: String,
    },
}

impl NetworkError {
    /// The machine that it is about, if it is about one.
    pub fn machine(&self) -> Option<&str> {
        match self {
            Self::Outside { machine, .. }
            | Self::Gateway { machine, .. }
            | Self::Reserved { machine, .. }
            | Self::NoDhcp { machine, .. }
            | Self::NoSubnet { machine, .. } => Some(machine),
            Self::NoneLeft { .. } => None,
        }
    }
}

/// What is to be made of the network `name` with these members, if it is missing: nothing when it is there. `others` may come into
/// it later, and are thought of when it is made. `existing` are all of the hypervisor's networks.
///
/// # Errors
/// For each member that can't have its fixed address there.
pub fn network(
    name: &str,
    members: &[Member],
    others: &[Member],
    existing: &[Network],
) -> Result<Option<NewNetwork>, Vec<NetworkError>> {
    if let Some(network) = existing.iter().find(|network| network.name == name) {
        let errors: Vec<_> = members.iter().filter_map(|member| fits(member, network).err()).collect();
        return if errors.is_empty() { Ok(None) } else { Err(errors) };
    }
    let subnets: Vec<_> = existing.iter().flat_map(|network| &network.subnets).copied().collect();
    let new = missing(name, members.iter().chain(others), &subnets).map_err(|error| vec![error])?;
    let made = new.network();
    let errors: Vec<_> = members.iter().filter_map(|member| fits(member, &made).err()).collect();
    if errors.is_empty() { Ok(Some(new)) } else { Err(errors) }
}

fn fits(member: &Member, network: &Network) -> Result<(), NetworkError> {
    let Some(ip) = member.ip else { return Ok(()) };
    let (machine, name) = (member.machine.clone(), network.name.clone());
    let has_it: Vec<_> = network.subnets.iter().filter(|subnet| subnet.contains(ip)).collect();
    if has_it.is_empty() {
        let subnet = |subnet: &Subnet| format!("{}/{}", subnet.gateway, subnet.prefix);
        let has = match network.subnets.as_slice() {
            [] => "no addresses".to_owned(),
            subnets => subnets.iter().map(subnet).collect::<Vec<_>>().join(", "),
        };
        return Err(NetworkError::Outside { machine, ip, network: name, has });
    }
    if has_it.iter().any(|subnet| subnet.gateway == ip) {
        return Err(NetworkError::Gateway { machine, ip, network: name });
    }
    // libvirt reserves IPv6 addresses by another identifier than the MAC address.
    if ip.is_ipv6() || !has_it.iter().any(|subnet| subnet.dhcp) {
        return Err(NetworkError::NoDhcp { machine, ip, network: name });
    }
    let other = network.reservations.iter().find(|other| other.ip == ip && other.mac != member.mac);
    match other {
        Some(other) => Err(NetworkError::Reserved { machine, ip, network: name, mac: other.mac.clone() }),
        None => Ok(()),
    }
}

/// A network around the first fixed address, else in a subnet that no other network has.
fn missing<'a>(
    name: &str,
    mut members: impl Iterator<Item = &'a Member>,
    taken: &[Subnet],
) -> Result<NewNetwork, NetworkError> {
    let first = members.find_map(|member| Some((member, member.ip?)));
    let network = |gateway, prefix| NewNetwork { name: name.to_owned(), gateway, prefix };
    let Some((member, ip)) = first else {
        // libvirt's own default network is the first of these.
        return (122..=254)
            .map(|third| network(Ipv4Addr::new(192, 168, third, 1), PREFIX))
            .find(|new| !taken.iter().any(|subnet| subnet.overlaps(&new.subnet())))
            .ok_or_else(|| NetworkError::NoneLeft { network: name.to_owned() });
    };
    let prefix = member.prefix.unwrap_or(PREFIX);
    let refused =
        || NetworkError::NoSubnet { machine: member.machine.clone(), ip, prefix, network: name.to_owned() };
    let IpAddr::V4(address) = ip else { return Err(refused()) };
    if !(8..=30).contains(&prefix) || !(address.is_private() || address.is_link_local()) {
        return Err(refused());
    }
    let hosts = u32::MAX >> prefix;
    let base = address.to_bits() & !hosts;
    // The first address is the hypervisor's by custom; who has that gets the last one as a neighbour.
    let gateway = if address.to_bits() == base + 1 { base + hosts - 1 } else { base + 1 };
    let new = network(Ipv4Addr::from_bits(gateway), prefix);
    let no_host = address.to_bits() == base || address.to_bits() == base + hosts;
    if no_host || taken.iter().any(|subnet| subnet.overlaps(&new.subnet())) {
        return Err(refused());
    }
    Ok(new)
}

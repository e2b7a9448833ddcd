//! Networks of a hypervisor, and the addresses that guests have in them.

use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::HypervisorError;

/// The networks that a hypervisor looks after, and what it knows of its guests' addresses.
///
/// A method that changes something returns when libvirt has done it. Networks and domains are named by their names.
#[async_trait]
pub trait Networks: Send + Sync {
    /// All networks, active or not, sorted by name.
    async fn networks(&self) -> Result<Vec<Network>, HypervisorError>;

    /// One network, or `None` if there is none of that name.
    async fn network(&self, name: &str) -> Result<Option<Network>, HypervisorError>;

    /// Defines a network with NAT and DHCP. One of that name must not exist. It does not start with the hypervisor.
    async fn define_network(&self, network: &NewNetwork) -> Result<(), HypervisorError>;

    /// Starts a network. Does nothing when it is active already.
    async fn start_network(&self, name: &str) -> Result<(), HypervisorError>;

    /// Has a network's DHCP give an address to an interface, from now on and after restarts of the network, in place of
    /// what was reserved for that interface before. It fails where the address is reserved for another interface.
    async fn reserve_address(&self, network: &str, reservation: &Reservation) -> Result<(), HypervisorError>;

    /// Gives up what is reserved for an interface. Does nothing when that is nothing, or when there is no such network.
    async fn release_address(&self, network: &str, mac: &str) -> Result<(), HypervisorError>;

    /// What a network's DHCP has leased to an interface and has not expired, the newest first: those that last longest.
    async fn leases(&self, network: &str, mac: &str) -> Result<Vec<Lease>, HypervisorError>;

    /// The addresses of a running domain's interfaces, as another source than DHCP knows them; those of loopback are left
    /// out.
    async fn addresses(&self, domain: &str, source: AddressSource) -> Result<Vec<Address>, HypervisorError>;
}

/// A network as libvirt has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Whether it is started.
    pub active: bool,
    /// The subnets in which the hypervisor itself has an address.
    pub subnets: Vec<Subnet>,
    /// Addresses that its DHCP keeps for certain interfaces.
    pub reservations: Vec<Reservation>,
}

/// An address of a hypervisor in a network, with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The hypervisor's own address.
    pub gateway: IpAddr,
    /// The length of its prefix in bits.
    pub prefix: u8,
    /// Whether the hypervisor gives out addresses by DHCP.
    pub dhcp: bool,
}

impl Subnet {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.gateway, address) {
            (IpAddr::V4(gateway), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or_default();
                (gateway.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(gateway), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or_default();
                (gateway.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// Whether it shares an address with another one.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.gateway) || other.contains(self.gateway)
    }
}

/// An address that DHCP keeps for an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The interface's MAC address, in lower case.
    pub mac: String,
    /// The address.
    pub ip: IpAddr,
}

/// A network to define.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// The hypervisor's address in it. Guests get the others of the subnet.
    pub gateway: Ipv4Addr,
    /// The length of the subnet's prefix in bits, at most 30.
    pub prefix: u8,
}

impl NewNetwork {
    /// Its only subnet.
    pub fn subnet(&self) -> Subnet {
        Subnet { gateway: self.gateway.into(), prefix: self.prefix, dhcp: true }
    }

    /// What it is once it is defined.
    pub fn network(&self) -> Network {
        let subnets = vec![self.subnet()];
        Network { name: self.name.clone(), active: false, subnets, reservations: Vec::new() }
    }
}

/// What DHCP has leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// When it ends, by the hypervisor's clock: seconds since the epoch; 0 for one that never does.
    pub expires: i64,
}

/// An address of a guest's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The interface's MAC address, in lower case.
    pub mac: String,
}

/// Who knows the addresses of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSource {
    /// The guest agent, which asks the guest's kernel.
    Agent,
    /// The hypervisor's table of neighbours (ARP): whom it has heard of lately.
    Arp,
}

/// An interface of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its MAC address, in lower case.
    pub mac: String,
    /// The network of libvirt's that it is in, if it is in one.
    pub network: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_contain_their_addresses_alone() {
        let subnet = |gateway: &str, prefix| Subnet { gateway: gateway.parse().unwrap(), prefix, dhcp: true };
        for (gateway, prefix, address, expected) in [
            ("192.168.122.1", 24, "192.168.122.254", true),
            ("192.168.122.1", 24, "192.168.123.1", false),
            ("192.168.122.1", 32, "192.168.122.1", true),
            ("10.0.0.1", 0, "192.168.122.1", true),
            ("192.168.122.1", 24, "fd00::1", false),
            ("fd00::1", 64, "fd00::ffff", true),
            ("fd00::1", 64, "fd00:0:0:1::1", false),
        ] {
            let contains = subnet(gateway, prefix).contains(address.parse().unwrap());
            assert_eq!(contains, expected, "{gateway}/{prefix} {address}");
        }
        assert!(subnet("10.0.0.1", 8).overlaps(&subnet("10.9.0.1", 24)));
        assert!(!subnet("10.0.0.1", 24).overlaps(&subnet("10.0.1.1", 24)));
    }
}

//! Simulated networks: their DHCP leases addresses to domains that start.

use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;

use super::{Machine, Method, Simulated, State};
use crate::hypervisor::{
    Address, AddressSource, DomainState, HypervisorError, Lease, Network, Networks, NewNetwork, Reservation,
};

/// How long a lease lasts, in seconds; libvirt's own default.
const LEASE: i64 = 3600;

/// A network and what its DHCP has leased, with the MAC addresses.
#[derive(Clone)]
pub(super) struct SimulatedNetwork {
    network: Network,
    leases: Vec<(String, Lease)>,
}

impl Simulated {
    /// Has a network; one of that name is replaced.
    pub fn set_network(&self, network: Network) {
        let simulated = SimulatedNetwork { network, leases: Vec::new() };
        self.state().networks.insert(simulated.network.name.clone(), simulated);
    }

    /// Replaces what a network has leased to an interface.
    pub fn set_leases(&self, network: &str, mac: &str, leases: impl IntoIterator<Item = Lease>) {
        if let Some(network) = self.state().networks.get_mut(network) {
            network.leases.retain(|(other, _)| other != mac);
            network.leases.extend(leases.into_iter().map(|lease| (mac.to_owned(), lease)));
        }
    }

    /// The running domain that is reached at a port of the hypervisor's loopback, or else at an address.
    pub fn at(&self, host: &str, port: u16) -> Option<String> {
        let state = self.state();
        let has_address = |machine: &Machine| {
            let macs = machine.domain.interfaces.iter().map(|interface| &interface.mac);
            let leases = state.networks.values().flat_map(|network| &network.leases);
            let leased: Vec<_> = macs
                .flat_map(|mac| leases.clone().filter(move |(other, _)| other == mac))
                .map(|(_, lease)| lease.ip.to_string())
                .collect();
            let known = machine.addresses.iter().map(|(_, address)| address.ip.to_string());
            leased.into_iter().chain(known).any(|ip| ip == host)
        };
        let is_there = |machine: &&Machine| {
            machine.state == DomainState::Running
                && match machine.domain.ssh_port {
                    Some(forwarded) => forwarded == port,
                    None => has_address(machine),
                }
        };
        state.machines.values().find(is_there).map(|machine| machine.domain.name.clone())
    }

    /// The guest has these addresses, as far as one source knows.
    pub fn set_addresses(
        &self,
        domain: &str,
        source: AddressSource,
        addresses: impl IntoIterator<Item = Address>,
    ) {
        self.change(domain, |machine| {
            machine.addresses.retain(|(other, _)| *other != source);
            machine.addresses.extend(addresses.into_iter().map(|address| (source, address)));
        });
    }
}

impl State {
    /// Connects a domain that is about to run to its networks, and leases it addresses there.
    pub(super) fn connect(&mut self, domain: &str) -> Result<(), String> {
        let time = self.time;
        let interfaces = self.machine(domain)?.domain.interfaces.clone();
        for interface in interfaces {
            let Some(name) = interface.network else { continue };
            let network = self.network(&name)?;
            if !network.network.active {
                return Err(format!("Requested operation is not valid: network '{name}' is not active"));
            }
            network.lease(&interface.mac, time);
        }
        Ok(())
    }

    fn network(&mut self, name: &str) -> Result<&mut SimulatedNetwork, String> {
        let missing = || format!("Network not found: no network with matching name '{name}'");
        self.networks.get_mut(name).ok_or_else(missing)
    }
}

impl SimulatedNetwork {
    /// Gives an interface the address that is reserved for it, else one that nobody has. What it has leased it keeps.
    fn lease(&mut self, mac: &str, time: i64) {
        if self.leases.iter().any(|(other, _)| other == mac) {
            return;
        }
        let reserved = self.network.reservations.iter().find(|reservation| reservation.mac == mac);
        let ip = reserved.map(|reservation| reservation.ip).or_else(|| self.free());
        self.leases.extend(ip.map(|ip| (mac.to_owned(), Lease { ip, expires: time + LEASE })));
    }

    fn free(&self) -> Option<IpAddr> {
        let subnet = self.network.subnets.iter().find(|subnet| subnet.dhcp)?;
        let IpAddr::V4(gateway) = subnet.gateway else { return None };
        let candidates = (1..255).map(|offset| IpAddr::V4(Ipv4Addr::from_bits(gateway.to_bits() + offset)));
        let is_free = |ip: &IpAddr| {
            subnet.contains(*ip)
                && self.leases.iter().all(|(_, lease)| lease.ip != *ip)
                && self.network.reservations.iter().all(|reservation| reservation.ip != *ip)
        };
        candidates.into_iter().find(is_free)
    }
}

#[async_trait]
impl Networks for Simulated {
    async fn networks(&self) -> Result<Vec<Network>, HypervisorError> {
        self.call(Method::Networks, "", "", |state| {
            Ok(state.networks.values().map(|network| network.network.clone()).collect())
        })
        .await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>, HypervisorError> {
        self.call(Method::Network, name, "", |state| {
            Ok(state.networks.get(name).map(|network| network.network.clone()))
        })
        .await
    }

    async fn define_network(&self, network: &NewNetwork) -> Result<(), HypervisorError> {
        self.call(Method::DefineNetwork, &network.name, "", |state| {
            if state.networks.contains_key(&network.name) {
                return Err("there is one of that name".to_owned());
            }
            let simulated = SimulatedNetwork { network: network.network(), leases: Vec::new() };
            state.networks.insert(network.name.clone(), simulated);
            Ok(())
        })
        .await
    }

    async fn start_network(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::StartNetwork, name, "", |state| {
            state.network(name)?.network.active = true;
            Ok(())
        })
        .await
    }

    async fn reserve_address(&self, network: &str, reservation: &Reservation) -> Result<(), HypervisorError> {
        self.call(Method::ReserveAddress, network, &reservation.ip.to_string(), |state| {
            let reservations = &mut state.network(network)?.network.reservations;
            let taken = |other: &Reservation| other.ip == reservation.ip && other.mac != reservation.mac;
            if reservations.iter().any(taken) {
                let message =
                    "Requested operation is not valid: there is an existing dhcp host entry in network";
                return Err(format!(
                    "{message} '{network}' that matches \"<host ip='{}'/>\"",
                    reservation.ip
                ));
            }
            reservations.retain(|other| other.mac != reservation.mac);
            reservations.push(reservation.clone());
            Ok(())
        })
        .await
    }

    async fn release_address(&self, network: &str, mac: &str) -> Result<(), HypervisorError> {
        self.call(Method::ReleaseAddress, network, mac, |state| {
            if let Ok(network) = state.network(network) {
                network.network.reservations.retain(|reservation| reservation.mac != mac);
            }
            Ok(())
        })
        .await
    }

    async fn leases(&self, network: &str, mac: &str) -> Result<Vec<Lease>, HypervisorError> {
        self.call(Method::Leases, network, mac, |state| {
            let leases = state.network(network)?.leases.iter().filter(|(other, _)| other == mac);
            let mut leases: Vec<_> = leases.map(|(_, lease)| lease.clone()).collect();
            leases.sort_by_key(|lease| std::cmp::Reverse(lease.expires));
            Ok(leases)
        })
        .await
    }

    async fn addresses(&self, domain: &str, source: AddressSource) -> Result<Vec<Address>, HypervisorError> {
        self.call(Method::Addresses, domain, "", |state| {
            let machine = state.running(domain)?;
            if source == AddressSource::Agent {
                machine.agent()?;
            }
            let known = machine.addresses.iter().filter(|(by, _)| *by == source);
            Ok(known.map(|(_, address)| address.clone()).collect())
        })
        .await
    }
}

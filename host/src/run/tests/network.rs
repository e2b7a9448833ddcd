//! Machines in networks of libvirt's, and where their addresses come from.

use super::support::World;
use crate::hypervisor::{
    Address, AddressSource, Lease, Network, Networks as _, Reservation, Subnet,
    simulated::{Fault, Method},
};

const AGAIN: [&str; 4] = ["restore init", "main", "terminate", "shutdown"];

fn world(net: &str) -> World {
    let mut world = World::new(["a"]);
    world.set_net("a", net);
    world
}

fn lease(ip: &str, expires: i64) -> Lease {
    Lease { ip: ip.parse().unwrap(), expires }
}

async fn reserved(world: &World, network: &str) -> Vec<Reservation> {
    world.hypervisor.network(network).await.unwrap().unwrap().reservations
}

fn mac(world: &World) -> String {
    world.farm.machines["a"].mac().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_missing_network_is_made_and_started_and_the_fixed_address_reserved() {
    let world = world("{ type: network, source: lab, ip: 10.1.2.3 }");
    world.passes().await;
    let network = world.hypervisor.network("lab").await.unwrap().unwrap();
    assert!(network.active);
    assert_eq!(network.subnets[0].gateway.to_string(), "10.1.2.1");
    assert_eq!(network.reservations, [Reservation { mac: mac(&world), ip: "10.1.2.3".parse().unwrap() }]);
    assert_eq!(world.passes().await.operations("a"), AGAIN);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_dhcp_gave_is_kept_for_the_machine() {
    let world = world("{ type: network }");
    world.passes().await;
    let kept = reserved(&world, "default").await;
    assert_eq!(kept, [Reservation { mac: mac(&world), ip: "192.168.122.2".parse().unwrap() }]);
    // Its lease has expired when the next run puts it back into a checkpoint.
    world.at("a", "restore init", |hypervisor, _| {
        hypervisor.set_addresses("a", AddressSource::Arp, []);
    });
    assert_eq!(world.passes().await.operations("a"), AGAIN);
    assert_eq!(reserved(&world, "default").await, kept);

    // It is given up with the machine.
    crate::run::remove(&world.hypervisor, &*world.images, "a").await.unwrap();
    assert_eq!(reserved(&world, "default").await, []);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_an_earlier_installation_does_not_mislead() {
    let world = world("{ type: network }");
    let mac = mac(&world);
    let subnets = vec![Subnet { gateway: "192.168.122.1".parse().unwrap(), prefix: 24, dhcp: true }];
    let network = Network { name: "default".into(), active: true, subnets, reservations: vec![] };
    world.hypervisor.set_network(network);
    let leases = [lease("192.168.122.50", 1), lease("192.168.122.60", 2)];
    world.hypervisor.set_leases("default", &mac, leases);
    world.passes().await;
    assert_eq!(reserved(&world, "default").await[0].ip.to_string(), "192.168.122.60");
}

#[tokio::test(start_paused = true)]
async fn guest_agent_and_arp_know_what_dhcp_does_not() {
    for source in [AddressSource::Agent, AddressSource::Arp] {
        let world = world("{ type: bridge, source: br0 }");
        let mac = mac(&world);
        world.at("a", "startup", move |hypervisor, _| {
            let address = |mac: &str, ip: &str| Address { mac: mac.to_owned(), ip: ip.parse().unwrap() };
            let addresses = [
                address("52:54:00:00:00:00", "10.9.9.9"),
                address(&mac, "fe80::1"),
                address(&mac, "10.9.9.8"),
            ];
            hypervisor.set_addresses("a", source, addresses);
        });
        world.passes().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_address_leads_to_a_machine_of_whose_interface_libvirt_knows_nothing() {
    let world = world("{ type: vde, ip: 10.9.9.8 }");
    let address = Address { mac: mac(&world), ip: "10.9.9.8".parse().unwrap() };
    world.at("a", "startup", move |hypervisor, _| {
        hypervisor.set_addresses("a", AddressSource::Arp, [address.clone()]);
    });
    world.passes().await;
    assert!(world.state("a").host_key.is_some(), "it was reached by SSH");
}

#[tokio::test(start_paused = true)]
async fn each_source_says_why_it_knows_no_address() {
    let world = world("{ type: bridge, source: br0 }");
    let begun = tokio::time::Instant::now();
    let ran = world.up().await;
    assert!(begun.elapsed().as_secs() <= 120, "`connection_timeout` is all it gets");
    let failure = ran.failure("a");
    let mac = mac(&world);
    let message = failure.causes.join("\n").replace(&mac, "MAC");
    insta::assert_snapshot!(message, @"
    no address of the machine is known:
      forwarded port: the domain forwards none to the guest's port 22
      static address: the definition gives none (vm.net.ip)
      DHCP lease: it is in no network of libvirt's
      guest agent: it knows none of MAC
      ARP: it knows none of MAC
    ");
    assert!(failure.help.unwrap().contains("vm.net.ip"));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_off_is_started_and_one_that_is_not_usable_is_told() {
    let world = world("{ type: network }");
    let subnets = vec![Subnet { gateway: "192.168.122.1".parse().unwrap(), prefix: 24, dhcp: true }];
    let off = Network { name: "default".into(), active: false, subnets, reservations: vec![] };
    world.hypervisor.set_network(off.clone());
    world.passes().await;
    world.hypervisor.set_network(off);
    world.passes().await;
    world.hypervisor.inject(Method::StartNetwork, None, Fault::Fail("it is in use".into()));
    let failure = world.up().await.failure("a");
    assert_eq!(failure.during, "restore init");
    assert!(failure.causes.concat().contains("it is in use"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_somebody_else_has_got_meanwhile_is_told() {
    let world = world("{ type: network }");
    world.passes().await;
    let mac = mac(&world);
    world.hypervisor.release_address("default", &mac).await.unwrap();
    let other = Reservation { mac: "52:54:00:00:00:99".into(), ip: "192.168.122.2".parse().unwrap() };
    world.hypervisor.reserve_address("default", &other).await.unwrap();
    let failure = world.up().await.failure("a");
    assert_eq!(failure.during, "restore init");
    let causes = failure.causes.concat();
    assert!(
        causes.starts_with("the machine is not ready: its address 192.168.122.2 can't be kept"),
        "{causes}"
    );
    assert!(failure.help.unwrap().contains("virsh net-dumpxml default"));
}

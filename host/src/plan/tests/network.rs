//! Networks of libvirt's: missing ones, and fixed addresses.

use crate::{
    hypervisor::{Network, NewNetwork, Reservation, Subnet},
    plan::{Member, network},
};

fn member(machine: &str, ip: Option<&str>, prefix: Option<u8>) -> Member {
    let ip = ip.map(|ip| ip.parse().unwrap());
    Member { machine: machine.into(), mac: format!("52:54:00:00:00:{}", machine.len()), ip, prefix }
}

fn existing(name: &str, gateway: &str, dhcp: bool) -> Network {
    let subnets = vec![Subnet { gateway: gateway.parse().unwrap(), prefix: 24, dhcp }];
    let reservations = vec![Reservation { mac: "52:54:00:00:00:99".into(), ip: "10.0.0.9".parse().unwrap() }];
    Network { name: name.into(), active: false, subnets, reservations }
}

fn new(members: &[Member], others: &[Network]) -> Result<String, Vec<String>> {
    let made = network("n", members, &[], others);
    made.map(|new| {
        new.map_or("exists".to_owned(), |NewNetwork { gateway, prefix, .. }| format!("{gateway}/{prefix}"))
    })
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_missing_network_is_made_around_its_fixed_addresses() {
    let dhcp = || member("a", None, None);
    assert_eq!(new(&[dhcp()], &[]), Ok("192.168.122.1/24".into()));
    let default = existing("default", "192.168.122.1", true);
    assert_eq!(new(&[dhcp()], &[default]), Ok("192.168.123.1/24".into()));
    let fixed = |ip, prefix| new(&[dhcp(), member("bb", Some(ip), prefix)], &[]);
    assert_eq!(fixed("10.1.2.3", None), Ok("10.1.2.1/24".into()));
    assert_eq!(fixed("10.1.2.3", Some(16)), Ok("10.1.0.1/16".into()));
    assert_eq!(fixed("10.1.2.1", None), Ok("10.1.2.254/24".into()), "the first address is taken");
    for (ip, prefix) in [
        ("10.1.2.0", None),
        ("10.1.2.255", None),
        ("10.1.2.3", Some(31)),
        ("10.1.2.3", Some(1)),
        ("8.8.8.8", None),
        ("fd00::5", None),
    ] {
        let refused = fixed(ip, prefix).unwrap_err().concat();
        assert!(refused.contains("none can be made for bb"), "{refused}");
    }
    let later = network("n", &[dhcp()], &[member("bb", Some("10.1.2.3"), None)], &[]).unwrap().unwrap();
    assert_eq!(later.gateway.to_string(), "10.1.2.1", "who comes later is thought of");
    let far = new(&[member("a", Some("10.0.0.5"), None), member("bb", Some("10.0.1.5"), None)], &[]);
    assert_eq!(
        far,
        Err(vec!["the address 10.0.1.5 of bb is not in network `n`, which has 10.0.0.1/24".into()])
    );
    let taken = new(&[member("a", Some("10.0.0.5"), None)], &[existing("other", "10.0.0.1", true)]);
    assert!(taken.unwrap_err().concat().contains("none can be made"));
}

#[test]
fn fixed_addresses_must_be_in_the_network_that_is_there() {
    let there = |dhcp, ip: &str| new(&[member("a", Some(ip), None)], &[existing("n", "10.0.0.1", dhcp)]);
    assert_eq!(there(true, "10.0.0.5"), Ok("exists".into()));
    for (dhcp, ip, words) in [
        (true, "10.0.1.5", "is not in network `n`, which has 10.0.0.1/24"),
        (true, "10.0.0.1", "is the hypervisor's own"),
        (true, "10.0.0.9", "is reserved for 52:54:00:00:00:99"),
        (false, "10.0.0.5", "gives out no IPv4 addresses by DHCP"),
    ] {
        let errors = there(dhcp, ip).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
    }
    let own = Member { mac: "52:54:00:00:00:99".into(), ..member("a", Some("10.0.0.9"), None) };
    assert_eq!(new(&[own], &[existing("n", "10.0.0.1", true)]), Ok("exists".into()), "its own reservation");
}

//! Networks of libvirt's, and a hypervisor that is another host as far as farmhand can see.

use crate::{farm::Farm, isolated::Isolated};

const AGAIN: [&str; 3] = ["restore init", "main", "shutdown"];

/// The addresses that a network keeps for its machines.
fn reserved(isolated: &Isolated) -> usize {
    isolated.virsh(&["net-dumpxml", "lab"]).matches("<host mac=").count()
}

#[test]
fn machines_of_a_hypervisor_on_another_host() {
    let isolated = Isolated::start();
    let fixed = "net: { type: network, source: lab, ip: 10.77.0.20, mask: 255.255.255.0 }";
    let platforms = [("fixed", fixed), ("user", "net: { type: user }")];
    let farm = Farm::of_debian(&platforms, &format!("{{ name: far, uri: \"{}\" }}", isolated.uri));

    // The latter gets a seed, too: its image has cloud-init.
    farm.write(
        "farm/setup_vm/platforms/user.yaml",
        "vm:\n  metadata:\n    virt_domain: qemu\n    hostname: cloudy\n    cloud_init: true\n    \
         auth: { user: tester, password: s3cret-word }\n    sources: [{ uri: \"{{ images }}/Debian-cloud.qcow2\" }, \
         { uri: \"{{ images }}/vmlinuz\" }, { uri: \"{{ images }}/initrd.img\" }]\n  \
         disks: [{ src: Debian-cloud.qcow2, size: 3G }]\n",
    );

    // Images go up through the storage API, and both machines are reached through the host.
    let first = farm.up(&[]);
    first.passed();
    let second = farm.up(&[]);
    second.passed();
    for platform in ["fixed", "user"] {
        assert_eq!(second.operations(&farm.machine(platform)), AGAIN);
        let log = farm.in_guest(platform, "cat log");
        assert!(log.starts_with("init\n") && log.contains("\nmain\n"), "{log}");
    }
    assert!(farm.in_guest("fixed", "cat log").contains("10.77.0.20"));
    assert_eq!(farm.in_guest("user", "hostname").trim(), "cloudy");
    assert_eq!(reserved(&isolated), 1);
    let refused = farm.farmhand(&["ssh", &farm.machine("user"), "--", "exit 7"]);
    assert_eq!(refused.status.code(), Some(7), "ssh's own exit code");
    farm.write("file", "from here");
    let there = format!("{}:there", farm.machine("fixed"));
    farm.prints(&["copy", farm.path("file").to_str().unwrap(), &there]);
    assert_eq!(farm.in_guest("fixed", "cat there"), "from here");
    assert!(farm.prints(&["ssh-config"]).contains("ProxyCommand "));
    assert!(farm.prints(&["status"]).contains("10.77.0.20:22 through hypervisor"));

    // The images are there once, and nothing of it on this host.
    let files = isolated.files();
    let disks: Vec<_> = files.iter().filter(|file| file.ends_with("disk0.qcow2")).collect();
    assert_eq!(disks.len(), 2, "{files:?}");
    let whole = files.iter().filter(|file| file.ends_with(".whole")).count();
    assert_eq!(whole, 4, "two images, kernel and initrd: {files:?}");
    assert_eq!(files.iter().filter(|file| file.ends_with("seed.iso")).count(), 1, "{files:?}");
    assert!(!farm.path("home/data/machines").exists());

    // Nothing is left but the images, and those can go, too.
    assert!(farm.prints(&["image", "prune", "--remote"]).contains("far: 0 files deleted"));
    farm.prints(&["destroy"]);
    assert_eq!(isolated.virsh(&["list", "--all", "--name"]), "");
    assert_eq!(reserved(&isolated), 0);
    assert!(
        isolated.files().iter().all(|file| file.starts_with("farmhand/images/")),
        "{:?}",
        isolated.files()
    );
    assert!(farm.prints(&["image", "prune", "--remote"]).contains("far: 4 files deleted"));
    assert_eq!(isolated.files(), Vec::<String>::new());
}

#[test]
fn machine_that_gets_its_address_by_dhcp() {
    let isolated = Isolated::start();
    let farm = Farm::of_debian(&[("dhcp", "net: { type: network, source: lab }")], "{ name: local }")
        .inside(&isolated.inside());
    let dhcp = farm.machine("dhcp");
    let plan = farm.prints(&["plan"]);
    assert!(plan.contains("network `lab` will be made: 192.168.122.1/24, with NAT and DHCP"), "{plan}");
    farm.up(&[]).passed();
    assert_eq!(reserved(&isolated), 1, "its address is kept for it");
    let log = |farm: &Farm| farm.in_guest("dhcp", "cat log");
    let before = log(&farm);
    // Even when its lease is forgotten and the network was off.
    farm.prints(&["ssh", &dhcp, "--", "true"]);
    isolated.virsh(&["destroy", &dhcp]);
    isolated.virsh(&["net-destroy", "lab"]);
    let second = farm.up(&[]);
    second.passed();
    assert_eq!(second.operations(&dhcp), AGAIN);
    assert_eq!(before, log(&farm), "it has the same address");
    farm.prints(&["destroy"]);
    assert_eq!(reserved(&isolated), 0);
}

#[test]
fn machines_in_a_network_that_libvirt_knows_nothing_of() {
    let isolated = Isolated::start();
    for command in [
        "ip link add br0 type bridge",
        "ip address add 10.66.0.1/24 dev br0",
        "ip tuntap add tap0 mode tap",
        "ip link set tap0 master br0",
        "ip link set br0 up",
        "ip link set tap0 up",
        "dnsmasq --interface=br0 --bind-interfaces --port=0 --dhcp-leasefile=/var/lib/libvirt/own.leases \
         --dhcp-range=10.66.0.50,10.66.0.90 --dhcp-host=52:54:00:66:00:20,10.66.0.20",
    ] {
        isolated.run(&command.split_whitespace().collect::<Vec<_>>());
    }
    // One is found by its guest agent, and without it by ARP, the other one by what the definition says.
    let bridge = "net: { type: bridge, source: br0 }";
    let tap = "net: { type: ethernet, source: tap0, mac: \"52:54:00:66:00:20\", ip: 10.66.0.20 }";
    let farm =
        Farm::of_debian(&[("bridge", bridge), ("tap", tap)], "{ name: local }").inside(&isolated.inside());
    farm.up(&[]).passed();
    let second = farm.up(&[]);
    second.passed();
    for (platform, address) in [("bridge", "10.66.0."), ("tap", "10.66.0.20 ")] {
        assert_eq!(second.operations(&farm.machine(platform)), AGAIN);
        let log = farm.in_guest(platform, "cat log");
        assert_eq!(log.matches(address).count(), 2, "{log}");
    }
    farm.in_guest("bridge", "echo toor | su -c 'systemctl stop qemu-guest-agent'");
    let status = farm.prints(&["status", &farm.machine("bridge")]);
    assert!(status.contains(" 10.66.0."), "{status}");
    farm.in_guest("bridge", "true");
    farm.prints(&["destroy"]);
}

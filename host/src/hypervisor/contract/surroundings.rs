//! What every hypervisor does with networks and storage pools, tested with the simulated one, and with a real one that is
//! isolated from this host and is reached as one on another host would be.

#[path = "../../../../tests/vm/isolated.rs"]
#[expect(dead_code, reason = "the tests on real machines use more of it")]
mod isolated;

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use self::isolated::Isolated;
use super::says;
use crate::hypervisor::{
    AddressSource, Hypervisor, Lease, Network, NewContent, NewNetwork, NewVolume, Reservation, Volume,
    libvirt::Libvirt, simulated::Simulated,
};

const MAC: &str = "52:54:00:00:00:01";

fn reservation(mac: &str, ip: &str) -> Reservation {
    Reservation { mac: mac.into(), ip: ip.parse().unwrap() }
}

async fn networks_are_made_started_and_reserve_addresses(hypervisor: &dyn Hypervisor) {
    let network = async || hypervisor.network("lab").await.unwrap();
    assert_eq!(network().await, None);
    says(hypervisor.start_network("lab").await, "lab");
    says(hypervisor.reserve_address("lab", &reservation(MAC, "10.7.0.5")).await, "lab");
    hypervisor.release_address("lab", MAC).await.unwrap();

    let new = NewNetwork { name: "lab".into(), gateway: "10.7.0.1".parse().unwrap(), prefix: 24 };
    hypervisor.define_network(&new).await.unwrap();
    says(hypervisor.define_network(&new).await, "lab");
    let off =
        Network { name: "lab".into(), active: false, subnets: vec![new.subnet()], reservations: vec![] };
    assert_eq!(network().await, Some(off.clone()));
    // Also while it is off.
    hypervisor.reserve_address("lab", &reservation(MAC, "10.7.0.5")).await.unwrap();
    hypervisor.start_network("lab").await.unwrap();
    hypervisor.start_network("lab").await.unwrap();
    let on = Network { active: true, reservations: vec![reservation(MAC, "10.7.0.5")], ..off };
    assert_eq!(network().await, Some(on.clone()));

    // The same again, another address for the same interface, and one that is taken.
    hypervisor.reserve_address("lab", &reservation(MAC, "10.7.0.5")).await.unwrap();
    hypervisor.reserve_address("lab", &reservation(MAC, "10.7.0.6")).await.unwrap();
    let taken = hypervisor.reserve_address("lab", &reservation("52:54:00:00:00:02", "10.7.0.6")).await;
    says(taken, "existing dhcp host entry");
    let moved = Network { reservations: vec![reservation(MAC, "10.7.0.6")], ..on };
    assert_eq!(hypervisor.networks().await.unwrap(), std::slice::from_ref(&moved));

    assert_eq!(hypervisor.leases("lab", MAC).await.unwrap(), Vec::<Lease>::new());
    says(hypervisor.leases("other", MAC).await, "other");
    says(hypervisor.addresses("no-such-domain", AddressSource::Arp).await, "no-such-domain");
    hypervisor.release_address("lab", MAC).await.unwrap();
    hypervisor.release_address("lab", MAC).await.unwrap();
    assert_eq!(network().await, Some(Network { reservations: vec![], ..moved }));
}

/// `read` gives what a volume holds, by its path.
async fn volumes_are_made_filled_and_removed_with_their_pool(
    hypervisor: &dyn Hypervisor,
    read: &dyn Fn(&Utf8Path) -> Vec<u8>,
) {
    // Where nobody's files are: the isolated hypervisor has this folder to itself.
    let folder = Utf8Path::new("/var/lib/libvirt/images/farmhand/machines/a b");
    assert_eq!(hypervisor.volumes("farmhand-a b").await.unwrap(), None);
    hypervisor.ensure_pool("farmhand-a b", folder).await.unwrap();
    hypervisor.ensure_pool("farmhand-a b", folder).await.unwrap();
    says(
        hypervisor.ensure_pool("farmhand-a b", "/var/lib/libvirt/images/other".into()).await,
        folder.as_str(),
    );
    assert_eq!(hypervisor.pools().await.unwrap(), ["farmhand-a b"]);
    assert_eq!(hypervisor.volumes("farmhand-a b").await.unwrap(), Some(vec![]));

    let local = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let mut content = vec![7; 300_000];
    content.resize(9 << 20, 0);
    content.extend([9; 5000]);
    std::fs::write(local.path(), &content).unwrap();
    let file = Utf8PathBuf::from_path_buf(local.path().to_owned()).unwrap();
    let bytes = NewVolume { name: "base".into(), content: NewContent::Bytes, capacity: content.len() as u64 };
    let base = hypervisor.create_volume("farmhand-a b", &bytes).await.unwrap();
    assert_eq!(base, folder.join("base"));
    says(hypervisor.create_volume("farmhand-a b", &bytes).await, "exist");
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let tell = {
        let told = told.clone();
        Arc::new(move |sent| told.store(sent, std::sync::atomic::Ordering::Relaxed))
    };
    hypervisor.upload_volume("farmhand-a b", "base", &file, tell.clone()).await.unwrap();
    assert!(told.load(std::sync::atomic::Ordering::Relaxed) >= 305_000);
    assert!(read(&base) == content, "it is another content");
    says(hypervisor.upload_volume("farmhand-a b", "none", &file, tell.clone()).await, "none");
    says(
        hypervisor.upload_volume("farmhand-a b", "base", "/no/such/file".into(), tell).await,
        "/no/such/file",
    );

    let layer = NewContent::Layer { backing: base.clone(), format: "raw" };
    let disk = NewVolume { name: "disk0.qcow2".into(), content: layer, capacity: 64 << 20 };
    let path = hypervisor.create_volume("farmhand-a b", &disk).await.unwrap();
    let expected = [
        Volume { name: "base".into(), path: base.clone(), backing: None, capacity: content.len() as u64 },
        Volume { name: "disk0.qcow2".into(), path, backing: Some(base), capacity: 64 << 20 },
    ];
    assert_eq!(hypervisor.volumes("farmhand-a b").await.unwrap().as_deref(), Some(&expected[..]));

    hypervisor.delete_volume("farmhand-a b", "base").await.unwrap();
    hypervisor.delete_volume("farmhand-a b", "base").await.unwrap();
    assert_eq!(hypervisor.volumes("farmhand-a b").await.unwrap().unwrap().len(), 1);
    hypervisor.remove_pool("farmhand-a b").await.unwrap();
    hypervisor.remove_pool("farmhand-a b").await.unwrap();
    assert_eq!(hypervisor.pools().await.unwrap(), Vec::<String>::new());
}

/// libvirt itself refuses to look through a pool in which a volume is being made.
async fn pools_are_looked_through_while_volumes_are_made(hypervisor: &dyn Hypervisor) {
    let folder = Utf8Path::new("/var/lib/libvirt/images/farmhand/images");
    hypervisor.ensure_pool("farmhand", folder).await.unwrap();
    let base = NewVolume { name: "base".into(), content: NewContent::Bytes, capacity: 1 << 20 };
    let backing = hypervisor.create_volume("farmhand", &base).await.unwrap();
    let made = async {
        for number in 0..10 {
            let content = NewContent::Layer { backing: backing.clone(), format: "raw" };
            let layer = NewVolume { name: format!("layer{number}"), content, capacity: 1 << 20 };
            hypervisor.create_volume("farmhand", &layer).await.unwrap();
        }
    };
    let looked_through = async {
        for _ in 0..40 {
            hypervisor.volumes("farmhand").await.unwrap();
        }
    };
    tokio::join!(made, looked_through);
    assert_eq!(hypervisor.volumes("farmhand").await.unwrap().unwrap().len(), 11);
    hypervisor.remove_pool("farmhand").await.unwrap();
}

#[tokio::test]
async fn simulated() {
    networks_are_made_started_and_reserve_addresses(&Simulated::new()).await;
    let simulated = Simulated::new();
    let read = |path: &Utf8Path| {
        simulated.volume_content("farmhand-a b", path.file_name().unwrap_or_default()).unwrap()
    };
    volumes_are_made_filled_and_removed_with_their_pool(&simulated, &read).await;
    pools_are_looked_through_while_volumes_are_made(&simulated).await;
}

#[tokio::test]
async fn libvirt() {
    let isolated = Isolated::start();
    let libvirt = Libvirt::connect(&isolated.uri).await.unwrap();
    networks_are_made_started_and_reserve_addresses(&libvirt).await;
    let read = |path: &Utf8Path| isolated.read(path.as_str());
    volumes_are_made_filled_and_removed_with_their_pool(&libvirt, &read).await;
    pools_are_looked_through_while_volumes_are_made(&libvirt).await;
}

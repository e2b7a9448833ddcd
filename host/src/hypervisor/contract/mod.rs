//! What every [`Hypervisor`](super::Hypervisor) does, tested with the simulated one and with libvirt as the machine has it.
//!
//! The real domains boot from one sector: no kernel and no image is needed, and they are up in no time.

mod fixture;
mod surroundings;

use std::time::Duration;

use serde_json::json;

use self::fixture::{Fixture, Guest, InMemory, Real, unique_name};
use super::{
    Domain, DomainLock, DomainMetadata, DomainState, Hypervisor as _, HypervisorError, Locked, NewSnapshot,
    domain_xml, libvirt::Libvirt,
};
use crate::base::SnapshotKind;

/// Long enough for a test to be stuck where it would wait for this.
const AN_HOUR: Duration = Duration::from_secs(3600);

fn metadata(text: &str) -> DomainMetadata {
    DomainMetadata { origin: json!({ "image": text, "π": "<&\"'>" }), ssh_host_key: None }
}

fn new_snapshot(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.into(),
        description: format!("{{\"key\": \"<{name}> & 'π'\\n\"}}"),
        kind: SnapshotKind::Internal,
    }
}

fn of_kind(kind: SnapshotKind, name: &str) -> NewSnapshot {
    NewSnapshot { kind, ..new_snapshot(name) }
}

fn says(result: Result<impl std::fmt::Debug, HypervisorError>, words: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(words), "{message}");
}

async fn a_domain_is_defined_redefined_and_undefined(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let xml = fixture.xml(Guest::default());
    let name = domain_xml::name(&xml).unwrap();
    assert_eq!(hypervisor.domain(&name).await.unwrap(), None);

    hypervisor.define(&domain_xml::insert_metadata(&xml, &metadata("1")).unwrap()).await.unwrap();
    let domain = hypervisor.domain(&name).await.unwrap().unwrap();
    let disks = domain.disks.clone();
    assert_eq!(disks.len(), 1);
    let expected = Domain {
        name: name.clone(),
        state: DomainState::ShutOff,
        metadata: Some(metadata("1")),
        ssh_port: None,
        interfaces: vec![],
        disks,
        memory: domain.memory,
        vcpus: 1,
    };
    assert_eq!(domain, expected);
    assert!(hypervisor.domains().await.unwrap().contains(&expected));

    // A UUID is made up by libvirt; the XML without one still means the same domain.
    hypervisor.define(&domain_xml::insert_metadata(&xml, &metadata("2")).unwrap()).await.unwrap();
    assert_eq!(hypervisor.domain(&name).await.unwrap().unwrap().metadata, Some(metadata("2")));
    hypervisor.define(&xml).await.unwrap();
    assert_eq!(hypervisor.domain(&name).await.unwrap().unwrap().metadata, None);

    hypervisor.undefine(&name).await.unwrap();
    assert_eq!(hypervisor.domain(&name).await.unwrap(), None);
    hypervisor.undefine(&name).await.unwrap();
}

async fn xml_that_is_none_is_refused(fixture: &dyn Fixture) {
    for xml in ["", "<domain", "<domain type='qemu'><memory>1</memory></domain>"] {
        assert!(fixture.hypervisor().define(xml).await.is_err(), "{xml}");
    }
}

async fn metadata_is_replaced_off_and_running(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    let read = async || hypervisor.domain(&name).await.unwrap().unwrap().metadata;
    hypervisor.set_metadata(&name, &metadata("off")).await.unwrap();
    assert_eq!(read().await, Some(metadata("off")));
    hypervisor.start(&name).await.unwrap();
    assert_eq!(read().await, Some(metadata("off")));
    hypervisor.set_metadata(&name, &metadata("running")).await.unwrap();
    assert_eq!(read().await, Some(metadata("running")));
    hypervisor.destroy(&name).await.unwrap();
    assert_eq!(read().await, Some(metadata("running")));
}

async fn start_reset_and_destroy(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    assert!(hypervisor.reset(&name).await.is_err(), "it is off");
    hypervisor.start(&name).await.unwrap();
    hypervisor.start(&name).await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::Running);
    says(hypervisor.undefine(&name).await, "running");
    hypervisor.reset(&name).await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::Running);
    fixture.pause(&name);
    assert_eq!(fixture.state(&name).await, DomainState::Paused);
    hypervisor.start(&name).await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::Running);
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.destroy(&name).await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::ShutOff);
}

async fn what_is_not_there_is_named(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = "farmhand-test-of-nothing";
    says(hypervisor.start(name).await, name);
    says(hypervisor.destroy(name).await, name);
    says(hypervisor.shutdown(name, AN_HOUR).await, name);
    says(hypervisor.snapshots(name).await, name);
    says(hypervisor.wait_for_agent(name, AN_HOUR).await, name);
    says(hypervisor.set_metadata(name, &metadata("")).await, name);
    assert!(hypervisor.start("a\0b").await.is_err());
}

async fn a_guest_shuts_itself_down(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    assert!(hypervisor.shutdown(&name, AN_HOUR).await.unwrap(), "it is off already");
    hypervisor.start(&name).await.unwrap();
    // A guest that is not up yet does not notice the power button.
    let mut presses = 0;
    while !hypervisor.shutdown(&name, Duration::from_secs(2)).await.unwrap() {
        presses += 1;
        assert!(presses < 60, "it does not shut down");
    }
    assert_eq!(fixture.state(&name).await, DomainState::ShutOff);
}

async fn a_shutdown_that_the_guest_ignores_is_told(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest { ignores_power_button: true, ..Guest::default() }).await;
    hypervisor.start(&name).await.unwrap();
    assert!(!hypervisor.shutdown(&name, Duration::from_millis(500)).await.unwrap());
    assert_eq!(fixture.state(&name).await, DomainState::Running);
}

async fn waiting_ends_when_the_domain_does(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name =
        fixture.define(Guest { ignores_power_button: true, agent_channel: true, ..Guest::default() }).await;
    hypervisor.start(&name).await.unwrap();
    let (shutdown, agent, destroy) =
        tokio::join!(hypervisor.shutdown(&name, AN_HOUR), hypervisor.wait_for_agent(&name, AN_HOUR), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            hypervisor.destroy(&name).await
        });
    destroy.unwrap();
    assert!(shutdown.unwrap());
    says(agent, "not running");
}

async fn live_snapshots_are_taken_listed_reverted_and_deleted(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    hypervisor.set_metadata(&name, &metadata("before")).await.unwrap();
    hypervisor.start(&name).await.unwrap();
    assert_eq!(hypervisor.snapshots(&name).await.unwrap(), []);
    for snapshot in ["clean", "p.1.dependencies", "p.1.init"] {
        hypervisor.create_snapshot(&name, &new_snapshot(snapshot)).await.unwrap();
    }
    says(hypervisor.create_snapshot(&name, &new_snapshot("clean")).await, "already exists");
    let list = hypervisor.snapshots(&name).await.unwrap();
    let parents: Vec<_> = list.iter().map(|taken| (taken.name.as_str(), taken.parent.as_deref())).collect();
    assert_eq!(
        parents,
        [("clean", None), ("p.1.dependencies", Some("clean")), ("p.1.init", Some("p.1.dependencies"))]
    );
    for taken in &list {
        assert_eq!(taken.description, new_snapshot(&taken.name).description);
        assert_eq!((taken.live, taken.kind), (true, SnapshotKind::Internal));
        assert!(taken.creation_time > 1_600_000_000);
    }

    hypervisor.set_metadata(&name, &metadata("after")).await.unwrap();
    hypervisor.revert(&name, "clean").await.unwrap();
    let domain = hypervisor.domain(&name).await.unwrap().unwrap();
    assert_eq!((domain.state, domain.metadata), (DomainState::Running, Some(metadata("before"))));
    says(hypervisor.revert(&name, "other").await, "other");

    // A snapshot taken now stands on the one that was reverted to.
    hypervisor.create_snapshot(&name, &new_snapshot("p.2.init")).await.unwrap();
    // Within one second nothing tells which is the older one.
    let list = hypervisor.snapshots(&name).await.unwrap();
    let taken = list.iter().find(|taken| taken.name == "p.2.init").unwrap();
    assert_eq!(taken.parent.as_deref(), Some("clean"));

    hypervisor.delete_snapshot(&name, "p.1.dependencies").await.unwrap();
    hypervisor.delete_snapshot(&name, "p.1.dependencies").await.unwrap();
    let list = hypervisor.snapshots(&name).await.unwrap();
    let parents: Vec<_> = list.iter().map(|taken| (taken.name.as_str(), taken.parent.as_deref())).collect();
    assert_eq!(parents, [("clean", None), ("p.1.init", Some("clean")), ("p.2.init", Some("clean"))]);

    // Also a domain that is off runs after that, and it can be undefined with all its snapshots.
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.revert(&name, "p.1.init").await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::Running);
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.undefine(&name).await.unwrap();
    assert_eq!(hypervisor.domain(&name).await.unwrap(), None);
}

async fn a_snapshot_of_a_domain_that_is_off(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    hypervisor.create_snapshot(&name, &new_snapshot("off")).await.unwrap();
    assert!(!hypervisor.snapshots(&name).await.unwrap()[0].live);
    hypervisor.start(&name).await.unwrap();
    hypervisor.revert(&name, "off").await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::ShutOff);
    hypervisor.delete_snapshot(&name, "off").await.unwrap();
    assert_eq!(hypervisor.snapshots(&name).await.unwrap(), []);
}

async fn external_snapshots_are_taken_reverted_and_deleted(fixture: &dyn Fixture) {
    external_snapshots(fixture, Guest::default()).await;
}

async fn raw_disks_have_external_snapshots(fixture: &dyn Fixture) {
    let guest = Guest { raw_disk: true, ..Guest::default() };
    external_snapshots(fixture, guest).await;
}

async fn external_snapshots(fixture: &dyn Fixture, guest: Guest) {
    let hypervisor = fixture.hypervisor();
    let external = |name: &str| of_kind(SnapshotKind::External, name);
    let name = fixture.define(guest).await;
    let tree = async || {
        let list = hypervisor.snapshots(&name).await.unwrap();
        assert!(list.iter().all(|taken| taken.kind == SnapshotKind::External && taken.live));
        let tree =
            list.iter().map(|taken| format!("{} on {}", taken.name, taken.parent.as_deref().unwrap_or("-")));
        tree.collect::<Vec<_>>().join(", ")
    };
    hypervisor.set_metadata(&name, &metadata("before")).await.unwrap();
    hypervisor.start(&name).await.unwrap();
    for snapshot in ["clean", "dependencies", "init"] {
        hypervisor.create_snapshot(&name, &external(snapshot)).await.unwrap();
    }
    says(hypervisor.create_snapshot(&name, &external("clean")).await, "already exists");
    assert_eq!(tree().await, "clean on -, dependencies on clean, init on dependencies");
    let files = hypervisor.snapshots(&name).await.unwrap().remove(1).files;
    assert!(
        fixture.files().is_none() || files.len() == 2 && files.iter().all(|file| file.is_file()),
        "{files:?}"
    );

    // It runs again, as it was, whether it ran before or not.
    hypervisor.set_metadata(&name, &metadata("after")).await.unwrap();
    hypervisor.revert(&name, "init").await.unwrap();
    hypervisor.destroy(&name).await.unwrap();
    for _ in 0..2 {
        hypervisor.revert(&name, "clean").await.unwrap();
        let domain = hypervisor.domain(&name).await.unwrap().unwrap();
        assert_eq!((domain.state, domain.metadata), (DomainState::Running, Some(metadata("before"))));
    }

    // What stands on a snapshot of another branch does so through its files.
    says(hypervisor.delete_snapshot(&name, "dependencies").await, "external");
    hypervisor.delete_snapshot(&name, "init").await.unwrap();
    hypervisor.delete_snapshot(&name, "dependencies").await.unwrap();
    hypervisor.delete_snapshot(&name, "dependencies").await.unwrap();
    // The same name again, and one below the present state deleted, running and off.
    hypervisor.create_snapshot(&name, &external("dependencies")).await.unwrap();
    hypervisor.create_snapshot(&name, &external("init")).await.unwrap();
    hypervisor.delete_snapshot(&name, "dependencies").await.unwrap();
    assert_eq!(tree().await, "clean on -, init on clean");
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.delete_snapshot(&name, "clean").await.unwrap();
    hypervisor.revert(&name, "init").await.unwrap();
    assert_eq!(fixture.state(&name).await, DomainState::Running);
    hypervisor.delete_snapshot(&name, "init").await.unwrap();
    assert_eq!(tree().await, "");
    hypervisor.destroy(&name).await.unwrap();
    assert_eq!(fixture.files().unwrap_or(1), 1, "nothing of them is left");
}

async fn snapshots_of_disks_alone_are_of_a_domain_that_is_off(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    let disk = |name: &str| of_kind(SnapshotKind::Disk, name);
    hypervisor.start(&name).await.unwrap();
    says(hypervisor.create_snapshot(&name, &disk("clean")).await, "running");
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.create_snapshot(&name, &disk("clean")).await.unwrap();
    // With nothing in the memory there is none to keep.
    hypervisor.create_snapshot(&name, &of_kind(SnapshotKind::External, "init")).await.unwrap();
    for taken in hypervisor.snapshots(&name).await.unwrap() {
        assert_eq!((taken.live, taken.kind), (false, SnapshotKind::Disk));
        assert!(fixture.files().is_none() || taken.files.len() == 1 && taken.files[0].is_file());
    }
    hypervisor.start(&name).await.unwrap();
    for snapshot in ["init", "clean", "clean", "clean"] {
        hypervisor.revert(&name, snapshot).await.unwrap();
        assert_eq!(fixture.state(&name).await, DomainState::ShutOff);
    }
    hypervisor.start(&name).await.unwrap();
    hypervisor.delete_snapshot(&name, "init").await.unwrap();
    hypervisor.destroy(&name).await.unwrap();
    hypervisor.delete_snapshot(&name, "clean").await.unwrap();
    assert_eq!(hypervisor.snapshots(&name).await.unwrap(), []);
    assert_eq!(fixture.files().unwrap_or(1), 1, "nothing of them is left");
}

async fn an_agent_that_is_not_there_is_not_waited_for(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest::default()).await;
    says(hypervisor.wait_for_agent(&name, AN_HOUR).await, "not running");
    hypervisor.start(&name).await.unwrap();
    assert!(!hypervisor.wait_for_agent(&name, AN_HOUR).await.unwrap());
    assert!(hypervisor.agent_command(&name, &json!({"execute": "guest-ping"})).await.is_err());
}

async fn an_agent_that_does_not_start_is_told(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = fixture.define(Guest { agent_channel: true, ..Guest::default() }).await;
    hypervisor.start(&name).await.unwrap();
    assert!(!hypervisor.wait_for_agent(&name, Duration::from_millis(500)).await.unwrap());
    let command = json!({"execute": "guest-exec", "arguments": {"path": "secret"}});
    let message = hypervisor.agent_command(&name, &command).await.unwrap_err().to_string();
    assert!(message.contains("not connected") && !message.contains("secret"), "{message}");
    says(hypervisor.synchronize_clock(&name).await, "not connected");
}

async fn calls_run_beside_each_other(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let names = futures::future::join_all((0..6).map(|_| fixture.define(Guest::default()))).await;
    futures::future::try_join_all(names.iter().map(|name| hypervisor.start(name))).await.unwrap();
    for name in &names {
        assert_eq!(fixture.state(name).await, DomainState::Running);
    }
    futures::future::try_join_all(names.iter().map(|name| hypervisor.destroy(name))).await.unwrap();
}

async fn this_machines_guests_can_run(fixture: &dyn Fixture) {
    let capabilities = fixture.hypervisor().capabilities().await.unwrap();
    let guest = capabilities
        .guests
        .iter()
        .find(|guest| guest.arch == "x86_64" && guest.domain_type == "qemu")
        .unwrap();
    assert!(guest.emulator.is_absolute());
}

fn a_lock(owner: &str) -> DomainLock {
    DomainLock { id: uuid::Uuid::new_v4(), owner: format!("{{\"owner\": \"<{owner}> & 'π'\"}}") }
}

async fn a_lock_is_taken_renewed_and_released(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    // A domain is locked before there is one.
    let name = unique_name();
    let (mine, yours) = (a_lock("mine"), a_lock("yours"));
    assert_eq!(hypervisor.lock_holder(&name).await.unwrap(), None);
    assert_eq!(hypervisor.lock(&name, &mine).await.unwrap(), Locked::Ours);
    assert_eq!(hypervisor.lock(&name, &yours).await.unwrap(), Locked::Theirs(mine.clone()));
    let renewed = DomainLock { owner: "renewed".into(), ..mine.clone() };
    assert_eq!(hypervisor.lock(&name, &renewed).await.unwrap(), Locked::Ours);
    assert_eq!(hypervisor.lock_holder(&name).await.unwrap(), Some(renewed.clone()));
    // One domain's lock is no other's.
    let other = format!("{name} 2");
    assert_eq!(hypervisor.lock(&other, &yours).await.unwrap(), Locked::Ours);
    hypervisor.unlock(&other, yours.id).await.unwrap();

    // What is not there is released already; what somebody else has since stays his.
    hypervisor.unlock(&name, yours.id).await.unwrap();
    assert_eq!(hypervisor.lock_holder(&name).await.unwrap(), Some(renewed));
    hypervisor.unlock(&name, mine.id).await.unwrap();
    assert_eq!(hypervisor.lock(&name, &yours).await.unwrap(), Locked::Ours);
    hypervisor.unlock(&name, mine.id).await.unwrap();
    assert_eq!(hypervisor.lock(&name, &mine).await.unwrap(), Locked::Theirs(yours.clone()));
    hypervisor.unlock(&name, yours.id).await.unwrap();
    assert_eq!(hypervisor.lock_holder(&name).await.unwrap(), None);
}

async fn of_many_that_take_a_lock_at_once_one_gets_it(fixture: &dyn Fixture) {
    let hypervisor = fixture.hypervisor();
    let name = unique_name();
    let dead = a_lock("dead");
    assert_eq!(hypervisor.lock(&name, &dead).await.unwrap(), Locked::Ours);
    let locks: Vec<_> = (0..8).map(|owner| a_lock(&owner.to_string())).collect();
    let taken = futures::future::join_all(locks.iter().map(async |lock| {
        // As they do who have seen that its owner is dead.
        hypervisor.unlock(&name, dead.id).await.unwrap();
        (lock.id, hypervisor.lock(&name, lock).await.unwrap())
    }))
    .await;
    let ours: Vec<_> = taken.iter().filter(|(_, taken)| *taken == Locked::Ours).map(|(id, _)| *id).collect();
    let holder = hypervisor.lock_holder(&name).await.unwrap().unwrap().id;
    hypervisor.unlock(&name, holder).await.unwrap();
    assert_eq!(ours, [holder]);
}

macro_rules! contract {
    ($($test:ident)*) => {
        mod simulated {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::InMemory::default()).await;
            })*
        }
        mod libvirt {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Real::new().await).await;
            })*
        }
    };
}

contract! {
    a_domain_is_defined_redefined_and_undefined
    xml_that_is_none_is_refused
    metadata_is_replaced_off_and_running
    start_reset_and_destroy
    what_is_not_there_is_named
    a_guest_shuts_itself_down
    a_shutdown_that_the_guest_ignores_is_told
    waiting_ends_when_the_domain_does
    live_snapshots_are_taken_listed_reverted_and_deleted
    a_snapshot_of_a_domain_that_is_off
    external_snapshots_are_taken_reverted_and_deleted
    raw_disks_have_external_snapshots
    snapshots_of_disks_alone_are_of_a_domain_that_is_off
    an_agent_that_is_not_there_is_not_waited_for
    an_agent_that_does_not_start_is_told
    calls_run_beside_each_other
    this_machines_guests_can_run
    a_lock_is_taken_renewed_and_released
    of_many_that_take_a_lock_at_once_one_gets_it
}

#[tokio::test]
async fn a_driver_without_secrets_keeps_no_locks() {
    let test = Libvirt::connect("test:///default").await.unwrap();
    let lock = a_lock("mine");
    let Locked::Unsupported(why) = test.lock("vm", &lock).await.unwrap() else { panic!("it has some") };
    assert!(why.contains("not supported"), "{why}");
    assert_eq!(test.lock_holder("vm").await.unwrap(), None);
    test.unlock("vm", lock.id).await.unwrap();
}

#[tokio::test]
async fn uefi_needs_external_snapshots() {
    let fixture = Real::new().await;
    let guest = Guest { uefi: true, ..Guest::default() };
    let name = fixture.define(guest).await;
    fixture.hypervisor().start(&name).await.unwrap();
    let internal = fixture.hypervisor().create_snapshot(&name, &new_snapshot("clean")).await;
    says(internal, "internal snapshots of a VM with pflash");
    fixture.hypervisor().destroy(&name).await.unwrap();
    drop(fixture);
    external_snapshots(&Real::new().await, guest).await;
}

#[tokio::test]
async fn a_connection_that_fails_says_why_in_libvirts_words() {
    let uri = "qemu+unix:///system?socket=/no/such/socket";
    let error = Libvirt::connect(uri).await.err().unwrap().to_string();
    assert!(error.contains(uri) && error.contains("No such file or directory"), "{error}");
    assert!(Libvirt::connect("qemu:///\0").await.is_err());
}

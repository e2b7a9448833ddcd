//! What every [`Hypervisor`] does, tested with the simulated one and with libvirt as the machine has it.
//!
//! The real domains boot from one sector: no kernel and no image is needed, and they are up in no time.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;

use super::{
    Domain, DomainMetadata, DomainState, Hypervisor, HypervisorError, NewSnapshot, domain_xml,
    libvirt::{Libvirt, default_uri},
    simulated::Simulated,
};

/// Long enough for a test to be stuck where it would wait for this.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// What a test's domain is like.
#[derive(Clone, Copy, Default)]
struct Guest {
    /// It does not react to the power button.
    ignores_power_button: bool,
    /// It has a channel for a guest agent; there is no agent.
    agent_channel: bool,
}

/// A hypervisor under test.
#[async_trait]
trait Fixture: Sync {
    fn hypervisor(&self) -> &dyn Hypervisor;

    /// XML of a new domain, named uniquely; it is removed at the end of the test in any case.
    fn xml(&self, guest: Guest) -> String;

    /// Called after a domain from [`Fixture::xml`] was defined.
    fn defined(&self, _name: &str, _guest: Guest) {}

    /// Pauses a domain from outside.
    fn pause(&self, name: &str);

    /// Defines a domain, and gives its name.
    async fn define(&self, guest: Guest) -> String {
        let xml = self.xml(guest);
        self.hypervisor().define(&xml).await.unwrap();
        let name = domain_xml::name(&xml).unwrap();
        self.defined(&name, guest);
        name
    }

    async fn state(&self, name: &str) -> DomainState {
        self.hypervisor().domain(name).await.unwrap().unwrap().state
    }
}

fn metadata(text: &str) -> DomainMetadata {
    DomainMetadata { origin: json!({ "image": text, "π": "<&\"'>" }), ssh_host_key: None }
}

fn new_snapshot(name: &str) -> NewSnapshot {
    NewSnapshot { name: name.into(), description: format!("{{\"key\": \"<{name}> & 'π'\\n\"}}") }
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
    let name = fixture.define(Guest { ignores_power_button: true, agent_channel: true }).await;
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
        assert!(taken.live);
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
    an_agent_that_is_not_there_is_not_waited_for
    an_agent_that_does_not_start_is_told
    calls_run_beside_each_other
    this_machines_guests_can_run
}

#[tokio::test]
async fn a_connection_that_fails_says_why_in_libvirts_words() {
    let uri = "qemu+unix:///system?socket=/no/such/socket";
    let error = Libvirt::connect(uri).await.err().unwrap().to_string();
    assert!(error.contains(uri) && error.contains("No such file or directory"), "{error}");
    assert!(Libvirt::connect("qemu:///\0").await.is_err());
}

/// Guest that powers off when the power button is pressed: it sets the button's enable bit in ACPI's PM1a enable register
/// (0x602 on `q35`), looks at the status register (0x600) at each timer tick, and writes SLP_EN to PM1a control (0x604).
#[rustfmt::skip]
const HEEDS: &[u8] = &[
    0xba, 0x02, 0x06, // 00 mov dx, 0x602
    0xb8, 0x00, 0x01, // 03 mov ax, 0x100
    0xef,             // 06 out dx, ax
    0xb2, 0x00,       // 07 mov dl, 0
    0xfb,             // 09 sti
    0xf4,             // 0a hlt
    0xed,             // 0b in ax, dx
    0xf6, 0xc4, 0x01, // 0c test ah, 1
    0x74, 0xf9,       // 0f jz 0x0a
    0xb2, 0x04,       // 11 mov dl, 4
    0xb8, 0x00, 0x20, // 13 mov ax, 0x2000
    0xef,             // 16 out dx, ax
    0xf4,             // 17 hlt
    0xeb, 0xfd,       // 18 jmp 0x17
];

/// Guest that does nothing: `hlt`, `jmp -3`.
const IGNORES: &[u8] = &[0xf4, 0xeb, 0xfd];

fn xml(name: &str, disk: &str, guest: Guest) -> String {
    let channel = if guest.agent_channel {
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    } else {
        ""
    };
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <cpu mode='custom'><model>qemu64</model></cpu><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='sda' bus='sata'/></disk>\
         {channel}<memballoon model='none'/></devices></domain>"
    )
}

fn unique_name() -> String {
    format!("farmhand-test-{}", uuid::Uuid::new_v4())
}

/// The simulated hypervisor.
#[derive(Default)]
struct InMemory(Simulated);

impl Fixture for InMemory {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.0
    }

    fn xml(&self, guest: Guest) -> String {
        xml(&unique_name(), "/disk.qcow2", guest)
    }

    fn defined(&self, name: &str, guest: Guest) {
        self.0.set_agent_starts(name, false);
        self.0.set_heeds_power_button(name, !guest.ignores_power_button);
    }

    fn pause(&self, name: &str) {
        self.0.pause(name);
    }
}

/// The machine's own libvirt.
struct Real {
    libvirt: Libvirt,
    folder: tempfile::TempDir,
    domains: Mutex<Vec<Arc<str>>>,
}

impl Real {
    async fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let libvirt = Libvirt::connect(&default_uri()).await.unwrap_or_else(|error| {
            panic!("{error}\nThis test needs libvirt with QEMU; set LIBVIRT_DEFAULT_URI if it is not at its usual place.")
        });
        // QEMU runs as another user under `qemu:///system`.
        let readable = std::fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new()
            .prefix("farmhand-test-")
            .permissions(readable)
            .tempdir_in("/var/tmp")
            .unwrap();
        Self { libvirt, folder, domains: Mutex::default() }
    }
}

impl Fixture for Real {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.libvirt
    }

    fn xml(&self, guest: Guest) -> String {
        let name = unique_name();
        let sector = self.folder.path().join(format!("{name}.img"));
        let mut bytes = vec![0; 1 << 20];
        let code = if guest.ignores_power_button { IGNORES } else { HEEDS };
        bytes[..code.len()].copy_from_slice(code);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&sector, bytes).unwrap();
        let disk = sector.with_extension("qcow2");
        convert(&sector, &disk);
        self.domains.lock().unwrap().push(name.as_str().into());
        xml(&name, disk.to_str().unwrap(), guest)
    }

    fn pause(&self, name: &str) {
        let connect = virt::connect::Connect::open(Some(self.libvirt.uri())).unwrap();
        virt::domain::Domain::lookup_by_name(&connect, name).unwrap().suspend().unwrap();
    }
}

fn convert(raw: &Path, qcow2: &Path) {
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([raw, qcow2])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Real {
    /// Removes the domains, also after a panic.
    fn drop(&mut self) {
        use virt::{connect::Connect, domain::Domain, sys};
        let Ok(mut connect) = Connect::open(Some(self.libvirt.uri())) else { return };
        for name in self.domains.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            let Ok(domain) = Domain::lookup_by_name(&connect, name) else { continue };
            let _ = domain.destroy();
            let _ = domain.undefine_flags(
                sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE,
            );
        }
        let _ = connect.close();
    }
}

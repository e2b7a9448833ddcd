//! The hypervisors under test, and the domains that tests have of them.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use crate::hypervisor::{
    DomainState, Hypervisor, domain_xml,
    libvirt::{Libvirt, default_uri},
    simulated::Simulated,
};

/// What a test's domain is like.
#[derive(Clone, Copy, Default)]
pub(super) struct Guest {
    /// It does not react to the power button.
    pub(super) ignores_power_button: bool,
    /// It has a channel for a guest agent; there is no agent.
    pub(super) agent_channel: bool,
    /// Its disk is raw, not qcow2.
    pub(super) raw_disk: bool,
    /// Its firmware is UEFI, with variables in flash memory.
    pub(super) uefi: bool,
}

/// A hypervisor under test.
#[async_trait]
pub(super) trait Fixture: Sync {
    fn hypervisor(&self) -> &dyn Hypervisor;

    /// XML of a new domain, named uniquely; it is removed at the end of the test in any case.
    fn xml(&self, guest: Guest) -> String;

    /// Called after a domain from [`Fixture::xml`] was defined.
    fn defined(&self, _name: &str, _guest: Guest) {}

    /// How many files there are of the only domain that was defined, its disk among them; `None` where there are none at all.
    fn files(&self) -> Option<usize> {
        None
    }

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
    let format = if guest.raw_disk { "raw" } else { "qcow2" };
    let (os, memory) = if guest.uefi { ("<os firmware='efi'>", 128) } else { ("<os>", 32) };
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>\
         {os}<type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <cpu mode='custom'><model>qemu64</model></cpu><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{disk}'/><target dev='sda' bus='sata'/></disk>\
         {channel}<memballoon model='none'/></devices></domain>"
    )
}

pub(super) fn unique_name() -> String {
    format!("farmhand-test-{}", uuid::Uuid::new_v4())
}

/// The simulated hypervisor.
#[derive(Default)]
pub(super) struct InMemory(Simulated);

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
pub(super) struct Real {
    libvirt: Libvirt,
    folder: tempfile::TempDir,
    domains: Mutex<Vec<Arc<str>>>,
}

impl Real {
    pub(super) async fn new() -> Self {
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
        let disk = if guest.raw_disk { sector } else { to_qcow2(sector) };
        self.domains.lock().unwrap().push(name.as_str().into());
        xml(&name, disk.to_str().unwrap(), guest)
    }

    fn files(&self) -> Option<usize> {
        Some(self.folder.path().read_dir().unwrap().count())
    }

    fn pause(&self, name: &str) {
        let connect = virt::connect::Connect::open(Some(self.libvirt.uri())).unwrap();
        virt::domain::Domain::lookup_by_name(&connect, name).unwrap().suspend().unwrap();
    }
}

/// Makes a raw image a qcow2 one.
fn to_qcow2(raw: PathBuf) -> PathBuf {
    let qcow2 = raw.with_extension("qcow2");
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    let output = Command::new("qemu-img").args(convert).args([&raw, &qcow2]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(raw).unwrap();
    qcow2
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
                sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | sys::VIR_DOMAIN_UNDEFINE_NVRAM,
            );
        }
        let _ = connect.close();
    }
}

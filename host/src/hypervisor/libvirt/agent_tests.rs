//! The guest agent of a real guest: one of the images of `tests/testbed`.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;

use super::{Libvirt, default_uri};
use crate::{
    hypervisor::{DomainState, Hypervisor as _, NewSnapshot},
    image::{Format, create_overlay},
};

/// A guest boots in seconds under KVM; without it, on a busy machine, in a minute or two.
const BOOT: Duration = Duration::from_secs(300);

/// Removes the domain at the end, also after a panic.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        use virt::{connect::Connect, domain::Domain, sys};
        let Ok(mut connect) = Connect::open(Some(&default_uri())) else { return };
        if let Ok(domain) = Domain::lookup_by_name(&connect, &self.0) {
            let _ = domain.destroy();
            let _ = domain.undefine_flags(sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA);
        }
        let _ = connect.close();
    }
}

/// The folder of the guest images.
fn images() -> Utf8PathBuf {
    let folder = Utf8Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/testbed"));
    let built = ["vmlinuz", "initrd.img", "debian_vs.qcow2"].iter().all(|file| folder.join(file).is_file());
    assert!(built, "the guest images are not built ({folder}): run `make images` first");
    folder.canonicalize_utf8().unwrap()
}

#[tokio::test]
async fn it_is_waited_for_at_boot_and_after_a_revert_and_shuts_down() {
    let guest = images();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let folder = tempfile::Builder::new()
        .prefix("farmhand-test-")
        .permissions(readable)
        .tempdir_in("/var/tmp")
        .unwrap();
    let disk = Utf8PathBuf::from_path_buf(folder.path().join("disk0.qcow2")).unwrap();
    create_overlay(&guest.join("debian_vs.qcow2"), Format::Qcow2, &disk, None).await.unwrap();
    let name = format!("farmhand-test-{}", uuid::Uuid::new_v4());
    let _cleanup = Cleanup(name.clone());
    let libvirt = Libvirt::connect(&default_uri()).await.unwrap();
    libvirt
        .define(&format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{guest}/vmlinuz</kernel><initrd>{guest}/initrd.img</initrd>\
             <cmdline>root=/dev/vda rw quiet</cmdline></os><features><acpi/><apic/></features>\
             <cpu mode='custom'><model>qemu64</model></cpu><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/><source file='{disk}'/>\
             <target dev='vda' bus='virtio'/></disk>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"
        ))
        .await
        .unwrap();

    libvirt.start(&name).await.unwrap();
    assert!(libvirt.wait_for_agent(&name, BOOT).await.unwrap());
    let ping = json!({"execute": "guest-ping"});
    assert_eq!(libvirt.agent_command(&name, &ping).await.unwrap(), json!({"return": {}}));
    libvirt.synchronize_clock(&name).await.unwrap();
    let unknown =
        libvirt.agent_command(&name, &json!({"execute": "guest-nonsense"})).await.unwrap_err().to_string();
    assert!(unknown.contains("guest-nonsense"), "{unknown}");

    let snapshot = NewSnapshot { name: "clean".into(), ..NewSnapshot::default() };
    libvirt.create_snapshot(&name, &snapshot).await.unwrap();
    for running in [true, false] {
        if !running {
            libvirt.destroy(&name).await.unwrap();
        }
        libvirt.revert(&name, "clean").await.unwrap();
        assert!(libvirt.wait_for_agent(&name, BOOT).await.unwrap());
        assert_eq!(libvirt.agent_command(&name, &ping).await.unwrap(), json!({"return": {}}));
        libvirt.synchronize_clock(&name).await.unwrap();
    }

    assert!(libvirt.shutdown(&name, BOOT).await.unwrap());
    assert_eq!(libvirt.domain(&name).await.unwrap().unwrap().state, DomainState::ShutOff);
}

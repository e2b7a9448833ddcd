//! The variable `domain` of domain templates: what a domain's XML needs, worked out from the definition and the hypervisor.

use serde_json::{Value, json};

use super::DomainInputs;
use crate::farm::{DiskBus, DomainType, Firmware, Machine, NetworkKind, machine::device_names};

/// All that stands in `domain`.
pub(super) fn domain(machine: &Machine, inputs: &DomainInputs) -> Value {
    let arch = inputs.arch.as_str();
    let default_machine = if arch == "x86_64" { "q35" } else { "virt" };
    let names = device_names(&machine.disks);
    let disks = inputs.disks.iter().zip(&machine.disks).zip(&names);
    let disks: Vec<_> = disks
        .map(|((path, disk), name)| {
            // Every disk is a layer of its own over its image, whatever that one's format: snapshots need qcow2.
            json!({ "path": path, "format": "qcow2", "bus": disk.bus.name(), "dev": name })
        })
        .collect();
    let kernel = machine.kernel.as_ref().zip(inputs.kernel.as_ref());
    let kernel = kernel
        .map(|(kernel, path)| json!({ "path": path, "initrd": inputs.initrd, "params": kernel.params }));
    let firmware = firmware(machine, arch);
    json!({
        "name": machine.name,
        "type": inputs.domain_type,
        "arch": arch,
        "machine": machine.machine_type.as_deref().unwrap_or(default_machine),
        "firmware": if firmware == Firmware::Uefi { "efi" } else { "bios" },
        // Without UEFI, ARM's virtual machines describe themselves in another way.
        "acpi": arch == "x86_64" || firmware == Firmware::Uefi,
        "cpu": machine.cpu.as_deref().or_else(|| default_cpu(inputs.domain_type, arch)),
        "emulator": machine.emulator.as_deref().unwrap_or(inputs.emulator.as_str()),
        "disks": disks,
        "scsi": machine.disks.iter().any(|disk| disk.bus == DiskBus::Scsi),
        "kernel": kernel,
        "seed": inputs.seed,
        "mac": machine.mac(),
        "net": network(machine, inputs),
        "ssh_port": inputs.ssh_port,
        "credentials": inputs.login_key.as_ref().map(|key| credentials(machine.user(), key)).unwrap_or_default(),
    })
}

/// ARM has no BIOS: what boots from a disk there needs UEFI.
fn firmware(machine: &Machine, arch: &str) -> Firmware {
    let arm = matches!(arch, "aarch64" | "armv7l");
    let usual = if arm && machine.kernel.is_none() { Firmware::Uefi } else { Firmware::Bios };
    machine.firmware.unwrap_or(usual)
}

/// Named models are faster under TCG than `maximum`, and snapshots with memory stay loadable.
fn default_cpu(domain_type: DomainType, arch: &str) -> Option<&'static str> {
    match (domain_type, arch) {
        (DomainType::Kvm, _) => Some("host-passthrough"),
        (DomainType::Qemu, "x86_64") => Some("qemu64"),
        (DomainType::Qemu, "aarch64") => Some("cortex-a57"),
        (DomainType::Qemu, "armv7l") => Some("cortex-a15"),
        // The emulator knows best.
        (DomainType::Qemu, _) => None,
    }
}

fn network(machine: &Machine, inputs: &DomainInputs) -> Value {
    let net = &machine.net;
    let ssh = json!({ "protocol": "tcp", "address": "127.0.0.1", "host": inputs.ssh_port, "guest": 22 });
    let forwards = net.port_forwards.iter().map(|forward| {
        json!({
            "protocol": forward.protocol.name(),
            "address": forward.address,
            "host": forward.host,
            "guest": forward.guest,
        })
    });
    let forwards: Vec<_> = match net.kind {
        NetworkKind::User => std::iter::once(ssh).chain(forwards).collect(),
        _ => Vec::new(),
    };
    json!({
        "type": net.kind.name(),
        "source": net.source(),
        "forwards": forwards,
    })
}

/// systemd's system credentials that put a public key into the guest's user's `authorized_keys` at boot, as SMBIOS OEM
/// strings (systemd.system-credentials(7), "SMBIOS Type 11"). No cloud-init is needed for that.
fn credentials(user: &str, public_key: &str) -> Vec<String> {
    let (name, content) = if user == "root" {
        ("ssh.authorized_keys.root", public_key.to_owned())
    } else {
        let home = format!("/home/{user}");
        let tmpfiles = format!(
            "d {home}/.ssh 0700 {user} {user} -\nf+ {home}/.ssh/authorized_keys 0600 {user} {user} - {public_key}\n"
        );
        ("tmpfiles.extra", tmpfiles)
    };
    vec![format!("io.systemd.credential.binary:{name}={}", base64(content.as_bytes()))]
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

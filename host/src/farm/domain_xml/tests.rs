use std::{fs, process::Command};

use camino::Utf8Path;
use tempfile::TempDir;

use super::*;
use crate::farm::Farm;

/// A farm with one machine that has `vm` in it.
fn farm(target: &str, vm: &str, template: Option<&str>) -> (TempDir, Farm) {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("farm.yaml", &format!("project: {{ id: p }}\nlist: [{{ platform: debian, target: {target} }}]\n"));
    write("setup_vm/platforms/debian.yaml", &format!("vm:\n{vm}"));
    if let Some(template) = template {
        write("setup_vm/templates/default.xml.j2", template);
    }
    let farm = Farm::load(Utf8Path::from_path(folder.path()).unwrap()).unwrap();
    (folder, farm)
}

const DISK: &str = "  disks: [{ src: https://example.org/d.qcow2 }]\n";

/// Definitions that together reach every branch of the built-in template.
fn variants() -> Vec<(&'static str, &'static str, String)> {
    let key = "  metadata: { auth: { ssh_key: key } }\n";
    let kernel = "  kernel: { src: https://example.org/k, initrd: https://example.org/i, params: 'root=/dev/vda \"a\" & <b>' }\n";
    let buses = "  disks: [{ src: https://example.org/a, type: virtio }, { src: https://example.org/b, type: sata }, { src: https://example.org/c, type: scsi, devname: sdd }]\n";
    let forwards = "  net: { port_forwards: [{ host: 8080, guest: 80 }, { host: 5353, guest: 53, protocol: udp, address: 0.0.0.0 }] }\n";
    let user = "  metadata: { auth: { user: tester } }\n";
    vec![
        ("amd64", "bios", DISK.to_owned()),
        ("amd64", "uefi", format!("{DISK}  firmware: uefi\n{key}")),
        ("amd64", "kernel-buses-forwards", format!("{kernel}{buses}{forwards}{key}")),
        ("amd64", "machine-cpu", format!("{DISK}  machine: pc\n  cpu: host-model\n{user}")),
        ("amd64", "network", format!("{DISK}  net: {{ type: network, mac: 52:54:00:00:00:01 }}\n{key}")),
        ("amd64", "bridge", format!("{DISK}  net: {{ type: bridge, source: br0 }}\n{key}")),
        ("amd64", "ethernet", format!("{DISK}  net: {{ type: ethernet, source: tap0 }}\n{key}")),
        ("amd64", "ethernet-made", format!("{DISK}  net: {{ type: ethernet }}\n{key}")),
        ("amd64", "vde", format!("{DISK}  net: {{ type: vde, source: /run/vde.ctl }}\n{key}")),
        ("arm64", "uefi", format!("{DISK}{key}")),
        ("arm64", "kernel", format!("{DISK}{kernel}{key}")),
        ("arm", "kernel", format!("{DISK}{kernel}{key}")),
        ("kvm", "kvm", format!("{DISK}{key}")),
    ]
}

#[test]
fn every_variant_of_the_built_in_template() {
    for (target, name, vm) in variants() {
        let (_folder, farm) = farm(target, &vm, None);
        let machine = &farm.machines[0];
        let inputs = DomainInputs {
            arch: machine.arch.clone().unwrap_or_else(|| "x86_64".into()),
            emulator: "/usr/bin/emulator".into(),
            ..DomainInputs::stand_ins(machine)
        };
        insta::assert_snapshot!(
            format!("{target}-{name}"),
            machine.template().render(machine, &inputs).unwrap()
        );
    }
}

/// The check of the library and that of libvirt's own tool say the same.
#[test]
fn every_variant_is_what_libvirt_takes() {
    let Ok(schema) = DomainSchema::installed() else {
        eprintln!("not checked: libvirt's schema is not installed");
        return;
    };
    for (target, name, vm) in variants() {
        let (folder, farm) = farm(target, &vm, None);
        let problems = farm.check_domains(farm.machines.values(), &schema).err();
        assert!(problems.is_none(), "{target} {name}: {problems:?}");
        let machine = &farm.machines[0];
        let path = folder.path().join("domain.xml");
        let xml = machine.template().render(machine, &DomainInputs::stand_ins(machine)).unwrap();
        let verdict = |xml: &str| {
            fs::write(&path, xml).unwrap();
            let output = Command::new("virt-xml-validate").arg(&path).arg("domain").output();
            output.ok().map(|output| output.status.success())
        };
        if let Some(is_valid) = verdict(&xml) {
            assert!(is_valid, "{target} {name}: {xml}");
            assert_eq!(verdict(&xml.replace("<vcpu>", "<vcpu id='a'>")), Some(false));
        }
    }
}

#[test]
fn what_libvirt_would_not_take_is_shown_in_the_template() {
    let Ok(schema) = DomainSchema::installed() else { return };
    let template = "{# Ours. #}
<domain type=\"{{ domain.type }}\">
  <name>{{ domain.name }}</name>
  <memory unit=\"MiB\">{{ vm.ram }}</memory>
  {%- for number in [1, 2] %}
  <vcpuz>{{ number }}</vcpuz>
  {%- endfor %}
  <os><type arch=\"{{ domain.arch }}\" machin=\"q35\">hvm</type></os>
</domain>
";
    let (_folder, farm) = farm("amd64", DISK, Some(template));
    let problems = farm.check_domains(farm.machines.values(), &schema).unwrap_err();
    let told: Vec<_> = problems
        .into_iter()
        .map(|problem| {
            let (file, line, column) = problem.position().unwrap();
            format!("{}:{line}:{column}: {}", file.file_name().unwrap(), problem.message())
        })
        .collect();
    let start = "libvirt would not take the domain XML of debian_amd64:";
    let expected = [
        format!("default.xml.j2:6:3: {start} <vcpuz> can't stand in <domain> here"),
        format!("default.xml.j2:8:7: {start} `machin` is no attribute of <type>"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn machines_that_differ_in_name_and_mac_are_checked_once() {
    let Ok(schema) = DomainSchema::installed() else { return };
    let mut seen = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let (_folder, farm) = farm("amd64", &format!("{DISK}  metadata: {{ name: machine-{name} }}\n"), None);
        let machine = &farm.machines[0];
        assert!(machine.template().check(machine, &schema, &mut seen).unwrap().is_empty());
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn templates_are_found_in_order() {
    let find = |present: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let templates = folder.path().join("setup_vm/templates");
        fs::create_dir_all(&templates).unwrap();
        for name in present {
            let text = format!("<domain><name>{name}</name></domain>");
            fs::write(templates.join(format!("{name}.xml.j2")), text).unwrap();
        }
        fs::write(
            folder.path().join("farm.yaml"),
            "project: { id: p }\nlist: [{ platform: d, target: arm64, template: own }]\n",
        )
        .unwrap();
        fs::create_dir_all(folder.path().join("setup_vm/platforms")).unwrap();
        fs::write(folder.path().join("setup_vm/platforms/d.yaml"), format!("vm:\n{DISK}")).unwrap();
        let farm = Farm::load(Utf8Path::from_path(folder.path()).unwrap())?;
        let machine = &farm.machines[0];
        let xml = machine.template().render(machine, &DomainInputs::stand_ins(machine)).unwrap();
        Ok::<_, crate::base::Problems>(xml)
    };
    assert!(find(&["default", "aarch64", "d_arm64", "own"]).unwrap().contains("<name>own<"));
    let missing = find(&["default"]).unwrap_err();
    assert!(missing.as_slice()[0].message().contains("no domain template `own`"), "{missing:?}");
}

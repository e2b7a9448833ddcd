use std::fs;

use camino::Utf8PathBuf;
use tempfile::TempDir;

use super::*;
use crate::base::{BecomeMethod, Credential, Phase};

/// A farm in a folder of its own.
struct Files {
    folder: TempDir,
}

impl Files {
    /// A farm with one machine, `debian` on `amd64`.
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write(
            "farm.yaml",
            "project: { id: p }\npermutations: { targets: [amd64], platforms: [debian] }\n",
        );
        files.write(
            "setup_vm/platforms/debian.yaml",
            "vm:\n  disks: [{ src: https://example.org/debian.qcow2 }]\n",
        );
        files
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Result<Farm, Problems> {
        Farm::load(Utf8Path::from_path(self.folder.path()).unwrap())
    }

    fn problems(&self) -> Vec<String> {
        self.load().unwrap_err().into_iter().map(|problem| problem.message().to_owned()).collect()
    }
}

fn example() -> Farm {
    Farm::load(Utf8Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/02-vm-provisioning"))).unwrap()
}

fn inputs(machine: &Machine) -> DomainInputs {
    DomainInputs {
        domain_type: DomainType::Qemu,
        arch: "x86_64".into(),
        emulator: "/usr/bin/qemu-system-x86_64".into(),
        disks: machine.disks.iter().map(|_| "/machines/disk.qcow2".into()).collect(),
        kernel: Some("/images/vmlinuz".into()),
        initrd: Some("/images/initrd.img".into()),
        seed: machine.first_boot().map(|_| "/machines/seed.iso".into()),
        ssh_port: 20_022,
        login_key: machine.takes_key_from_firmware().then(|| "ssh-ed25519 AAAA".to_owned()),
    }
}

#[test]
fn example_gives_its_two_machines() {
    let farm = example();
    assert_eq!(farm.machines.keys().collect::<Vec<_>>(), ["debian_vs_amd64", "Arch-Linux_amd64"]);
    let [debian, arch] = [&farm.machines[0], &farm.machines[1]];
    assert_eq!((debian.vcpus, debian.ram), (2, 512));
    let login = debian.login(Utf8Path::new("/key"));
    assert!(
        matches!(&login.credentials[..], [Credential::Password(password)] if password.reveal() == "tester")
    );
    assert_eq!(login.r#become.method, BecomeMethod::Su);
    assert_eq!(arch.login(Utf8Path::new("/key")).credentials, [Credential::Key("/key".into())]);

    let names = |machine: &Machine, phase| -> Vec<String> {
        machine.phases().steps(phase).iter().map(|step| step.name.clone()).collect()
    };
    let expected = [
        "Gather system information",
        "Synchronise the clock with the hardware clock",
        "Make sure the system is up to date",
        "Install dependencies",
    ];
    assert_eq!(names(debian, Phase::Dependencies), expected);
    assert_eq!(names(debian, Phase::Main), ["A main phase task"]);
    let sync = &arch.phases().steps(Phase::Dependencies)[1];
    assert!(sync.r#become, "what the including step says holds for the included ones");
    assert!(!arch.phases().steps(Phase::Dependencies)[0].r#become);
}

#[test]
fn domain_xml_of_the_example() {
    let farm = example();
    for machine in farm.machines.values() {
        let xml = machine.template().render(machine, &inputs(machine)).unwrap();
        insta::assert_snapshot!(format!("domain_{}", machine.name), xml);
    }
}

#[test]
fn shape_is_the_hardware_alone() {
    let farm = example();
    let machine = &farm.machines[1];
    let shape = |inputs: &DomainInputs| machine.template().shape(machine, inputs).unwrap();
    let same = DomainInputs {
        disks: vec!["/elsewhere/disk.qcow2".into()],
        kernel: Some("/elsewhere/vmlinuz".into()),
        ssh_port: 20_023,
        login_key: Some("ssh-ed25519 BBBB".into()),
        ..inputs(machine)
    };
    assert_eq!(shape(&same), shape(&inputs(machine)));
    assert_ne!(
        shape(&DomainInputs { domain_type: DomainType::Kvm, ..inputs(machine) }),
        shape(&inputs(machine))
    );
}

#[test]
fn texts_are_escaped_in_xml() {
    let files = Files::new();
    let text = "vm:\n  disks: [{ src: https://example.org/debian.qcow2 }]\n  kernel: { src: https://example.org/k, params: 'a<b \"c\" & d' }\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    let farm = files.load().unwrap();
    let machine = &farm.machines[0];
    let xml = machine.template().render(machine, &inputs(machine)).unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let cmdline = document.descendants().find(|node| node.has_tag_name("cmdline")).unwrap();
    assert_eq!(cmdline.text(), Some("a<b \"c\" & d"));
}

#[test]
fn later_definitions_win_and_lists_replace() {
    let files = Files::new();
    files.write("setup_vm/targets/amd64.yaml", "vm: { arch: x86_64, extra: { a: 1, b: 1, list: [1, 2] } }\n");
    files.write(
        "setup_vm/platforms/defaults.yml",
        "vm: { vcpus: 3, ram: 256, net: { type: user }, extra: { b: 2, c: 2 } }\n",
    );
    let text = "vm:\n  extra: { c: 3, list: [3] }\n  disks: [{ src: https://example.org/debian.qcow2 }]\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    let machine = files.load().unwrap().machines[0].clone();
    assert_eq!(machine.vcpus, 3);
    assert_eq!(machine.vm["extra"], serde_json::json!({ "a": 1, "b": 2, "list": [3], "c": 3 }));
}

#[test]
fn expressions_see_what_came_before_and_keep_their_types() {
    let files = Files::new();
    files.write(
        "setup_vm/platforms/debian.yaml",
        r#"
base: &base { a: 1 }
mirror: "https://example.org/{{ platform_name }}"
vm:
  vcpus: "{{ 1 + 1 }}"
  title: "{{ vm.metadata.target_name | upper }} on {{ vm.vcpus }}"
  merged: { <<: *base, b: 2 }
  disks: [{ src: "{{ mirror }}/{{ arch_name }}.qcow2" }]
"#,
    );
    let machine = files.load().unwrap().machines[0].clone();
    assert_eq!(machine.vcpus, 2);
    assert_eq!(machine.vm["title"], "AMD64 on 2");
    assert_eq!(machine.vm["merged"], serde_json::json!({ "a": 1, "b": 2 }));
    assert_eq!(machine.disks[0].image.uri, "https://example.org/debian/amd64.qcow2");
}

#[test]
fn passwords_are_not_for_templates() {
    let files = Files::new();
    let text = "vm:\n  metadata: { auth: { password: secret1, become_password: secret2 } }\n  disks: [{ src: https://example.org/d.qcow2 }]\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    let farm = files.load().unwrap();
    let shown = format!("{}{:?}", serde_json::to_string(&farm.machines[0]).unwrap(), farm.machines[0]);
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn doubles_are_dropped_and_extensions_are_no_part_of_names() {
    let files = Files::new();
    files.write(
        "farm.yaml",
        "project: { id: p }\npermutations: { targets: [amd64, amd64.yaml], platforms: [debian.yml] }\ncombinations: [{ platform: debian, target: amd64 }]\n",
    );
    assert_eq!(files.load().unwrap().machines.len(), 1);
}

#[test]
fn most_specific_phase_file_wins() {
    let files = Files::new();
    let main = |files: &Files| files.load().unwrap().machines[0].phases().steps(Phase::Main)[0].name.clone();
    files.write("provisioning_phases/main.yml", "- run: common\n");
    assert_eq!(main(&files), "common");
    files.write("provisioning_phases/main.yaml", "- run: common, yaml\n");
    assert_eq!(main(&files), "common, yaml");
    files.write("provisioning_phases/debian/main.yml", "- run: platform\n");
    assert_eq!(main(&files), "platform");
    files.write("provisioning_phases/debian/amd64/main.yml", "- run: target\n");
    assert_eq!(main(&files), "target");
}

#[test]
fn packages_of_the_farm_are_the_default_dependencies() {
    let files = Files::new();
    files.write(
        "farm.yaml",
        "project: { id: p }\nlist: [{ platform: debian, target: amd64 }]\ndependencies: [curl]\n",
    );
    let farm = files.load().unwrap();
    let [step] = farm.machines[0].phases().steps(Phase::Dependencies) else { panic!("one step") };
    assert_eq!((step.uses.to_string().as_str(), step.r#become), ("package", true));
    assert_eq!(step.with["packages"], serde_json::json!(["curl"]));
}

#[test]
fn all_problems_are_told_at_once() {
    let files = Files::new();
    files.write(
        "farm.yaml",
        "project: { id: p }\npermutations: { targets: [amd64], platforms: [debain, debian] }\n",
    );
    files.write("provisioning_phases/main.yaml", "- {}\n- run: a\n  uses: b\n");
    files.write("provisioning_phases/init.yaml", "- runn: a\n");
    let problems = files.problems();
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn alias_bomb_is_refused() {
    let files = Files::new();
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        text += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    files.write("setup_vm/platforms/debian.yaml", &(text + "vm: {}\n"));
    let problems = files.problems();
    assert!(problems[0].contains("too large when its aliases are followed"), "{problems:?}");
}

#[test]
fn machine_without_a_mac_gets_a_lasting_one_of_its_own() {
    let farm = example();
    let macs: Vec<_> = farm.machines.values().map(|machine| machine.mac().to_owned()).collect();
    assert_ne!(macs[0], macs[1]);
    assert_eq!(macs, example().machines.values().map(Machine::mac).collect::<Vec<_>>());
    assert!(macs.iter().all(|mac| mac.starts_with("52:54:00:") && mac.len() == 17), "{macs:?}");
}

#[test]
fn relative_paths_are_relative_to_the_farm() {
    let farm = example();
    let uri = Utf8PathBuf::from(&farm.machines[0].disks[0].image.uri);
    assert!(uri.is_absolute() && uri.ends_with("target/testbed/debian_vs.qcow2"), "{uri}");
}

#[test]
fn variables_come_from_farm_target_defaults_platform_and_machine() {
    let files = Files::new();
    let farm = "project: { id: p }
variables: { a: farm, b: farm, c: farm, d: farm, e: farm, list: [1, 2] }
permutations: { targets: [amd64], platforms: [debian] }
list:
  - { platform: debian, target: amd64, variables: { e: machine, f: '{{ platform_name }}' } }
";
    files.write("farm.yaml", farm);
    files.write(
        "setup_vm/targets/amd64.yaml",
        "b: target\nc: target\nd: target\ne: target\nvm: { arch: x86_64 }\n",
    );
    files.write(
        "setup_vm/platforms/defaults.yaml",
        "c: defaults\nd: defaults\nvm: { vcpus: 1, ram: 64, net: { type: user } }\n",
    );
    let platform = "d: platform\nvm: { title: '{{ e }}', disks: [{ src: https://example.org/d.qcow2 }] }\n";
    files.write("setup_vm/platforms/debian.yaml", platform);
    let main = "- name: 'On {{ machine_name }}'
  uses: shell
  with: { run: '{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }}', count: '{{ list | length }}', ram: '{{ vm.ram }}' }
- run: 'echo ${#PATH} {{ target_name }}'
- run: 'echo ${#PATH}'
- run: !unsafe 'echo {{ no template }}'
";
    files.write("provisioning_phases/main.yaml", main.replace("${#PATH} {{", "{{").as_str());
    let farm = files.load().unwrap();
    let machine = &farm.machines[0];
    assert_eq!(farm.machines.len(), 1, "the list adds to the permutation");
    assert_eq!(machine.vm["title"], "machine", "definitions see the machine's variables");
    let steps = machine.phases().steps(Phase::Main);
    assert_eq!(steps[0].name, "On debian_amd64");
    assert_eq!(
        steps[0].with,
        serde_json::json!({ "run": "farm target defaults platform machine debian", "count": 2, "ram": 64 })
    );
    let runs: Vec<_> = steps[1..].iter().map(|step| step.with["run"].as_str().unwrap()).collect();
    assert_eq!(runs, ["echo amd64", "echo ${#PATH}", "echo {{ no template }}"]);
}

#[test]
fn items_of_the_list_that_differ_in_variables_are_machines_of_their_own() {
    let files = Files::new();
    let farm = "project: { id: p }
list:
  - { platform: debian, target: amd64, variables: { role: client } }
  - { platform: debian, target: amd64, variables: { role: server } }
  - { platform: debian, target: amd64, variables: { role: server } }
";
    files.write("farm.yaml", farm);
    let platform =
        "vm: { metadata: { name: '{{ role }}' }, disks: [{ src: https://example.org/d.qcow2 }] }\n";
    files.write("setup_vm/platforms/debian.yaml", platform);
    let farm = files.load().unwrap();
    assert_eq!(farm.machines.keys().collect::<Vec<_>>(), ["client", "server"]);
    let explained = farm.explain(&farm.machines["server"]).unwrap();
    assert!(explained.iter().any(|value| value.value.as_ref().is_some_and(|value| value == "server")));
}

#[test]
fn passwords_of_definitions_never_get_into_steps() {
    let files = Files::new();
    let text = "token_password: hunter2\nvm:\n  metadata: { auth: { password: hunter2 } }\n  disks: [{ src: https://example.org/d.qcow2 }]\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    for step in [
        "- run: 'echo {{ vm.metadata.auth.password }}'\n",
        "- { uses: shell, with: { run: a, env: { T: '{{ token_password }}' } } }\n",
        "- { uses: shell, with: '{{ vm.metadata.auth }}' }\n",
        "- { uses: shell, with: { run: a, x: '{{ vm.metadata.auth.password | length }}' } }\n",
    ] {
        files.write("provisioning_phases/main.yaml", step);
        let problems = files.problems();
        assert_eq!(problems, ["a step can't have a password of the definition among its settings"], "{step}");
    }
}

#[test]
fn dependencies_of_a_platform_are_a_step_of_its_package_module() {
    let files = Files::new();
    let text = "dependencies: [curl, '{{ target_name }}-tools']\nvm: { disks: [{ src: https://example.org/d.qcow2 }] }\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    let farm = files.load().unwrap();
    let [step] = farm.machines[0].phases().steps(Phase::Dependencies) else { panic!("one step") };
    assert_eq!(step.with["packages"], serde_json::json!(["curl", "amd64-tools"]));
    files.write("setup_vm/platforms/debian.yaml", &text.replace("[curl, '{{ target_name }}-tools']", "curl"));
    assert_eq!(files.problems().len(), 1);
}

#[test]
fn machines_that_ask_for_the_same_are_told_of_each_other() {
    let files = Files::new();
    files.write(
        "farm.yaml",
        "project: { id: p }\npermutations: { targets: [amd64, arm64], platforms: [debian] }\n",
    );
    let net = |net: &str| {
        let text = format!("vm: {{ net: {net}, disks: [{{ src: https://example.org/d.qcow2 }}] }}\n");
        files.write("setup_vm/platforms/debian.yaml", &text);
    };
    for (given, told) in [
        ("{ mac: 52:54:00:00:00:01 }", "the MAC address 52:54:00:00:00:01"),
        ("{ type: network, ip: 192.168.122.7 }", "the address 192.168.122.7"),
        ("{ port_forwards: [{ host: 8080, guest: 80 }] }", "port 8080 (tcp) of 127.0.0.1"),
    ] {
        net(given);
        assert_eq!(
            files.problems(),
            [format!("debian_amd64 and debian_arm64 would both have {told}")],
            "{given}"
        );
    }
    // On hypervisors of their own they do not meet.
    let apart =
        "metadata: { connection: '{{ target_name }}' }, net: { port_forwards: [{ host: 8080, guest: 80 }] }";
    let text = format!("vm: {{ {apart}, disks: [{{ src: https://example.org/d.qcow2 }}] }}\n");
    files.write("setup_vm/platforms/debian.yaml", &text);
    assert_eq!(files.load().unwrap().machines.len(), 2);
    net("{ type: network, ip: dhcp, source: '{{ target_name }}' }");
    assert_eq!(files.load().unwrap().machines.len(), 2);
    net("{ port_forwards: [{ host: \"{{ {'amd64': 8080, 'arm64': 8081}[target_name] }}\", guest: 80 }] }");
    assert_eq!(files.load().unwrap().forwarded_ports().into_iter().collect::<Vec<_>>(), [8080, 8081]);
}

#[test]
fn made_mac_addresses_differ_and_do_not_depend_on_the_order() {
    // Two names whose first choice is the same address.
    let mut seen = std::collections::HashMap::new();
    let (first, second) = (0..)
        .find_map(|number| {
            let name = format!("m{number}");
            let other = seen.insert(machine::made_mac(&name, 0), name.clone())?;
            Some((other, name))
        })
        .unwrap();
    let files = Files::new();
    let macs = |names: [&str; 2]| {
        let item =
            |name: &str| format!("  - {{ platform: debian, target: amd64, variables: {{ n: {name} }} }}\n");
        files.write(
            "farm.yaml",
            &format!("project: {{ id: p }}\nlist:\n{}{}", item(names[0]), item(names[1])),
        );
        let platform =
            "vm: { metadata: { name: '{{ n }}' }, disks: [{ src: https://example.org/d.qcow2 }] }\n";
        files.write("setup_vm/platforms/debian.yaml", platform);
        let farm = files.load().unwrap();
        [&first, &second].map(|name| farm.machines[name].mac().to_owned())
    };
    let there = macs([&first, &second]);
    assert_ne!(there[0], there[1]);
    assert_eq!(there, macs([&second, &first]));
    assert!(there.contains(&machine::made_mac(&first, 0)));
}

#[test]
fn what_is_wrong_about_a_network_has_its_place() {
    let files = Files::new();
    let text =
        "vm:\n  net: { type: network, ip: 10.0.0.5 }\n  disks: [{ src: https://example.org/d.qcow2 }]\n";
    files.write("setup_vm/platforms/debian.yaml", text);
    let farm = files.load().unwrap();
    let problem = farm.machines[0].network_problem("wrong".into());
    assert!(problem.location().unwrap().ends_with("debian.yaml:2:29"), "{problem:?}");
}

#[test]
fn the_shipped_schema_is_that_of_the_code() {
    let path = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/farm.schema.json");
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(&path, &schema).unwrap();
    }
    let shipped = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shipped, schema, "INSTA_UPDATE=always writes it anew");
}

#[test]
fn the_schema_takes_what_farmhand_takes() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let parse = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
    let example = fs::read_to_string(example().root.join("farm.yaml")).unwrap();
    let full = "schema: 1
project: { id: p, revision: 3 }
hypervisors: [{ name: local, uri: 'qemu:///session', labels: [ssd] }]
variables: { a: 1, b: { c: [] } }
combinations: [{ platform: a, target: b, template: c, variables: { d: 1 } }]
jobs: 2
allowed_phases: [startup, restore init, main]
modules: { m: { path: m.wasm, grants: { exec: true, files: ['/a/**'] }, limits: { memory: 1 MiB } } }
limits: { cpu_time: 3 }
secrets: { S: { env: S }, T: { file: t } }
dependencies: [curl]
";
    for text in [example.as_str(), full] {
        assert!(serde_json::from_value::<Config>(parse(text)).is_ok(), "{text}");
        let errors: Vec<_> = validator.iter_errors(&parse(text)).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{text}");
    }
    for text in [
        "project: {}",
        "project: { id: p }\nserial: 0",
        "project: { id: p }\nallowed_phases: [mane]",
        "project: { id: p }\nunknown: 1",
        "project: { id: a/b }",
        "schema: 2\nproject: { id: p }",
    ] {
        assert!(!validator.is_valid(&parse(text)), "{text}");
    }
}

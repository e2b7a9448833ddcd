//! A file of a farm's that says it is a module which was granted root: its word counts for nothing.

use std::{fs, process::Command};

use crate::{built, encode::repository};

#[test]
fn a_forged_name_takes_nobodys_grants() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write(
        "farm.yaml",
        b"project: { id: forged }\npermutations: { targets: [amd64], platforms: [debian_x] }\n\
          modules: { debian-apt: { grants: { exec: true, become: true } } }\n",
    );
    write(
        "setup_vm/platforms/debian_x.yaml",
        b"vm: { metadata: { auth: { password: x } }, disks: [{ src: https://example.org/x.qcow2 }] }\n",
    );
    write("provisioning_phases/main.yaml", b"- { name: Trust me, uses: ./forged.wasm }\n");
    write("provisioning_phases/forged.wasm", &built::component("forged_name"));
    let plan = Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .args(["--connect", "test:///never-reached", "plan", "--farm"])
        .arg(folder.path())
        .env("FARMHAND_HOME", folder.path().join("home"))
        .env("FARMHAND_MODULES", repository().join("target/modules"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8(plan.stderr).unwrap();
    assert_eq!(plan.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("asks for what it was not granted"), "{stderr}");
    assert!(stderr.contains("main.yaml:1:"), "the step is named: {stderr}");
}

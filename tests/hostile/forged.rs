//! Files that say they are a module which was granted root: their word counts for nothing, wherever they lie.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use tempfile::TempDir;

use crate::{built, encode::repository};

/// A farm that trusts `debian-apt` and whose only step uses what is written here, beside a folder with the forged module.
struct Farm(TempDir);

impl Farm {
    fn new(uses: &str) -> Self {
        let farm = Self(tempfile::tempdir().unwrap());
        farm.trusts("debian-apt: { grants: { exec: true, become: true } }");
        farm.write(
            "farm/setup_vm/platforms/debian_x.yaml",
            b"vm: { metadata: { auth: { password: x } }, disks: [{ src: https://example.org/x.qcow2 }] }\n",
        );
        farm.write(
            "farm/provisioning_phases/main.yaml",
            format!("- {{ name: Trust me, uses: {uses} }}\n").as_bytes(),
        );
        farm.write("downloads/forged.wasm", &built::component("forged_name"));
        farm
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.folder().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn trusts(&self, modules: &str) {
        let text = format!(
            "project: {{ id: forged }}\npermutations: {{ targets: [amd64], platforms: [debian_x] }}\n\
             modules:\n  {modules}\n"
        );
        self.write("farm/farm.yaml", text.as_bytes());
    }

    /// What farmhand says of it, and its exit code.
    fn farmhand(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
            .args(["--connect", "test:///never-reached", "--farm"])
            .arg(self.folder().join("farm"))
            .args(arguments)
            .env("FARMHAND_HOME", self.folder().join("home"))
            .env("FARMHAND_MODULES", repository().join("target/modules"))
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.code())
    }

    /// It is refused, and what to do for it is about this very file.
    fn is_refused_as(&self, path: &str) {
        let (said, code) = self.farmhand(&["plan"]);
        assert_eq!(code, Some(2), "{said}");
        // The lines stand in a frame.
        let lines: Vec<&str> = said.lines().map(|line| line.trim_start_matches([' ', '×', '│'])).collect();
        let said = lines.join("\n");
        assert!(said.contains(&format!("module {path} asks for what it was not granted")), "{said}");
        let grants = "grants: { exec: true, become: true }";
        assert!(said.contains(&format!("modules:\n{path}:\npath: {path}\n{grants}")), "{said}");
        assert!(said.contains("main.yaml:1:"), "the step is named: {said}");
        assert!(said.contains("forged.wasm` shows all that it asks for"), "{said}");
    }
}

#[test]
fn a_forged_name_takes_nobodys_grants() {
    let farm = Farm::new("./forged.wasm");
    fs::rename(
        farm.folder().join("downloads/forged.wasm"),
        farm.folder().join("farm/provisioning_phases/forged.wasm"),
    )
    .unwrap();
    farm.is_refused_as("provisioning_phases/forged.wasm");
}

#[test]
fn nor_does_one_outside_the_farm() {
    let farm = Farm::new("../../downloads/forged.wasm");
    let outside = farm.folder().canonicalize().unwrap().join("downloads/forged.wasm");
    farm.is_refused_as(outside.to_str().unwrap());

    let absolute = Farm::new("ABSOLUTE");
    let outside = absolute.folder().canonicalize().unwrap().join("downloads/forged.wasm");
    let step = format!("- uses: {}\n", outside.display());
    absolute.write("farm/provisioning_phases/main.yaml", step.as_bytes());
    absolute.is_refused_as(outside.to_str().unwrap());
}

#[test]
fn nor_does_one_that_a_link_leads_to() {
    let farm = Farm::new("./forged.wasm");
    symlink("../../downloads/forged.wasm", farm.folder().join("farm/provisioning_phases/forged.wasm"))
        .unwrap();
    let outside = farm.folder().canonicalize().unwrap().join("downloads/forged.wasm");
    farm.is_refused_as(outside.to_str().unwrap());

    // A link may also stand for the module that it wants to be.
    let real = repository().join("target/modules/debian-apt.wasm").canonicalize().unwrap();
    fs::remove_file(farm.folder().join("farm/provisioning_phases/forged.wasm")).unwrap();
    symlink(&real, farm.folder().join("farm/provisioning_phases/forged.wasm")).unwrap();
    farm.is_refused_as(real.to_str().unwrap());
}

#[test]
fn one_outside_the_farm_is_trusted_and_pinned_by_its_path() {
    let farm = Farm::new("../../downloads/forged.wasm");
    let outside = farm.folder().canonicalize().unwrap().join("downloads/forged.wasm");
    let (said, _) = farm.farmhand(&["module", "lock"]);
    assert!(said.contains(&format!("pinned {} 1.0.0", outside.display())), "{said}");

    farm.trusts("helper: { path: ../downloads/forged.wasm, grants: { exec: true, become: true } }");
    let (said, _) = farm.farmhand(&["plan"]);
    assert!(!said.contains("granted") && said.contains("never-reached"), "{said}");
    let (said, _) = farm.farmhand(&["module", "lock"]);
    assert!(said.contains("pinned helper 1.0.0"), "{said}");
    // Another file in its place is not the one that was pinned.
    farm.write("downloads/forged.wasm", &built::component("neighbour"));
    let (said, code) = farm.farmhand(&["plan"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("module helper is not as farmhand.lock pins it"), "{said}");
}

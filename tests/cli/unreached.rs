//! What commands say that need something that they don't get: a secret, a hypervisor, a machine.

use std::{
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A hypervisor that is not there.
const NOWHERE: &str = "qemu+tcp://127.0.0.1:1/system";

fn farmhand(home: &TempDir, farm: &str, arguments: &[&str], token: Option<&str>) -> Output {
    farmhand_at(NOWHERE, home, farm, arguments, token)
}

fn farmhand_at(
    hypervisor: &str,
    home: &TempDir,
    farm: &str,
    arguments: &[&str],
    token: Option<&str>,
) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .args(["--connect", hypervisor, "--farm"])
        .arg(root.join(farm))
        .args(arguments)
        .env("FARMHAND_HOME", home.path())
        .env("FARMHAND_MODULES", root.join("target/modules"))
        .envs(token.map(|token| ("FARMHAND_TEST_TOKEN", token)))
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn missing_secret_is_told_once_before_a_run_begins() {
    let home = tempfile::tempdir().unwrap();
    let up = |token| farmhand(&home, "tests/cli/farms/missing-secret", &["up"], token);
    let output = up(None);
    assert_eq!(output.status.code(), Some(2));
    let told = "secret DEPLOY_TOKEN can't be read: environment variable FARMHAND_TEST_TOKEN";
    assert_eq!(stderr(&output).matches(told).count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("provisioning_phases/main.yaml:1:3"), "{}", stderr(&output));
    let list = farmhand(&home, "tests/cli/farms/missing-secret", &["report", "--list"], None);
    assert!(list.stdout.starts_with(b"there is no record of a run yet"), "{list:?}");
    // With it, the hypervisor is what is missing.
    let output = up(Some("s3cret"));
    assert!(stderr(&output).contains("can't connect to hypervisor"), "{}", stderr(&output));
}

#[test]
fn hypervisor_that_does_not_answer_is_named() {
    let home = tempfile::tempdir().unwrap();
    for command in ["plan", "up", "status", "destroy"] {
        let output = farmhand(&home, "examples/02-vm-provisioning", &[command], None);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let told = format!("can't connect to hypervisor {NOWHERE}");
        assert!(stderr(&output).contains(&told), "{command}: {}", stderr(&output));
    }
}

#[test]
fn hypervisor_whose_folder_for_images_is_not_known_is_not_even_connected_to() {
    let home = tempfile::tempdir().unwrap();
    let far = "qemu+ssh://far.invalid/session";
    let output = farmhand_at(far, &home, "examples/02-vm-provisioning", &["up"], None);
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(told.contains(far) && told.contains("`pool_dir`"), "{told}");
}

#[test]
fn ssh_to_a_machine_out_of_reach_ends_as_ssh_does() {
    let home = tempfile::tempdir().unwrap();
    for command in [&["ssh", "debian_vs_amd64"][..], &["ssh", "debian_vs_amd64", "--", "true"]] {
        let output = farmhand(&home, "examples/02-vm-provisioning", command, None);
        assert_eq!(output.status.code(), Some(255), "{command:?}");
        assert!(stderr(&output).contains("can't connect to hypervisor"), "{}", stderr(&output));
    }
}

//! `farmhand check`: every problem of a farm at once.

use std::{path::Path, process::Command};

fn check(farm: &str, args: &[&str], data: &str) -> (Option<i32>, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .args(["--connect", "test:///never-reached", "check", "--farm"])
        .arg(root.join(farm))
        .args(args)
        .env("FARMHAND_HOME", home.path())
        .env("FARMHAND_MODULES", root.join("target/modules"))
        .env("XDG_DATA_DIRS", data)
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let modules = root.join("target/modules");
    let target = Path::new(env!("CARGO_BIN_EXE_farmhand")).parent().unwrap().parent().unwrap();
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap().replace(root.join(farm).to_str().unwrap(), "FARM");
        text.replace(modules.to_str().unwrap(), "MODULES").replace(target.to_str().unwrap(), "TARGET")
    };
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const EXAMPLE: &str = "examples/02-vm-provisioning";
const MISTAKES: &str = "tests/cli/farms/many-mistakes";

#[test]
fn a_farm_in_order_says_so() {
    let (code, stdout, stderr) = check(EXAMPLE, &[], "/usr/share");
    assert_eq!((code, stdout.as_str()), (Some(0), "2 machines are in order\n"), "{stderr}");
    assert_eq!(check(EXAMPLE, &["--json"], "/usr/share").1, "[]\n");
}

#[test]
fn every_problem_is_listed_at_once() {
    let (code, stdout, stderr) = check(MISTAKES, &[], "/usr/share");
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!("check", stderr);
}

#[test]
fn problems_are_for_programs_too() {
    let (code, stdout, _) = check(MISTAKES, &["--json"], "/usr/share");
    assert_eq!(code, Some(2));
    let problems: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    let place = |problem: &serde_json::Value| {
        let file = problem["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (file, problem["line"].as_u64().unwrap(), problem["column"].as_u64().unwrap())
    };
    let unknown = problems.iter().find(|problem| problem["message"] == "unknown key `pasword`").unwrap();
    assert_eq!(place(unknown), ("alpha.yaml".to_owned(), 2, 23));
    assert!(problems.iter().all(|problem| problem["help"].is_string()), "{problems:#?}");
}

#[test]
fn without_libvirts_schema_it_says_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = check(EXAMPLE, &[], nowhere.path().to_str().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(0), "2 machines are in order\n"), "{stderr}");
    assert!(stderr.contains("libvirt's schema of domains is not installed (looked for"), "{stderr}");
}

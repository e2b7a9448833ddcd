//! `farmhand init`: a farm that is in order at once.

use std::{path::Path, process::Command};

fn farmhand(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/modules");
    let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .args(args)
        .current_dir(folder)
        .env("FARMHAND_HOME", folder.join("home"))
        .env("FARMHAND_MODULES", modules)
        .env("NO_COLOR", "1")
        .env_remove("FARMHAND_FARM")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const PLATFORMS: [&str; 6] =
    ["debian-12", "debian-13", "ubuntu-24.04", "fedora-44", "arch-linux", "alpine-3.23"];

#[test]
fn a_new_farm_is_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = vec!["init", "my farm"];
    for platform in PLATFORMS {
        args.extend(["--platform", platform]);
    }
    let (code, stdout, stderr) = farmhand(folder.path(), &args);
    assert_eq!(code, Some(0), "{stderr}");
    insta::assert_snapshot!("init", stdout);
    let (code, stdout, stderr) = farmhand(folder.path(), &["check", "--farm", "my farm"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "6 machines are in order\n"), "{stderr}");

    // Every image comes from its publisher, with a checksum.
    let (_, machines, _) = farmhand(folder.path(), &["machines", "--json", "--farm", "my farm"]);
    let machines: serde_json::Value = serde_json::from_str(&machines).unwrap();
    let images: Vec<_> =
        machines.as_array().unwrap().iter().map(|machine| &machine["disks"][0]["image"]).collect();
    assert!(images.iter().all(|image| image["checksum"].is_object()), "{images:#?}");
    insta::assert_snapshot!("init-images", serde_yaml::to_string(&images).unwrap());
    let farm = std::fs::read_to_string(folder.path().join("my farm/farm.yaml")).unwrap();
    insta::assert_snapshot!("init-farm", farm);
}

#[test]
fn images_for_another_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let (code, ..) = farmhand(
        folder.path(),
        &["init", "--project", "p", "--platform", "debian-13", "--platform", "alpine-3.23"],
    );
    assert_eq!(code, Some(0));
    let path = folder.path().join("farm.yaml");
    let farm = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, farm.replace("[amd64]", "[arm64]")).unwrap();
    let (_, machines, stderr) = farmhand(folder.path(), &["machines", "--json"]);
    let machines: serde_json::Value = serde_json::from_str(&machines).expect(&stderr);
    let uris: Vec<_> = machines
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| machine["disks"][0]["image"]["uri"].as_str().unwrap())
        .collect();
    assert!(uris[0].ends_with("debian-13-genericcloud-arm64.qcow2"), "{uris:?}");
    assert!(uris[1].ends_with("-aarch64-uefi-cloudinit-r0.qcow2"), "{uris:?}");

    // Another word for it in a target of one's own; and one that there is no image for.
    std::fs::create_dir_all(folder.path().join("setup_vm/targets")).unwrap();
    std::fs::write(folder.path().join("setup_vm/targets/board.yaml"), "vm: { arch: arm64 }\n").unwrap();
    std::fs::write(&path, farm.replace("[amd64]", "[board]")).unwrap();
    let (_, machines, _) = farmhand(folder.path(), &["machines", "--json"]);
    assert!(machines.contains(uris[0]) && machines.contains(uris[1]), "{machines}");
    std::fs::write(&path, farm.replace("[amd64]", "[arm]")).unwrap();
    let (code, _, stderr) = farmhand(folder.path(), &["check"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is an image of Debian for x86_64 and aarch64"), "{stderr}");
    assert!(stderr.contains("setup_vm/platforms/debian-13.yaml"), "{stderr}");
}

#[test]
fn what_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("farm.yaml"), "mine\n").unwrap();
    let (code, _, stderr) = farmhand(folder.path(), &["init"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is a farm in . already"), "{stderr}");
    assert_eq!(std::fs::read_to_string(folder.path().join("farm.yaml")).unwrap(), "mine\n");

    let (code, _, stderr) = farmhand(folder.path(), &["--farm", "elsewhere", "init", "--project", "my farm"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("is no project id"), "{stderr}");
    let (code, ..) = farmhand(folder.path(), &["--farm", "elsewhere", "init"]);
    assert_eq!(code, Some(0));
    assert!(folder.path().join("elsewhere/farm.yaml").exists());

    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("provisioning_phases")).unwrap();
    std::fs::write(other.path().join("provisioning_phases/main.yaml"), "mine\n").unwrap();
    let (code, _, stderr) = farmhand(other.path(), &["init"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("can't write ./provisioning_phases/main.yaml"), "{stderr}");
    assert!(!other.path().join("farm.yaml").exists());

    let (code, _, stderr) = farmhand(other.path(), &["init", "--platform", "debian"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("debian-12"), "{stderr}");
}

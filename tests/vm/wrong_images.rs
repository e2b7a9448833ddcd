//! Images that can't be had: an error that says so, and nothing left.

use std::fs;

use crate::farm::Farm;

#[test]
fn wrong_checksum_and_missing_image_leave_nothing() {
    let farm = Farm::example();
    let [debian, arch] = ["debian_vs", "Arch-Linux"].map(|platform| farm.machine(platform));
    let image = farm.path("image.qcow2");
    fs::write(&image, "this is not what it should be").unwrap();
    let source = |text: String, uri: &str| {
        let zeros = "0".repeat(64);
        let wrong = format!("{{ uri: {uri}, resource_name: image, checksum_value: \"{zeros}\" }}");
        let (before, _) = text.split_once("    sources:").unwrap();
        format!("{before}    sources:\n      - {wrong}\n  kernel: ~\n  disks:\n    - {{ src: image }}\n")
    };
    farm.edit("farm/setup_vm/platforms/debian_vs.yaml", |text| source(text, image.to_str().unwrap()));
    farm.edit("farm/setup_vm/platforms/Arch-Linux.yaml", |text| source(text, "/no/such/image.qcow2"));

    let run = farm.up(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let wrong = run.failure(&debian).to_string();
    let zeros = "0".repeat(64);
    let found = "76b4e0bd";
    assert!(
        wrong.contains(&zeros) && wrong.contains("was expected"),
        "both digests ({found}...) are told: {wrong}"
    );
    let missing = run.failure(&arch).to_string();
    assert!(missing.contains("/no/such/image.qcow2"), "{missing}");
    assert_eq!(farm.traces(), Vec::<String>::new());
    let stored = fs::read_dir(farm.path("home/cache/images"))
        .map_or(0, |files| files.flatten().filter(|file| file.file_type().unwrap().is_file()).count());
    assert_eq!(stored, 0, "nothing of a wrong image is kept");
}

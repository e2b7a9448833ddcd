//! What `farmhand machines` prints of a farm with definitions of all shapes (`farms/shapes`).

use std::process::Command;

fn machines(args: &[&str]) -> String {
    let farm = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cli/farms/shapes");
    let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .args(["--farm", farm, "--connect", "test:///never-reached", "machines"])
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let root = std::fs::canonicalize(farm).unwrap();
    String::from_utf8(output.stdout).unwrap().replace(root.to_str().unwrap(), "FARM")
}

#[test]
fn table_of_machines() {
    insta::assert_snapshot!("machines", machines(&[]));
}

#[test]
fn machines_as_json_and_yaml_are_the_same() {
    let json: serde_json::Value = serde_json::from_str(&machines(&["--json"])).unwrap();
    let yaml = machines(&["--yaml"]);
    assert_eq!(serde_yaml::from_str::<serde_json::Value>(&yaml).unwrap(), json);
    insta::assert_snapshot!("machines-yaml", yaml);
}

#[test]
fn each_value_is_explained_and_passwords_are_not() {
    for (name, golden) in [
        ("mapping_amd64", "explain-mapping"),
        ("older_amd64", "explain-older"),
        ("tasks-on-amd64", "explain-tasks"),
    ] {
        let text = machines(&["--explain", name]);
        assert!(!text.to_lowercase().contains("hunter2"), "{text}");
        insta::assert_snapshot!(golden, text);
    }
}

#[test]
fn explanations_are_for_programs_too() {
    let text = machines(&["--explain", "mapping_amd64", "--json"]);
    assert!(!text.to_lowercase().contains("hunter2"), "{text}");
    let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let find = |path: &str| values.iter().find(|value| value["path"] == path).unwrap();
    assert_eq!(find("vm.ram")["value"], 512);
    assert_eq!(find("vm.ram")["file"], "setup_vm/platforms/mapping.yaml");
    assert_eq!(find("vm.ram")["line"], 14);
    assert_eq!(find("vm.metadata.auth.password")["value"], serde_json::Value::Null);
}

#[test]
fn domain_xml_of_a_machine() {
    let xml = machines(&["--xml", "mapping_amd64"]);
    insta::assert_snapshot!("xml-mapping", xml);
}

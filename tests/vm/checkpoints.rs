//! Checkpoints in files of their own, beside the disks.

use std::fs;

use serde_json::Value;

use crate::farm::Farm;

const PLATFORM: &str = "farm/setup_vm/platforms/debian_vs.yaml";

fn list(farm: &Farm, machine: &str) -> Vec<Value> {
    serde_json::from_str(&farm.prints(&["snapshot", "list", machine, "--json"])).unwrap()
}

#[test]
fn external_checkpoints_are_restored_made_anew_pruned_and_leave_nothing() {
    let farm = Farm::example();
    let machine = farm.machine("debian_vs");
    // The host may have much to do beside this.
    farm.edit("farm/farm.yaml", |text| text + "\nconnection_timeout: 600\n");
    farm.edit(PLATFORM, |text| text.replace("  metadata:\n", "  metadata:\n    snapshot_type: external\n"));
    farm.up(&[&machine]).passed();
    let checkpoints = list(&farm, &machine);
    let names: Vec<_> = checkpoints.iter().map(|row| row["snapshot"].as_str().unwrap()).collect();
    assert_eq!(names, ["clean", "example_02.0.dependencies", "example_02.0.init"]);
    for row in &checkpoints {
        assert_eq!(
            (row["kind"].as_str(), row["checkpoint"].as_str()),
            (Some("external"), Some("valid")),
            "{row}"
        );
        assert!(row["memory"] == true && row["size"].as_u64().unwrap() > 10 << 20, "{row}");
    }

    // The next run goes on from the deepest one, and the guest is as it was.
    let again = farm.up(&[&machine]);
    assert_eq!(again.passed().operations(&machine), ["restore init", "main", "terminate", "shutdown"]);
    assert!(farm.in_guest("debian_vs", "curl --version").contains("curl"));

    // What stands on a changed one goes before it.
    farm.edit("farm/provisioning_phases/debian_vs/dependencies.yaml", |text| {
        text.replace("[curl]", "[curl, tree]")
    });
    let changed = farm.up(&[&machine]);
    let operations = changed.passed().operations(&machine);
    let expected =
        ["restore clean", "dependencies", "discard init", "discard dependencies", "create dependencies"];
    assert_eq!(operations[..5], expected);

    // Those of another revision are wanted no more.
    farm.edit("farm/farm.yaml", |text| text.replace("revision: 0", "revision: 1"));
    let would = farm.prints(&["snapshot", "prune", "--unreachable", "--dry-run"]);
    let expected = "debian_vs: example_02.0.init would be deleted\ndebian_vs: example_02.0.dependencies would be deleted\n";
    assert_eq!(would, expected);
    farm.prints(&["snapshot", "prune", "--unreachable"]);
    assert_eq!(list(&farm, &machine).len(), 1);
    let left: Vec<_> = fs::read_dir(farm.path("home/data/machines").join(&machine))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file.contains("dependencies") || file.contains("init"))
        .collect();
    assert!(left.iter().all(|file| !file.ends_with(".save")), "{left:?}");

    farm.prints(&["destroy", &machine]);
    assert_eq!(farm.traces(), Vec::<String>::new());
}

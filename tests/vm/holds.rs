//! Two runs at once, and runs that are killed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use serde_json::Value;

use crate::farm::Farm;

/// A run in the background, killed at the end in any case.
struct Running {
    child: Child,
    events: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn up(farm: &Farm, machine: &str) -> Self {
        let mut command = farm.command();
        command.args(["up", "--json", machine]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, events }
    }

    /// Waits until an operation begins.
    fn until(&mut self, operation: &str) {
        let mut failures = Vec::new();
        for line in self.events.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let is_it = event["operation"] == operation || event["phase"] == operation;
            match event["event"].as_str() {
                Some("operation-started") if is_it => return,
                Some("operation-failed") => failures.push(event),
                _ => {}
            }
        }
        panic!("the run ended before {operation}: {failures:#?}");
    }

    /// `kill -9`
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_run_at_a_time_and_what_a_killed_one_leaves_is_put_right() {
    let farm = Farm::example();
    let machine = farm.machine("debian_vs");
    // The host may have much to do beside this.
    farm.edit("farm/farm.yaml", |text| text + "\nconnection_timeout: 600\n");

    // Killed while it makes the machine: all of it goes.
    let mut run = Running::up(&farm, &machine);
    run.until("startup");
    run.kill();
    assert!(!farm.traces().is_empty());
    let would = farm.prints(&["prune", "--leaks", "--dry-run"]);
    assert!(would.starts_with("debian_vs: would be removed"), "{would}");
    let done = farm.prints(&["prune", "--leaks"]);
    assert!(done.starts_with("debian_vs: removed"), "{done}");
    assert_eq!(farm.traces(), Vec::<String>::new());
    assert_eq!(farm.prints(&["prune", "--leaks"]), "nothing is left over\n");

    // While a run works on it, no other does: with the same folder, and with another one, as if from elsewhere.
    let mut run = Running::up(&farm, &machine);
    run.until("dependencies");
    let pid = format!("process {} on", run.child.id());
    for home in ["home", "other-home"] {
        for arguments in [&["destroy", &machine][..], &["snapshot", "revert", &machine, "clean"]] {
            let mut command = farm.command();
            let output = command.env("FARMHAND_HOME", farm.path(home)).args(arguments).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && message.contains(&pid), "{arguments:?}: {message}");
        }
    }
    // Nor does it take it for a leftover.
    assert_eq!(farm.prints(&["prune", "--leaks"]), "nothing is left over\n");

    // Killed while it works on it: the next run powers it off, and goes on from what is there.
    run.kill();
    let next = farm.up(&[&machine]);
    assert_eq!(next.passed().operations(&machine)[..2], ["restore clean", "dependencies"]);
    let told = next.events[1]["line"].as_str().unwrap();
    assert!(told.starts_with("powered off: a run was killed"), "{told}");

    // Disks that belong to no domain are removed on demand only.
    let lost = farm.path("home/data/machines/lost");
    fs::create_dir(&lost).unwrap();
    farm.up(&[&machine]).passed();
    assert!(lost.exists());
    let done = farm.prints(&["prune", "--leaks"]);
    assert_eq!(done, "lost: removed: its disks belong to no domain\n");
    assert!(!lost.exists());

    farm.prints(&["destroy", &machine]);
    assert_eq!(farm.traces(), Vec::<String>::new());
}

//! Runs that are killed at any instant, and runs that are interrupted: the next one goes on, and nothing is left behind.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::farm::Farm;

/// What the runs that are killed start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Nothing,
    Dependencies,
    Init,
    Main,
}

/// How many runs are killed from each start, 30 in all. A first run takes longest.
const KILLS: [(From, u32); 4] =
    [(From::Nothing, 4), (From::Dependencies, 8), (From::Init, 8), (From::Main, 10)];

/// A farm whose phases leave a line each in a file of the guest. `main` fails when what it finds there is not what the
/// checkpoints below it must hold.
struct TracedFarm {
    farm: Farm,
    /// The editions of `dependencies` and `init`.
    editions: [u32; 2],
}

impl TracedFarm {
    fn new() -> Self {
        let farm = Farm::example();
        // Other tests' machines may boot at the same time.
        farm.edit("farm/farm.yaml", |text| text + "\nconnection_timeout: 600\n");
        // Guests of several virtual CPUs are now and then QEMU's end under TCG (an assertion of its own); that is not tried here.
        farm.edit("farm/setup_vm/platforms/defaults.yaml", |text| text.replace("vcpus: 2", "vcpus: 1"));
        for platform in ["debian_vs", "Arch-Linux"] {
            fs::remove_dir_all(farm.path(&format!("farm/provisioning_phases/{platform}"))).unwrap();
        }
        let traced = Self { farm, editions: [0; 2] };
        traced.write();
        traced
    }

    fn write(&self) {
        let [dependencies, init] = self.editions;
        let phase = |name: &str, text: String| {
            fs::write(self.farm.path(&format!("farm/provisioning_phases/{name}.yaml")), text).unwrap();
        };
        let leave = |line: String| format!("- run: echo {line} >> trace\n");
        phase("dependencies", leave(format!("dependencies-{dependencies}")));
        phase("init", leave(format!("init-{init}")));
        let found = format!("dependencies-{dependencies} init-{init}");
        phase("main", format!("- run: test \"$(xargs < trace)\" = '{found}'\n{}", leave("main".into())));
        phase("terminate", leave("terminate".into()));
    }

    /// Makes a run start from there.
    fn begin(&mut self, from: From) {
        match from {
            From::Nothing => drop(self.farm.prints(&["destroy"])),
            From::Dependencies => self.editions[0] += 1,
            From::Init => self.editions[1] += 1,
            From::Main => {}
        }
        self.write();
    }

    fn passes(&self) {
        self.farm.up(&["--jobs", "2"]).passed();
    }

    /// What there is after a run: each snapshot and whether it is valid, the state of each machine, and what is left on this
    /// host.
    fn outcome(&self) -> (Vec<String>, Vec<String>) {
        let list = |arguments: &[&str]| -> Vec<Value> {
            serde_json::from_str(&self.farm.prints(arguments)).unwrap()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let snapshots = list(&["snapshot", "list", "--json"]);
        let machines = list(&["status", "--json"]);
        let mut outcome: Vec<_> = snapshots
            .iter()
            .map(|row| ["machine", "snapshot", "checkpoint"].map(|key| text(&row[key])).join(" "))
            .chain(machines.iter().map(|row| ["machine", "state"].map(|key| text(&row[key])).join(" ")))
            .collect();
        outcome.sort();
        let mut left = self.farm.traces();
        left.extend(self.farm.temporary_files());
        left.sort();
        (outcome, left)
    }
}

/// Kills a run after some time, as `kill -9` does. Gives whether it still went on then.
fn kill_after(mut run: Child, delay: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < delay {
        if run.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20).min(delay.saturating_sub(begun.elapsed())));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    true
}

#[test]
fn a_run_that_is_killed_at_any_instant_is_gone_on_with() {
    let mut traced = TracedFarm::new();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    eprintln!("seed: {seed}");
    traced.passes();
    let undisturbed = traced.outcome();
    assert_eq!(undisturbed.0.len(), 2 * (3 + 1), "{undisturbed:?}");
    for (from, kills) in KILLS {
        // How long such a run takes, so that it is killed in each of its parts.
        traced.begin(from);
        let begun = Instant::now();
        traced.passes();
        let mut took = begun.elapsed();
        let mut killed = 0;
        while killed < kills {
            traced.begin(from);
            let (begun, delay) = (Instant::now(), took.mul_f64(random.f64()));
            if !kill_after(traced.farm.start(&["up", "--json", "--jobs", "2"]), delay) {
                // It was faster than the one before.
                took = begun.elapsed();
                continue;
            }
            killed += 1;
            traced.passes();
            let outcome = traced.outcome();
            assert_eq!(outcome, undisturbed, "killed after {delay:?} of a run from {from:?} (seed {seed})");
        }
    }
    traced.farm.prints(&["destroy"]);
    assert_eq!(traced.farm.traces(), Vec::<String>::new());
    assert_eq!(traced.farm.temporary_files(), Vec::<String>::new());
}

#[test]
fn an_interrupted_run_ends_gently() {
    let mut traced = TracedFarm::new();
    let slow = "- run: echo slept >> slept; echo begun; sleep 600; echo never >> slept\n";
    let main = traced.farm.path("farm/provisioning_phases/main.yaml");
    fs::write(&main, slow).unwrap();
    let arch = traced.farm.machine("Arch-Linux");
    let run = traced.farm.start(&["up", "--json", &arch]);
    let pid = Pid::from_child(&run);
    let events = traced.farm.read_until(run, |event| {
        let begun = event["event"] == "output" && event["line"] == "begun";
        if begun {
            kill_process(pid, Signal::INT).unwrap();
        }
    });
    assert_eq!(events.code, 130, "{}", events.stderr);
    let operations = events.operations(&arch);
    assert_eq!(operations[operations.len() - 3..], ["main", "terminate", "shutdown"]);
    assert_eq!(events.failure(&arch)["causes"][0], "interrupted");
    // The command was ended, and not forgotten in the guest; the next run goes on from what there is.
    traced.editions = [0; 2];
    traced.write();
    let next = traced.farm.up(&[&arch]);
    next.passed();
    assert_eq!(next.operations(&arch), ["restore init", "main", "terminate", "shutdown"]);
}

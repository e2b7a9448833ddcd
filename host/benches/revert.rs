//! How long it takes from the wish to go back to a checkpoint to the first command's end, for each way to a machine, beside what
//! `virsh snapshot-revert` alone takes: `cargo bench --bench revert`. It needs what the tests on real machines need.
//!
//! All machines are alike and are shut off before; the ways take turns, so that what else the host does meets all of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../../tests/vm/farm.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod farm;
#[path = "../../tests/vm/isolated.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod isolated;

use std::{collections::BTreeMap, time::Instant};

use serde_json::Value;

use self::{
    farm::{Farm, Run},
    isolated::Isolated,
};

const ROUNDS: usize = 7;

/// The platforms' names, and what `vm` says for each.
const WAYS: [(&str, &str); 3] = [
    ("user", "net: { type: user }"),
    ("network", "net: { type: network, source: lab }"),
    ("agent", "net: { type: network, source: lab }"),
];

fn main() {
    // `cargo test --benches` runs this, too, to see that it works: once would not be enough to say anything.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let isolated = Isolated::start();
    let make = |hypervisor: &str| {
        let farm = Farm::of_debian(&WAYS, hypervisor);
        farm.edit("farm/setup_vm/platforms/agent.yaml", |text| {
            text.replace("  metadata:\n", "  metadata:\n    transport: agent\n")
        });
        farm
    };
    let here = make("{ name: here }").inside(&isolated.inside());
    let far = make(&format!("{{ name: far, uri: \"{}\" }}", isolated.uri));
    for farm in [&here, &far] {
        farm.up(&["--jobs", "2"]).passed();
    }
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut note = |way: String, seconds: f64| times.entry(way).or_default().push(seconds);
    for _ in 0..ROUNDS {
        for (platform, _) in WAYS {
            for (where_, farm) in [("here", &here), ("by SSH", &far)] {
                let machine = farm.machine(platform);
                let run = farm.up(&[&machine]);
                run.passed();
                note(format!("farmhand, {platform}, {where_}"), first_command(&run));
            }
            let machine = here.machine(platform);
            let begun = Instant::now();
            isolated.virsh(&["snapshot-revert", &machine, "far.0.init"]);
            note(format!("virsh snapshot-revert, {platform}"), begun.elapsed().as_secs_f64());
            isolated.virsh(&["destroy", &machine]);
        }
    }
    println!("seconds: minimum / median of {ROUNDS}");
    for (way, mut seconds) in times {
        seconds.sort_by(f64::total_cmp);
        println!("{way:40} {:5.2} / {:5.2}", seconds[0], seconds[ROUNDS / 2]);
    }
}

/// From the beginning of the restore to the end of the first step.
fn first_command(run: &Run) -> f64 {
    let at = |found: &dyn Fn(&Value) -> bool| {
        let event = run.events.iter().find(|event| found(event)).expect("it is an event of each run");
        let at: jiff::Timestamp = event["at"].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    let begun = at(&|event| event["event"] == "operation-started" && event["operation"] == "restore");
    let done = at(&|event| event["event"] == "step-finished");
    (done - begun) as f64 / 1e3
}

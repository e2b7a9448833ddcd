//! Runs that end before all machines have had their turn, and machines that wait for theirs.

use std::{num::NonZeroUsize, time::Duration};

use super::{
    modules::Behaviour,
    support::{Ran, World},
};
use crate::{
    base::{Checkpoint, Phase},
    farm::Gate,
    hypervisor::{DomainState, Hypervisor as _, simulated::Method},
    plan::Capacity,
    run::{Event, Summary},
};

fn skipped(ran: &Ran) -> Vec<String> {
    let skipped = |event: &Event| match event {
        Event::MachineSkipped { machine, reason } => Some(format!("{machine}: {reason}")),
        _ => None,
    };
    ran.events.iter().filter_map(skipped).collect()
}

#[tokio::test(start_paused = true)]
async fn no_machine_is_begun_after_too_many_failed() {
    let mut world = World::new(["a", "b", "c", "d"]);
    world.at_once = NonZeroUsize::new(2);
    world.max_failures = NonZeroUsize::new(1);
    world.modules.set("a", Phase::Dependencies, Behaviour::Fail);
    let ran = world.up().await;
    assert_eq!(ran.summary, Some(Summary { passed: 1, failed: 1, skipped: 2 }));
    let reason = "1 failed, and no more may (max_failures)";
    assert_eq!(skipped(&ran), [format!("c: {reason}"), format!("d: {reason}")]);
    assert_eq!(ran.ended("b"), None, "what was begun is finished");
    assert!(world.hypervisor.look("c").is_none());
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_run_ends_gently_and_the_next_one_goes_on() {
    let clean = World::new(["a", "b", "c"]);
    clean.passes().await;
    // At every half second of a first run.
    for half_seconds in 0..14 {
        let mut world = World::new(["a", "b", "c"]);
        world.at_once = NonZeroUsize::new(2);
        let stop = world.stop.clone();
        let interrupt = async move {
            tokio::time::sleep(Duration::from_millis(500 * half_seconds)).await;
            stop.cancel();
        };
        let (ran, ()) = tokio::join!(world.up(), interrupt);
        let summary = ran.summary.unwrap();
        assert_eq!(summary.passed + summary.failed + summary.skipped, 3);
        for machine in ["a", "b"] {
            let Some(failure) = ran.ended(machine) else { continue };
            assert_eq!(failure.causes, ["interrupted"]);
            let operations = ran.operations(machine);
            assert_eq!(operations.last().map(String::as_str), Some("shutdown"), "{operations:?}");
            let began = world.modules.calls(machine);
            let ended = began.iter().filter(|phase| **phase == Phase::Terminate).count();
            assert_eq!(ended, usize::from(!began.is_empty()), "terminate runs once: {began:?}");
            if let Some((domain, _)) = world.hypervisor.look(machine) {
                assert_eq!(domain.state, DomainState::ShutOff);
            }
        }
        let again = world.fork();
        again.passes().await;
        for machine in ["a", "b", "c"] {
            assert_eq!(again.state(machine), clean.state(machine), "interrupted at {half_seconds}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn machines_wait_until_the_hypervisor_has_memory_for_them() {
    let mut world = World::new(["a", "b", "c", "d"]);
    let ram = world.farm.machines["a"].ram;
    world.capacity = Capacity { memory: 2 * ram + ram / 2, ..Capacity::UNBOUNDED };
    world.passes().await;
    assert_eq!(world.modules.most_busy(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_another_run_changed_meanwhile_is_planned_for_anew() {
    let world = World::new(["a"]);
    let stale = world.plan().await;
    world.passes().await;
    let made = world.state("a");
    // This run was planned when there was no machine; to install it would lose what the other one did.
    let ran = world.carry_out(stale).await;
    assert_eq!(ran.operations("a"), ["restore init", "main", "terminate", "shutdown"]);
    assert!(ran.events.iter().any(|event| matches!(event, Event::Replanned { .. })));
    assert_eq!(world.state("a"), made);
    // A checkpoint that was deleted meanwhile is not asked for.
    let stale = world.plan().await;
    world.hypervisor.delete_snapshot("a", &Checkpoint::Init.snapshot_name("p", "0")).await.unwrap();
    let ran = world.carry_out(stale).await;
    assert_eq!(ran.operations("a")[..2], ["restore dependencies", "init"]);
    let reverts = world.hypervisor.calls().iter().filter(|call| call.method == Method::Revert).count();
    assert_eq!(reverts, 1);
}

#[tokio::test(start_paused = true)]
async fn machines_that_are_left_running_keep_their_memory() {
    let mut world = World::new(["a", "b", "c", "d"]);
    let one = world.farm.machines["a"].ram;
    world.capacity.memory = 2 * one;
    world.allowed.remove(&Gate::Shutdown);
    let ran = world.up().await;
    assert_eq!(ran.summary, Some(Summary { passed: 2, failed: 0, skipped: 2 }));
    let skipped = skipped(&ran);
    assert_eq!(skipped.len(), 2);
    for (machine, skipped) in ["c: ", "d: "].iter().zip(&skipped) {
        assert!(skipped.starts_with(machine) && skipped.contains("--only shutdown"), "{skipped}");
    }
    // Those that run are worked on again, and with them off there is room for the others.
    let ran = world.up().await;
    assert_eq!(ran.summary, Some(Summary { passed: 2, failed: 0, skipped: 2 }));
    world.allowed.insert(Gate::Shutdown);
    world.passes().await;
}

//! What runs do when something goes wrong.

use std::sync::Arc;

use super::{
    modules::Behaviour,
    support::{Ran, World},
};
use crate::{
    base::{Checkpoint, Phase},
    hypervisor::{
        DomainState, Hypervisor,
        simulated::{Call, Fault, Method},
    },
    run::{Locks, Summary},
};

const ONE_FAILED: Option<Summary> = Some(Summary { passed: 1, failed: 1, skipped: 0 });

/// The machine `b` is not touched by what happens to `a`: it is as after a clean first run.
async fn assert_b_is_fine(world: &World, ran: &Ran) {
    assert_eq!(ran.summary, ONE_FAILED);
    assert_eq!(ran.ended("b"), None);
    let clean = World::new(["b"]);
    clean.passes().await;
    assert_eq!(world.state("b"), clean.state("b"));
}

/// The next run, with everything mended, leaves `a` as a first run leaves it.
async fn assert_a_recovers(world: &World) {
    world.modules.mend();
    world.passes().await;
    let clean = World::new(["a"]);
    clean.passes().await;
    assert_eq!(world.state("a"), clean.state("a"));
}

#[tokio::test(start_paused = true)]
async fn failing_step_fails_its_machine_alone_and_terminate_still_runs() {
    for behaviour in [Behaviour::Fail, Behaviour::Trap, Behaviour::Hang] {
        let world = World::new(["a", "b"]);
        world.modules.set("a", Phase::Dependencies, behaviour);
        let ran = world.up().await;
        let expected = ["install", "startup", "create clean", "dependencies", "terminate", "shutdown"];
        assert_eq!(ran.operations("a"), expected, "{behaviour:?}");
        assert_eq!(world.modules.calls("a"), [Phase::Dependencies, Phase::Terminate]);
        let failure = ran.failure("a");
        assert_eq!(
            (failure.during.as_str(), failure.step.as_deref()),
            ("dependencies", Some("do dependencies"))
        );
        assert_eq!(failure.last_output, ["working on dependencies"]);
        let reason = match behaviour {
            Behaviour::Fail => "make: *** [all] Error 2",
            Behaviour::Trap => "module dependencies 0 crashed: unreachable executed",
            _ => "module dependencies 0 was stopped: it took longer than 600 s (limit: time-out of the step)",
        };
        assert_eq!(failure.causes, ["step `do dependencies` failed", reason]);
        assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::ShutOff);
        let checkpoints: Vec<_> = world.state("a").checkpoints.into_keys().collect();
        assert_eq!(checkpoints, ["clean"]);
        assert_b_is_fine(&world, &ran).await;

        assert_a_recovers(&world).await;
        assert_eq!(world.modules.calls("a"), Phase::ALL);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_machines_also_when_terminate_fails_too() {
    let world = World::new(["a", "b"]);
    world.modules.set("a", Phase::Main, Behaviour::Fail);
    world.modules.set("a", Phase::Terminate, Behaviour::Trap);
    let ran = world.up().await;
    assert_eq!(ran.failure("a").during, "main");
    assert_eq!(ran.operations("a").last().map(String::as_str), Some("shutdown"));
    assert_b_is_fine(&world, &ran).await;
    // What is above the last checkpoint was not lost.
    assert_a_recovers(&world).await;
    assert_eq!(world.modules.calls("a"), [Phase::Main, Phase::Terminate]);
}

#[tokio::test(start_paused = true)]
async fn connection_that_breaks_in_a_phase_is_made_again_for_terminate() {
    let world = World::new(["a", "b"]);
    world.at("a", "main", |_, guest| guest.disconnect_at(0));
    let ran = world.up().await;
    let failure = ran.failure("a");
    assert_eq!(failure.during, "main");
    assert!(failure.causes[1].contains("the connection to the guest was lost"), "{:?}", failure.causes);
    assert_eq!(world.modules.calls("a"), Phase::ALL);
    assert_eq!(world.hypervisor.disk("a").last().unwrap(), "terminate 0");
    assert_b_is_fine(&world, &ran).await;
}

#[tokio::test(start_paused = true)]
async fn panic_takes_one_machine_down_and_no_other() {
    let world = World::new(["a", "b"]);
    world.modules.set("a", Phase::Init, Behaviour::Panic);
    let ran = world.up().await;
    let failure = ran.failure("a");
    assert_eq!(failure.during, "init");
    assert!(failure.causes.concat().contains("a bug in farmhand"), "{failure:?}");
    assert_eq!(world.modules.calls("a"), [Phase::Dependencies, Phase::Init, Phase::Terminate]);
    assert_b_is_fine(&world, &ran).await;
    assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::ShutOff);
    assert_a_recovers(&world).await;
    assert_eq!(world.modules.calls("a"), [Phase::Init, Phase::Main, Phase::Terminate]);
}

#[tokio::test(start_paused = true)]
async fn refused_checkpoint_is_an_error_in_the_hypervisors_words() {
    let world = World::new(["a", "b"]);
    let jobs = world.plan().await;
    let refused = "internal error: no space left on device";
    world.hypervisor.inject_after(1, Method::CreateSnapshot, Some("a"), Fault::Fail(refused.into()));
    let ran = world.carry_out(jobs).await;
    let failure = ran.failure("a");
    assert_eq!(failure.during, "create dependencies");
    assert!(failure.causes.concat().contains(refused), "{failure:?}");
    // Nothing above it ran, and nothing was begun from the top.
    assert_eq!(world.modules.calls("a"), [Phase::Dependencies, Phase::Terminate]);
    let operations = ran.operations("a");
    assert_eq!(operations.iter().filter(|operation| *operation == "install").count(), 1);
    assert_eq!(operations[operations.len() - 3..], ["create dependencies", "terminate", "shutdown"]);
    assert_b_is_fine(&world, &ran).await;
    assert_a_recovers(&world).await;
}

#[tokio::test(start_paused = true)]
async fn failed_restore_leaves_terminate_out_for_there_is_no_guest() {
    let world = World::new(["a", "b"]);
    world.passes().await;
    let jobs = world.plan().await;
    let refused = "internal error: Error -22 while loading VM state";
    world.hypervisor.inject(Method::Revert, Some("a"), Fault::Fail(refused.into()));
    let ran = world.carry_out(jobs).await;
    assert_eq!(ran.operations("a"), ["restore init", "shutdown"]);
    assert_eq!(world.modules.calls("a"), []);
    let failure = ran.failure("a");
    assert!(failure.causes.concat().contains(refused), "{failure:?}");
    assert_eq!(world.state("a").checkpoints.len(), Checkpoint::ALL.len(), "no checkpoint is thrown away");
    assert_b_is_fine(&world, &ran).await;
    assert_a_recovers(&world).await;
}

#[tokio::test(start_paused = true)]
async fn image_that_cannot_be_had_leaves_the_machine_as_it_was() {
    let mut world = World::new(["a", "b"]);
    world.passes().await;
    let before = world.state("a");
    let reason = "it is a web page".to_owned();
    world.images.missing.lock().unwrap().insert("a".into(), reason.clone());
    world.fresh = true;
    let ran = world.up().await;
    assert_eq!(ran.operations("a"), ["install", "shutdown"]);
    let failure = ran.failure("a");
    assert_eq!(failure.causes[0], "can't get its disk 0");
    assert!(failure.causes[1].contains(&reason), "{failure:?}");
    let after = world.state("a");
    assert_eq!(after.checkpoints, before.checkpoints);
    assert!(world.images.disks.lock().unwrap().contains("a"));
    assert_b_is_fine(&world, &ran).await;
}

#[tokio::test(start_paused = true)]
async fn machine_that_another_run_works_on_is_not_touched() {
    let world = World::new(["a", "b"]);
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(world.hypervisor.clone());
    let locks = Locks::new(world.locks());
    let ran = locks.during(&hypervisor, "a", &|_| {}, world.up()).await.unwrap();
    let failure = ran.failure("a");
    assert_eq!(failure.during, "lock");
    assert!(failure.causes[0].contains("another farmhand works on a"), "{failure:?}");
    assert_eq!(ran.operations("a"), Vec::<String>::new());
    let calls = world.hypervisor.calls();
    let touches = |call: &&Call| call.domain == "a" && !matches!(call.method, Method::Lock | Method::Unlock);
    assert_eq!(calls.iter().find(touches), None);
    assert!(!calls.is_empty());
    assert_b_is_fine(&world, &ran).await;
    assert_a_recovers(&world).await;
}

#[tokio::test(start_paused = true)]
async fn guest_that_does_not_heed_the_power_button_loses_its_power() {
    let world = World::new(["a"]);
    world.at("a", "startup", |hypervisor, _| hypervisor.set_heeds_power_button("a", false));
    let ran = world.passes().await;
    assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::ShutOff);
    assert_eq!(ran.lines("a"), ["it did not shut down in time: pulling the plug"]);
}

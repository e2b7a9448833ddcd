//! Steps and phases that are tried again.

use std::time::Duration;

use super::{
    modules::Behaviour,
    support::{Ran, World},
};
use crate::{
    base::Phase,
    run::{Event, Summary},
};

fn retries(ran: &Ran) -> Vec<String> {
    let retry = |event: &Event| match event {
        Event::PhaseRetried { phase, retried, .. } => {
            Some(format!("{phase} {}/{}", retried.retry, retried.retries))
        }
        Event::StepRetried { name, retried, .. } => {
            Some(format!("{name} {}/{}", retried.retry, retried.retries))
        }
        _ => None,
    };
    ran.events.iter().filter_map(retry).collect()
}

#[tokio::test(start_paused = true)]
async fn a_phase_starts_again_from_where_it_started() {
    let clean = World::new(["a"]);
    clean.passes().await;
    for (phase, before) in [
        (Phase::Dependencies, vec![]),
        (Phase::Init, vec![Phase::Dependencies]),
        (Phase::Main, vec![Phase::Dependencies, Phase::Init]),
    ] {
        let mut world = World::new(["a"]);
        world.rules.of_mut(phase).retries = 2;
        world.modules.set_for("a", phase, Behaviour::Fail, 2);
        let ran = world.passes().await;
        assert_eq!(retries(&ran), [format!("{phase} 1/2"), format!("{phase} 2/2")]);
        let calls = [before, vec![phase; 3]].concat();
        assert_eq!(world.modules.calls("a")[..calls.len()], calls);
        assert_eq!(world.state("a"), clean.state("a"), "what the tries that failed left is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_fails_too_often_has_failed() {
    let mut world = World::new(["a"]);
    world.rules.of_mut(Phase::Init).retries = 2;
    world.modules.set("a", Phase::Init, Behaviour::Trap);
    let ran = world.up().await;
    assert_eq!(ran.failure("a").during, "init");
    assert_eq!(retries(&ran).len(), 2);
    let calls = [Phase::Dependencies, Phase::Init, Phase::Init, Phase::Init, Phase::Terminate];
    assert_eq!(world.modules.calls("a"), calls);
}

#[tokio::test(start_paused = true)]
async fn a_phase_may_take_no_longer_than_the_farm_lets_it() {
    let mut world = World::new(["a", "b"]);
    world.rules.of_mut(Phase::Main).timeout = Some(Duration::from_secs(90));
    world.modules.set("a", Phase::Main, Behaviour::Hang);
    let begun = tokio::time::Instant::now();
    let ran = world.up().await;
    assert!(begun.elapsed() < Duration::from_secs(200));
    let failure = ran.failure("a");
    assert_eq!(
        failure.causes,
        ["main was stopped: it took longer than 1m 30s (limit: per_phase.main.timeout)"]
    );
    assert_eq!(world.modules.calls("a"), Phase::ALL);
    assert_eq!(ran.summary, Some(Summary { passed: 1, failed: 1, skipped: 0 }));
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_on_the_guest_as_it_is() {
    let mut world = World::new(["a"]);
    world.edit_phase(Phase::Main, "- { name: flaky, uses: module, retries: 2, delay: 30 }\n");
    world.modules.set_for("a", Phase::Main, Behaviour::Fail, 2);
    let begun = tokio::time::Instant::now();
    let ran = world.passes().await;
    assert_eq!(retries(&ran), ["flaky 1/2", "flaky 2/2"]);
    assert!(begun.elapsed() >= Duration::from_secs(60), "two pauses of 30 s");
    assert_eq!(ran.operations("a").iter().filter(|operation| *operation == "restore init").count(), 0);
    let half = "half of main 0".to_owned();
    assert_eq!(world.hypervisor.disk("a").iter().filter(|line| **line == half).count(), 2);
}

//! What runs do when all goes well.

use std::{collections::BTreeMap, num::NonZeroUsize};

use super::support::{Ran, World};
use crate::{
    base::{Checkpoint, Phase},
    farm::Gate,
    hypervisor::{DomainState, Hypervisor as _, NewSnapshot},
    run::{Event, ports::favourite},
};

const FIRST: [&str; 10] = [
    "install",
    "startup",
    "create clean",
    "dependencies",
    "create dependencies",
    "init",
    "create init",
    "main",
    "terminate",
    "shutdown",
];

#[tokio::test(start_paused = true)]
async fn first_run_does_everything_and_makes_the_checkpoints() {
    let world = World::new(["a"]);
    let ran = world.passes().await;
    assert_eq!(ran.operations("a"), FIRST);
    assert_eq!(world.modules.calls("a"), Phase::ALL);

    let traces = |last| world.modules.traces(last);
    let mut expected = BTreeMap::new();
    for (checkpoint, disk) in [
        (Checkpoint::Clean, Vec::new()),
        (Checkpoint::Dependencies, traces(Phase::Dependencies)),
        (Checkpoint::Init, traces(Phase::Init)),
    ] {
        let description = world.description("a", checkpoint).await;
        expected.insert(checkpoint.snapshot_name("p", "0"), (description, disk));
    }
    let state = world.state("a");
    assert_eq!(state.checkpoints, expected);
    assert_eq!(state.disk, traces(Phase::Terminate));
    assert_eq!(state.state, DomainState::ShutOff);
}

#[tokio::test(start_paused = true)]
async fn second_run_restores_init_and_does_what_lies_above_it() {
    let world = World::new(["a"]);
    world.passes().await;
    let first = world.state("a");
    let ran = world.passes().await;
    assert_eq!(ran.operations("a"), ["restore init", "main", "terminate", "shutdown"]);
    assert_eq!(world.modules.calls("a"), [Phase::Main, Phase::Terminate]);
    assert_eq!(world.state("a"), first);
}

#[tokio::test(start_paused = true)]
async fn changed_module_makes_its_checkpoint_and_those_above_anew() {
    let world = World::new(["a"]);
    world.passes().await;
    let first = world.state("a");
    world.modules.edit(Phase::Init);
    world.passes().await;
    assert_eq!(world.modules.calls("a"), [Phase::Init, Phase::Main, Phase::Terminate]);
    let second = world.state("a");
    let changed = |name: &&String| first.checkpoints[*name] != second.checkpoints[*name];
    assert_eq!(first.checkpoints.keys().filter(changed).collect::<Vec<_>>(), ["p.0.init"]);
    assert_eq!(second.checkpoints["p.0.init"].1, world.modules.traces(Phase::Init));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_of_a_machine_that_was_off_is_booted() {
    let world = World::new(["a"]);
    world.passes().await;
    let checkpoint = NewSnapshot {
        name: "p.0.init".into(),
        description: world.description("a", Checkpoint::Init).await,
        ..NewSnapshot::default()
    };
    world.hypervisor.revert("a", &checkpoint.name).await.unwrap();
    world.hypervisor.destroy("a").await.unwrap();
    world.hypervisor.delete_snapshot("a", &checkpoint.name).await.unwrap();
    world.hypervisor.create_snapshot("a", &checkpoint).await.unwrap();
    let begun = tokio::time::Instant::now();
    let ran = world.passes().await;
    assert_eq!(ran.operations("a"), ["restore init", "startup", "main", "terminate", "shutdown"]);
    assert!(begun.elapsed().as_secs() < 60, "nobody waited for a machine that is off");
    assert_eq!(world.hypervisor.disk("a"), world.modules.traces(Phase::Terminate));
}

#[tokio::test(start_paused = true)]
async fn only_what_is_allowed_is_done() {
    let mut world = World::new(["a"]);
    world.passes().await;
    world.allowed = [Gate::Restore(Checkpoint::Dependencies), Gate::Phase(Phase::Main)].into_iter().collect();
    let ran = world.passes().await;
    assert_eq!(ran.operations("a"), ["restore dependencies", "main"]);
    assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::Running);
    // The machine runs on, and the next run goes on with it as it is.
    world.allowed = [Gate::Phase(Phase::Terminate)].into_iter().collect();
    let ran = world.passes().await;
    assert_eq!(ran.operations("a"), ["terminate"]);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_whole_run() {
    let world = World::new(["a"]);
    let ran = world.passes().await;
    let step: Vec<_> = ran
        .events
        .iter()
        .filter_map(|event| match event {
            Event::StepStarted { phase, index, count, name, .. } => {
                Some(format!("{phase} {index}/{count} {name}"))
            }
            Event::StepFinished { name, changed, summary, seconds, .. } => {
                assert!(*seconds >= 0.0);
                Some(format!("{name}: {changed} {summary}"))
            }
            Event::Output { line, .. } => Some(format!("| {line}")),
            _ => None,
        })
        .take(3)
        .collect();
    let expected = [
        "dependencies 1/1 do dependencies",
        "| working on dependencies",
        "do dependencies: true dependencies done",
    ];
    assert_eq!(step, expected);
    assert!(
        matches!(&ran.events[0], Event::RunStarted { project, plans, .. } if project == "p" && plans.len() == 1)
    );
    assert!(matches!(ran.events.last(), Some(Event::RunFinished { passed: 1, failed: 0, skipped: 0, .. })));
    let begun = ran.events.iter().filter(|event| matches!(event, Event::OperationStarted { .. })).count();
    let ended = ran.events.iter().filter(|event| matches!(event, Event::OperationFinished { .. })).count();
    assert_eq!((begun, ended), (FIRST.len(), FIRST.len()));
}

/// How many modules ran at once, at most, in a run of four machines.
async fn most_at_once(at_once: Option<usize>) -> usize {
    let mut world = World::new(["a", "b", "c", "d"]);
    world.at_once = at_once.and_then(NonZeroUsize::new);
    world.passes().await;
    world.modules.most_busy()
}

#[tokio::test(start_paused = true)]
async fn no_more_machines_than_asked_for_are_worked_on_at_once() {
    assert_eq!(most_at_once(Some(1)).await, 1);
    assert_eq!(most_at_once(Some(3)).await, 3);
    assert_eq!(most_at_once(None).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_failed_gives_its_place_to_the_next_one() {
    let mut world = World::new(["a", "b"]);
    world.at_once = NonZeroUsize::new(1);
    world.modules.set("a", Phase::Main, super::modules::Behaviour::Panic);
    let ran: Ran = world.up().await;
    assert!(ran.ended("a").is_some());
    assert_eq!(ran.ended("b"), None);
}

/// Two names whose machines would like to have the same port.
fn rivals() -> [String; 2] {
    let mut seen = BTreeMap::new();
    for number in 0.. {
        let name = format!("m{number}");
        if let Some(other) = seen.insert(favourite(&name), name.clone()) {
            return [other, name];
        }
    }
    unreachable!("there are fewer ports than numbers")
}

#[tokio::test(start_paused = true)]
async fn machines_that_are_made_at_once_get_different_ports_and_keep_them() {
    let [one, other] = rivals();
    let mut world = World::new([&one, &other]);
    let port = |world: &World, name: &str| world.hypervisor.look(name).unwrap().0.ssh_port.unwrap();
    world.passes().await;
    let ports = [port(&world, &one), port(&world, &other)];
    assert_ne!(ports[0], ports[1]);
    // A port that some process listens on is left alone.
    let free = ports.map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    world.fresh = true;
    world.passes().await;
    let next = [port(&world, &one), port(&world, &other)];
    assert!(next.iter().all(|port| !ports.contains(port)), "{ports:?} {next:?}");
    drop(free);
}

//! Checkpoints of all kinds.

use std::sync::atomic::Ordering;

use super::{modules::Behaviour, support::World};
use crate::{
    base::{Phase, SnapshotKind},
    farm::Gate,
    hypervisor::{
        DomainState,
        simulated::{Fault, Method},
    },
    plan::GateChoice,
};

fn kinds(world: &World) -> Vec<(SnapshotKind, bool)> {
    let (_, snapshots) = world.hypervisor.look("a").unwrap();
    snapshots.iter().map(|snapshot| (snapshot.kind, snapshot.live)).collect()
}

#[tokio::test(start_paused = true)]
async fn external_ones_are_used_as_internal_ones_are() {
    let mut world = World::new(["a"]);
    world.add_metadata("a", "snapshot_type: external");
    world.passes().await;
    assert_eq!(kinds(&world), [(SnapshotKind::External, true); 3]);
    assert_eq!(world.passes().await.operations("a"), ["restore init", "main", "terminate", "shutdown"]);
    world.modules.edit(Phase::Dependencies);
    let ran = world.passes().await;
    assert_eq!(ran.operations("a")[..3], ["restore clean", "dependencies", "discard init"]);
    assert_eq!(kinds(&world), [(SnapshotKind::External, true); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_shut_down_for_one_of_its_disks_alone_and_boots_after_a_restore() {
    let mut world = World::new(["a"]);
    world.add_metadata("a", "snapshot_type: disk");
    world.passes().await;
    assert_eq!(kinds(&world), [(SnapshotKind::Disk, false); 3]);
    let calls = world.hypervisor.calls();
    let starts = calls.iter().filter(|call| call.method == Method::Start).count();
    assert_eq!(starts, 4, "at first, and after each checkpoint");
    let again = ["restore init", "startup", "main", "terminate", "shutdown"];
    assert_eq!(world.passes().await.operations("a"), again);

    // A machine that does not go on after its checkpoint fails there, and its checkpoint holds.
    world.modules.edit(Phase::Init);
    world.hypervisor.inject_after(1, Method::Start, Some("a"), Fault::Fail("no memory".into()));
    let ran = world.up().await;
    assert_eq!(ran.failure("a").during, "create init");
    assert_eq!(world.hypervisor.look("a").unwrap().0.state, DomainState::ShutOff);
    assert_eq!(world.passes().await.operations("a"), again);
}

#[tokio::test(start_paused = true)]
async fn another_kind_installs_anew() {
    let mut world = World::new(["a"]);
    world.passes().await;
    world.add_metadata("a", "snapshot_type: internal");
    assert_eq!(world.passes().await.operations("a")[0], "restore init", "it is what they are");
    let mut world = World::new(["a"]);
    world.passes().await;
    world.add_metadata("a", "snapshot_type: disk");
    assert_eq!(world.passes().await.operations("a")[0], "install");
    assert_eq!(kinds(&world), [(SnapshotKind::Disk, false); 3]);
}

#[tokio::test(start_paused = true)]
async fn what_the_hypervisor_refuses_is_told_in_its_words_and_done_by_no_other_way() {
    let world = World::new(["a"]);
    world.passes().await;
    let words = "internal snapshots of a VM with pflash based firmware are not supported";
    world.hypervisor.inject(Method::Revert, Some("a"), Fault::Fail(words.into()));
    let ran = world.up().await;
    assert_eq!(ran.operations("a"), ["restore init", "shutdown"]);
    assert!(ran.failure("a").causes[0].ends_with(words), "{:?}", ran.failure("a"));
    assert_eq!(kinds(&world).len(), 3);

    world.modules.edit(Phase::Init);
    world.hypervisor.inject(Method::CreateSnapshot, Some("a"), Fault::Fail(words.into()));
    let ran = world.up().await;
    assert_eq!(ran.failure("a").during, "create init");
    assert!(ran.failure("a").causes[0].ends_with(words), "{:?}", ran.failure("a"));
}

#[tokio::test(start_paused = true)]
async fn those_made_while_the_image_is_not_in_the_cache_hold() {
    let world = World::new(["a"]);
    world.passes().await;
    let restored = ["restore init", "main", "terminate", "shutdown"];
    world.images.forgotten.store(true, Ordering::Relaxed);
    assert_eq!(world.passes().await.operations("a"), restored);
    world.modules.edit(Phase::Dependencies);
    assert_eq!(world.passes().await.operations("a")[..2], ["restore clean", "dependencies"]);
    for forgotten in [true, false] {
        world.images.forgotten.store(forgotten, Ordering::Relaxed);
        assert_eq!(world.passes().await.operations("a"), restored, "{forgotten}");
    }
}

#[tokio::test(start_paused = true)]
async fn init_is_not_restored_over_dependencies_that_were_done_again_after_it() {
    for kind in ["internal", "external"] {
        let mut world = World::new(["a"]);
        world.add_metadata("a", &format!("snapshot_type: {kind}"));
        world.passes().await;
        // As `--from dependencies` does; and what comes after it fails, or is left out.
        let from = GateChoice { from: Some(Phase::Dependencies), ..GateChoice::default() };
        world.allowed = from.of(&Gate::all().collect()).unwrap();
        world.modules.set("a", Phase::Init, Behaviour::Fail);
        assert_eq!(world.up().await.failure("a").during, "init");
        world.modules.mend();
        world.allowed = Gate::all().collect();
        assert_eq!(world.passes().await.operations("a")[..2], ["restore dependencies", "init"], "{kind}");
        assert_eq!(world.passes().await.operations("a")[0], "restore init", "{kind}");
    }
    let mut world = World::new(["a"]);
    world.add_metadata("a", "snapshot_type: internal");
    world.passes().await;
    let only = GateChoice {
        from: Some(Phase::Dependencies),
        until: Some(Phase::Dependencies),
        ..GateChoice::default()
    };
    world.allowed = only.of(&Gate::all().collect()).unwrap();
    world.passes().await;
    world.allowed = Gate::all().collect();
    assert_eq!(world.passes().await.operations("a")[..2], ["restore dependencies", "init"]);
    assert_eq!(world.passes().await.operations("a")[0], "restore init");
}

//! Whatever goes wrong, at whatever call: the next run puts it right, and no other machine notices.

use std::collections::{BTreeSet, HashMap};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use tokio::runtime::{Builder, Runtime};

use super::{
    modules::Behaviour,
    support::{MachineState, World},
};
use crate::{
    base::Phase,
    hypervisor::simulated::{Fault, Method},
    run::Summary,
};

/// What was there before the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Before {
    Nothing,
    AllCheckpoints,
    /// All checkpoints, but this phase's module was edited since.
    Edited(Phase),
    /// All checkpoints, but the machine is to be made anew.
    Fresh,
}

const BEFORE: [Before; 5] = [
    Before::Nothing,
    Before::AllCheckpoints,
    Before::Edited(Phase::Dependencies),
    Before::Edited(Phase::Init),
    Before::Fresh,
];

/// What goes wrong with the machine `a`.
#[derive(Debug, Clone)]
enum Trouble {
    /// One of the calls to the hypervisor that a run without troubles makes.
    Call(Index, Fault),
    /// One of the modules that such a run calls.
    Module(Index, Behaviour),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    // A call that hangs stands for a run that is killed there.
    let faults = [
        Fault::Fail("refused".into()),
        Fault::FailAfter("lost".into()),
        Fault::HalfWay("died".into()),
        Fault::Hang,
    ];
    let behaviours = [Behaviour::Fail, Behaviour::Trap, Behaviour::Hang, Behaviour::Panic];
    prop_oneof![
        4 => (any::<Index>(), proptest::sample::select(faults.to_vec()))
            .prop_map(|(call, fault)| Trouble::Call(call, fault)),
        1 => (any::<Index>(), proptest::sample::select(behaviours.to_vec()))
            .prop_map(|(call, behaviour)| Trouble::Module(call, behaviour)),
    ]
}

async fn prepared(before: Before) -> World {
    let mut world = World::new(["a", "b"]);
    if before != Before::Nothing {
        world.passes().await;
    }
    match before {
        Before::Edited(phase) => world.modules.edit(phase),
        Before::Fresh => world.fresh = true,
        Before::Nothing | Before::AllCheckpoints => {}
    }
    world
}

/// A run without troubles: what it leaves, and what it calls for each machine.
struct Undisturbed {
    a: MachineState,
    b: MachineState,
    calls: Vec<Method>,
    phases: Vec<Phase>,
}

async fn undisturbed(before: Before) -> Undisturbed {
    let world = prepared(before).await;
    world.passes().await;
    let calls = world.hypervisor.calls();
    Undisturbed {
        a: world.state("a"),
        b: world.state("b"),
        calls: calls.iter().filter(|call| call.domain == "a").map(|call| call.method).collect(),
        phases: world.modules.calls("b"),
    }
}

async fn check(before: Before, trouble: Trouble, expected: &Undisturbed) -> Result<(), TestCaseError> {
    let mut world = prepared(before).await;
    let jobs = world.plan().await;
    match &trouble {
        Trouble::Call(call, fault) => {
            let at = call.index(expected.calls.len());
            let method = expected.calls[at];
            let spared = expected.calls[..at].iter().filter(|call| **call == method).count();
            world.hypervisor.inject_after(spared, method, Some("a"), fault.clone());
        }
        Trouble::Module(call, behaviour) => {
            world.modules.set("a", *call.get(&expected.phases), *behaviour);
        }
    }
    let ran = world.carry_out(jobs).await;
    prop_assert_eq!(world.hypervisor.faults_left(), 0, "every fault meets its call");
    world.modules.mend();

    // The other machine passed, and is what it would have been.
    prop_assert_eq!(ran.ended("b"), None);
    prop_assert_eq!(world.modules.calls("b"), expected.phases.clone());
    prop_assert_eq!(&world.state("b"), &expected.b);
    if let Some(summary) = ran.summary {
        let failed = usize::from(ran.ended("a").is_some());
        prop_assert_eq!(summary, Summary { passed: 2 - failed, failed, skipped: 0 });
    } else {
        prop_assert!(
            matches!(trouble, Trouble::Call(_, Fault::Hang)),
            "only a run that was killed has no end"
        );
    }
    // A checkpoint may be old or missing, but one whose key holds is what its key says.
    for snapshot in world.hypervisor.look("a").map(|(_, snapshots)| snapshots).unwrap_or_default() {
        if let Some((description, disk)) = expected.a.checkpoints.get(&snapshot.name)
            && *description == snapshot.description
        {
            prop_assert_eq!(&world.hypervisor.kept_disk("a", &snapshot.name), disk);
        }
    }

    world.fresh = false;
    let ran = world.up().await;
    prop_assert_eq!(ran.summary, Some(Summary { passed: 2, failed: 0, skipped: 0 }), "{:#?}", ran.events);
    prop_assert_eq!(&world.state("a"), &expected.a);
    prop_assert_eq!(&world.state("b"), &expected.b);
    let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    prop_assert_eq!(&*world.images.disks.lock().unwrap(), &both);
    Ok(())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn any_trouble_is_put_right_by_the_next_run_and_touches_no_other_machine() {
    let expected: HashMap<_, _> =
        BEFORE.into_iter().map(|before| (before, runtime().block_on(undisturbed(before)))).collect();
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let cases = (proptest::sample::select(BEFORE.to_vec()), trouble());
    let result = TestRunner::new(config)
        .run(&cases, |(before, trouble)| runtime().block_on(check(before, trouble, &expected[&before])));
    result.unwrap_or_else(|error| panic!("{error}"));
}

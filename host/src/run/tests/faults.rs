//! Whatever goes wrong, at whatever call, with whatever flags: the next run puts it right, and no other machine notices.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use proptest::{collection::vec, option, prelude::*, sample::Index, test_runner::TestRunner};
use tokio::runtime::{Builder, Runtime};

use super::{
    modules::Behaviour,
    support::{MachineState, Ran, World},
};
use crate::{
    base::{Checkpoint, Phase},
    farm::Gate,
    guest::simulated::GuestFault,
    hypervisor::simulated::{Fault, Method},
    plan::GateChoice,
    run::{Event, Summary},
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What was there before the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Before {
    Nothing,
    AllCheckpoints,
    /// All checkpoints, but this phase's module was edited since.
    Edited(Phase),
    /// All checkpoints, but the machines are to be made anew.
    Fresh,
    /// Checkpoints up to that of `dependencies`, and the machines run on.
    Half,
    /// No checkpoint but the deepest one.
    OnlyInit,
}

const BEFORE: [Before; 7] = [
    Before::Nothing,
    Before::AllCheckpoints,
    Before::Edited(Phase::Dependencies),
    Before::Edited(Phase::Init),
    Before::Fresh,
    Before::Half,
    Before::OnlyInit,
];

/// Which phases have steps: bits by [`Phase::ALL`].
type Mask = u8;

/// What goes wrong with one machine.
#[derive(Debug, Clone)]
enum Trouble {
    /// One of the calls to the hypervisor that a run without troubles makes.
    Call(Index, Fault),
    /// One of the modules that such a run calls.
    Module(Index, Behaviour),
    /// One of the commands that such a run gives in the guest.
    Command(Index, GuestFault),
    /// The guest lets nobody in for so many tries.
    Refused(usize),
    /// Its image can't be had.
    NoImage,
}

/// A run, and what goes wrong in it.
#[derive(Debug, Clone)]
struct Case {
    before: Before,
    mask: Mask,
    machines: usize,
    jobs: Option<usize>,
    choice: GateChoice,
    retries: [u32; 4],
    max_failures: Option<usize>,
    /// The run is interrupted after so many milliseconds.
    interrupted: Option<u64>,
    troubles: Vec<(Index, Trouble)>,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    // A call that hangs stands for a run that is killed there.
    let faults = [
        Fault::Fail("refused".into()),
        Fault::FailAfter("lost".into()),
        Fault::HalfWay("died".into()),
        Fault::Hang,
        Fault::Pretend,
    ];
    let behaviours = [Behaviour::Fail, Behaviour::Trap, Behaviour::Hang, Behaviour::Panic];
    let commands = [GuestFault::Fail, GuestFault::Hang, GuestFault::Pretend, GuestFault::Disconnect];
    prop_oneof![
        6 => (any::<Index>(), proptest::sample::select(faults.to_vec()))
            .prop_map(|(call, fault)| Trouble::Call(call, fault)),
        3 => (any::<Index>(), proptest::sample::select(behaviours.to_vec()))
            .prop_map(|(call, behaviour)| Trouble::Module(call, behaviour)),
        3 => (any::<Index>(), proptest::sample::select(commands.to_vec()))
            .prop_map(|(command, fault)| Trouble::Command(command, fault)),
        1 => (1_usize..400).prop_map(Trouble::Refused),
        1 => Just(Trouble::NoImage),
    ]
}

fn choice() -> impl Strategy<Value = GateChoice> {
    let phase = || option::weighted(0.2, proptest::sample::select(Phase::ALL.to_vec()));
    let gates: Vec<_> = Gate::all().filter(|gate| *gate != Gate::Startup).collect();
    let skip = proptest::sample::subsequence(gates, 0..3);
    (phase(), phase(), prop_oneof![2 => Just(vec![]), 1 => skip]).prop_map(|(from, until, skip)| {
        let until = until.filter(|until| from.is_none_or(|from| from <= *until));
        GateChoice { only: vec![], skip, from, until }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let mask = prop_oneof![3 => Just(0b1111_u8), 1 => proptest::sample::select(vec![0b0000_u8, 0b1100, 0b1101, 0b1110, 0b0111])];
    let retries = prop_oneof![3 => Just([0; 4]), 1 => prop::array::uniform4(0_u32..3)];
    (
        proptest::sample::select(BEFORE.to_vec()),
        mask,
        1..=NAMES.len(),
        option::of(1_usize..4),
        choice(),
        retries,
        option::weighted(0.2, 1_usize..3),
        option::weighted(0.2, 0_u64..20_000),
        vec((any::<Index>(), trouble()), 0..4),
    )
        .prop_map(
            |(before, mask, machines, jobs, choice, retries, max_failures, interrupted, troubles)| Case {
                before,
                mask,
                machines,
                jobs,
                choice,
                retries,
                max_failures,
                interrupted,
                troubles,
            },
        )
}

/// What a world was before a run, and what each machine must be after a run that nothing disturbs.
struct Start {
    world: World,
    expected: HashMap<String, MachineState>,
    /// What a run without troubles calls for each machine.
    calls: Vec<Method>,
    phases: Vec<Phase>,
    commands: usize,
    /// What the disk of each checkpoint holds, by its description.
    kept: HashMap<String, Vec<String>>,
}

async fn start_from(before: Before, mask: Mask, machines: usize) -> Start {
    let mut world = World::new(NAMES);
    // The others are in user-mode networks. The network has the machine's name, so that its calls are that machine's.
    world.set_net("a", "{ type: network, source: a }");
    world.farm.machines.truncate(machines);
    for phase in Phase::ALL.into_iter().filter(|phase| mask & (1 << *phase as u8) == 0) {
        world.edit_phase(phase, "");
        world.farm.machines.truncate(machines);
    }
    match before {
        Before::Nothing => {}
        Before::Half => {
            let choice = GateChoice {
                until: Some(Phase::Dependencies),
                skip: vec![Gate::Shutdown],
                ..GateChoice::default()
            };
            world.allowed = choice.of(&world.allowed).unwrap();
            world.passes().await;
        }
        _ => drop(world.passes().await),
    }
    let mut kept = world.kept();
    match before {
        Before::Edited(phase) => world.modules.edit(phase),
        Before::OnlyInit => {
            for name in world.farm.machines.keys() {
                for checkpoint in [Checkpoint::Clean, Checkpoint::Dependencies] {
                    world.forget_snapshot(name, &checkpoint.snapshot_name("p", "0")).await;
                }
            }
        }
        _ => {}
    }
    let mut clean = world.fork();
    clean.fresh = before == Before::Fresh;
    clean.passes().await;
    let calls = clean.hypervisor.calls();
    let phases = clean.modules.calls("a");
    let commands = clean.guest("a").calls().len();
    // What a run leaves does not depend on what was there before it: a first one shows what that is.
    let mut first = world.fork();
    first.fresh = true;
    first.passes().await;
    kept.extend(first.kept());
    let expected = first.farm.machines.keys().map(|name| (name.clone(), first.state(name))).collect();
    let calls = calls.iter().filter(|call| call.domain == "a").map(|call| call.method).collect();
    Start { world, expected, calls, phases, commands, kept }
}

/// Puts the troubles into a world. Gives the machines that have one.
fn disturb(world: &World, start: &Start, troubles: &[(Index, Trouble)]) -> BTreeSet<String> {
    let mut disturbed = BTreeSet::new();
    for (machine, trouble) in troubles {
        let name = *machine.get(&NAMES[..world.farm.machines.len()]);
        match trouble {
            Trouble::Call(call, fault) => {
                let at = call.index(start.calls.len());
                let method = start.calls[at];
                // A hypervisor that says it reverted and did not is believed, as nothing in libvirt tells. The disks that stay
                // with a domain that is still there are the simulation's: real ones are files, and made anew.
                if matches!(method, Method::Revert | Method::Undefine) && *fault == Fault::Pretend {
                    continue;
                }
                let spared = start.calls[..at].iter().filter(|call| **call == method).count();
                world.hypervisor.inject_after(spared, method, Some(name), fault.clone());
            }
            Trouble::Module(call, behaviour) => match start.phases.as_slice() {
                [] => continue,
                phases => world.modules.set(name, *call.get(phases), *behaviour),
            },
            Trouble::Command(command, fault) => {
                world.guest(name).inject(command.index(start.commands.max(1)), *fault);
            }
            Trouble::Refused(tries) => world.guest(name).refuse_connections(*tries),
            Trouble::NoImage => {
                world.images.missing.lock().unwrap().insert(name.into(), "it is a web page".into());
            }
        }
        disturbed.insert(name.to_owned());
    }
    disturbed
}

/// What holds of each machine in any run.
fn check_order(case: &Case, ran: &Ran, name: &str) -> Result<(), TestCaseError> {
    let operations = ran.operations(name);
    let phases: Vec<_> = Phase::ALL
        .into_iter()
        .filter_map(|phase| operations.iter().position(|operation| operation == phase.name()))
        .collect();
    prop_assert!(phases.is_sorted(), "phases run in order: {:?}", operations);
    let mut seen = BTreeSet::new();
    prop_assert!(operations.iter().all(|operation| seen.insert(operation)), "each once: {:?}", operations);
    // Once the guest was reached, `terminate` runs exactly once, unless it was not to run, or the run was killed.
    let finished = |event: &Event| {
        matches!(event, Event::OperationFinished { machine, operation, .. } if machine == name
            && matches!(operation.to_string().as_str(), "startup" | "restore init" | "restore dependencies" | "restore clean"))
    };
    let killed = ran.summary.is_none();
    let allowed = case.choice.of(&Gate::all().collect()).unwrap().contains(&Gate::Phase(Phase::Terminate));
    let has_steps = case.mask & 0b1000 != 0;
    // A retry that fails to restore has no guest any more.
    let retried = ran
        .events
        .iter()
        .any(|event| matches!(event, Event::PhaseRetried { machine, .. } if machine == name));
    if ran.events.iter().any(finished) && !killed && allowed && has_steps && !retried {
        let count = operations.iter().filter(|operation| *operation == "terminate").count();
        prop_assert_eq!(count, 1, "{:?}", operations);
    }
    Ok(())
}

/// A checkpoint may be old or missing, but one whose key is known is what its key says.
fn check_kept(world: &World, start: &Start, name: &str) -> Result<(), TestCaseError> {
    for snapshot in world.hypervisor.look(name).map(|(_, snapshots)| snapshots).unwrap_or_default() {
        if let Some(disk) = start.kept.get(&snapshot.description) {
            prop_assert_eq!(&world.hypervisor.kept_disk(name, &snapshot.name), disk, "{}", snapshot.name);
        }
    }
    Ok(())
}

async fn check(case: Case, start: &Start) -> Result<(), TestCaseError> {
    let mut world = start.world.fork();
    let Ok(allowed) = case.choice.of(&world.allowed) else { return Ok(()) };
    world.allowed = allowed;
    world.fresh = case.before == Before::Fresh;
    world.at_once = case.jobs.and_then(NonZeroUsize::new);
    world.max_failures = case.max_failures.and_then(NonZeroUsize::new);
    for (phase, retries) in Phase::ALL.into_iter().zip(case.retries) {
        world.rules.of_mut(phase).retries = retries;
    }
    let jobs = world.plan().await;
    let disturbed = disturb(&world, start, &case.troubles);
    let stop = world.stop.clone();
    let interrupt = async {
        match case.interrupted {
            Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
            None => std::future::pending().await,
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let ran = tokio::select! {
        ran = world.carry_out(jobs) => ran,
        () = interrupt => unreachable!(),
    };
    world.modules.mend();
    let interrupted = ran.events.iter().any(|event| matches!(event, Event::Interrupted));

    for name in world.farm.machines.keys() {
        check_order(&case, &ran, name)?;
        check_kept(&world, start, name)?;
        // Nobody else's trouble is its own.
        let begun = ran
            .events
            .iter()
            .any(|event| matches!(event, Event::MachineFinished { machine, .. } if machine == name));
        if begun && !disturbed.contains(name) && !interrupted {
            prop_assert_eq!(ran.ended(name), None);
        }
    }
    if let Some(Summary { passed, failed, skipped }) = ran.summary {
        prop_assert_eq!(passed + failed + skipped, world.farm.machines.len());
        prop_assert!(skipped == 0 || interrupted || case.max_failures.is_some());
    }

    // The next run ends as if nothing had happened.
    let world = world.fork();
    let ran = world.up().await;
    let passed = world.farm.machines.len();
    prop_assert_eq!(ran.summary, Some(Summary { passed, ..Summary::default() }), "{:#?}", ran.events);
    for (name, expected) in &start.expected {
        let (mut state, mut expected) = (world.state(name), expected.clone());
        // What somebody deleted, what was left out, and what a hypervisor only said it kept is made again when it is needed.
        let may_lack = case.before == Before::OnlyInit
            || case.choice != GateChoice::default()
            || case.troubles.iter().any(|(_, trouble)| matches!(trouble, Trouble::Call(_, Fault::Pretend)));
        if may_lack {
            // Nor is what is stale replaced before it is needed.
            let is_expected = |name: &str, kept: &str| {
                expected.checkpoints.get(name).is_some_and(|(wanted, _)| wanted == kept)
            };
            state.checkpoints.retain(|name, (kept, _)| is_expected(name, kept));
            expected.checkpoints.retain(|name, _| state.checkpoints.contains_key(name));
        }
        prop_assert_eq!(state, expected);
    }
    let all: BTreeSet<_> = world.farm.machines.keys().cloned().collect();
    prop_assert_eq!(&*world.images.disks.lock().unwrap(), &all);
    Ok(())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// How many runs are tried, together: shared out to threads.
const CASES: u32 = 10_000;
const THREADS: u32 = 4;

/// What runs start from, made when first needed.
#[derive(Default)]
struct Starts(Mutex<HashMap<StartKey, Arc<OnceLock<Start>>>>);

type StartKey = (Before, Mask, usize);

impl Starts {
    fn of<T>(&self, case: &Case, then: impl FnOnce(&Start) -> T) -> T {
        let key = (case.before, case.mask, case.machines);
        let start = self.0.lock().unwrap().entry(key).or_default().clone();
        let make = || runtime().block_on(start_from(case.before, case.mask, case.machines));
        then(start.get_or_init(make))
    }
}

fn check_cases(starts: &Starts) {
    let config =
        ProptestConfig { cases: CASES / THREADS, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config)
        .run(&case(), |case| starts.of(&case, |start| runtime().block_on(check(case.clone(), start))));
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_trouble_is_put_right_by_the_next_run_and_touches_no_other_machine() {
    let starts = Starts::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| check_cases(&starts))).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

use std::collections::BTreeSet;

use indexmap::IndexMap;
use proptest::prelude::*;
use serde_json::json;

use crate::{
    base::{Checkpoint, Digest, Phase, SnapshotKind},
    farm::{Gate, PhaseRules, Project},
    hypervisor::{Domain, DomainMetadata, DomainState, Snapshot},
    plan::*,
};

fn project() -> Project {
    Project { id: "p".into(), revision: 0 }
}

fn step(packages: &[&str]) -> StepInputs {
    StepInputs {
        module: "debian-apt".into(),
        version: "0.1.0".into(),
        digest: Digest::of("debian-apt"),
        settings: json!({ "packages": packages }),
        r#become: true,
    }
}

fn wanted() -> Wanted {
    let resources = IndexMap::from([("disk 0".to_owned(), Some(Digest::of("image")))]);
    let origin = Origin { shape: Digest::of("shape"), resources, preparation: IndexMap::new() };
    Wanted {
        origin,
        phases: [vec![step(&["curl"])], vec![step(&["git"])], vec![step(&["make"])], vec![step(&[])]],
    }
}

fn existing(made_from: &Wanted, checkpoints: &[Checkpoint]) -> Existing {
    let metadata =
        DomainMetadata { origin: serde_json::to_value(&made_from.origin).unwrap(), ssh_host_key: None };
    Existing {
        domain: Domain {
            name: "m".into(),
            state: DomainState::ShutOff,
            metadata: Some(metadata),
            ssh_port: Some(20_000),
            interfaces: Vec::new(),
            disks: vec![],
            memory: 1024,
            vcpus: 2,
        },
        snapshots: checkpoints
            .iter()
            .map(|checkpoint| Snapshot {
                name: checkpoint.snapshot_name("p", "0"),
                description: made_from.record(*checkpoint).to_description(),
                creation_time: 0,
                parent: None,
                live: true,
                kind: SnapshotKind::Internal,
                files: vec![],
            })
            .collect(),
    }
}

fn all() -> Options {
    allowing(Gate::all())
}

fn allowing(gates: impl IntoIterator<Item = Gate>) -> Options {
    let allowed = gates.into_iter().collect();
    Options { allowed, fresh: false, rules: PhaseRules::default(), now: 1000 }
}

fn operations(wanted: &Wanted, existing: Option<&Existing>, options: &Options) -> Vec<String> {
    let plan = plan("m", &project(), wanted, existing, options).unwrap();
    plan.operations.iter().map(|planned| planned.operation.to_string()).collect()
}

fn verdict(wanted: &Wanted, existing: &Existing, checkpoint: Checkpoint) -> Verdict {
    let plan = plan("m", &project(), wanted, Some(existing), &all()).unwrap();
    plan.checkpoints[&checkpoint].clone()
}

#[test]
fn first_run_does_everything() {
    let expected = [
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
    assert_eq!(operations(&wanted(), None, &all()), expected);
}

#[test]
fn second_run_restores_init() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    assert_eq!(
        operations(&wanted(), Some(&existing), &all()),
        ["restore init", "main", "terminate", "shutdown"]
    );
}

#[test]
fn changed_init_restores_dependencies() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let mut changed = wanted();
    changed.phases[1] = vec![step(&["git", "jq"])];
    let expected =
        ["restore dependencies", "init", "discard init", "create init", "main", "terminate", "shutdown"];
    assert_eq!(operations(&changed, Some(&existing), &all()), expected);
}

#[test]
fn what_stands_on_an_external_checkpoint_is_discarded_before_it() {
    let mut existing = existing(&wanted(), &Checkpoint::ALL);
    existing.snapshots.iter_mut().for_each(|snapshot| snapshot.kind = SnapshotKind::External);
    let mut changed = wanted();
    changed.phases[0] = vec![step(&["wget"])];
    let expected = [
        "restore clean",
        "dependencies",
        "discard init",
        "discard dependencies",
        "create dependencies",
        "init",
        "create init",
        "main",
        "terminate",
        "shutdown",
    ];
    assert_eq!(operations(&changed, Some(&existing), &all()), expected);
}

#[test]
fn changed_dependencies_say_what_changed() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let mut changed = wanted();
    changed.phases[0] = vec![step(&["wget"])];
    let reason = "dependencies: step 1 (debian-apt) changed: packages +wget -curl".to_owned();
    assert_eq!(verdict(&changed, &existing, Checkpoint::Dependencies), Verdict::Stale(reason));
    let below = "it stands on dependencies, which is stale".to_owned();
    assert_eq!(verdict(&changed, &existing, Checkpoint::Init), Verdict::Stale(below));
    assert_eq!(verdict(&changed, &existing, Checkpoint::Clean), Verdict::Valid);
    assert_eq!(operations(&changed, Some(&existing), &all())[..2], ["restore clean", "dependencies"]);
}

#[test]
fn main_is_in_no_key() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let mut changed = wanted();
    changed.phases[2] = vec![step(&["anything"])];
    assert_eq!(operations(&changed, Some(&existing), &all())[0], "restore init");
}

#[test]
fn changed_image_or_hardware_installs_anew() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let mut image = wanted();
    image.origin.resources["disk 0"] = Some(Digest::of("another image"));
    let mut shape = wanted();
    shape.origin.shape = Digest::of("more memory");
    for changed in [image, shape] {
        let operations = operations(&changed, Some(&existing), &all());
        assert_eq!(operations[..3], ["install", "startup", "create clean"]);
        assert!(
            !operations.iter().any(|operation| operation.starts_with("discard")),
            "installing removes them all"
        );
    }
}

#[test]
fn changed_preparation_installs_anew_also_where_its_result_is_not_known() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    for (name, reason) in [
        ("disk 0", "how its disk 0 is prepared changed"),
        ("first boot", "what it is told at its first boot changed"),
    ] {
        let mut changed = wanted();
        changed.origin.preparation.insert(name.to_owned(), Digest::of("unarchive"));
        changed.origin.resources["disk 0"] = None;
        let plan = plan("m", &project(), &changed, Some(&existing), &all()).unwrap();
        assert_eq!(
            (plan.operations[0].operation, plan.operations[0].reason.as_str()),
            (Operation::Install, reason)
        );
        assert_eq!(plan.checkpoints[&Checkpoint::Clean], Verdict::Stale(reason.to_owned()));
    }
}

#[test]
fn image_that_is_not_fetched_is_taken_to_be_the_same() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let mut unknown = wanted();
    unknown.origin.resources["disk 0"] = None;
    assert_eq!(operations(&unknown, Some(&existing), &all())[0], "restore init");
}

#[test]
fn without_clean_nobody_knows_what_is_on_the_disk() {
    let existing = existing(&wanted(), &[]);
    assert_eq!(operations(&wanted(), Some(&existing), &all())[0], "install");
}

#[test]
fn phase_without_steps_makes_no_checkpoint() {
    let mut wanted = wanted();
    wanted.phases[0].clear();
    let expected =
        ["install", "startup", "create clean", "init", "create init", "main", "terminate", "shutdown"];
    assert_eq!(operations(&wanted, None, &all()), expected);
}

#[test]
fn foreign_domain_is_refused() {
    let mut existing = existing(&wanted(), &[]);
    existing.domain.metadata = None;
    let refused = plan("m", &project(), &wanted(), Some(&existing), &all());
    assert_eq!(refused, Err(PlanError::ForeignDomain("m".into())));
}

/// Any state of a machine: which snapshots exist, and which of its definition's parts changed since.
#[derive(Debug, Clone)]
struct Case {
    snapshots: Vec<Checkpoint>,
    changed: [bool; 3],
    live: bool,
    running: bool,
    allowed: BTreeSet<Gate>,
    fresh: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let gates: Vec<_> = Gate::all().collect();
    let count = gates.len();
    (
        proptest::sample::subsequence(Checkpoint::ALL.to_vec(), 0..=3),
        any::<[bool; 3]>(),
        any::<bool>(),
        any::<bool>(),
        proptest::sample::subsequence(gates, 0..=count),
        any::<bool>(),
    )
        .prop_map(|(snapshots, changed, live, running, allowed, fresh)| Case {
            snapshots,
            changed,
            live,
            running,
            allowed: allowed.into_iter().collect(),
            fresh,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_plan_is_in_order(case in case()) {
        let mut wanted = wanted();
        let mut existing = existing(&wanted, &case.snapshots);
        existing.snapshots.iter_mut().for_each(|snapshot| snapshot.live = case.live);
        if case.running {
            existing.domain.state = DomainState::Running;
        }
        if case.changed[0] {
            wanted.origin.shape = Digest::of("changed");
        }
        for phase in 0..2 {
            if case.changed[phase + 1] {
                wanted.phases[phase] = vec![step(&["changed"])];
            }
        }
        let options = Options { fresh: case.fresh, ..allowing(case.allowed.clone()) };
        let plan = match plan("m", &project(), &wanted, Some(&existing), &options) {
            Ok(plan) => plan,
            Err(PlanError::Off { .. }) => {
                // Nothing that is allowed gets it to run.
                prop_assert!(!case.allowed.contains(&Gate::Startup));
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let operations: Vec<_> = plan.operations.iter().map(|planned| planned.operation).collect();
        let position = |wanted: Operation| operations.iter().position(|operation| *operation == wanted);

        // Nothing that is not allowed is done, and a gate closes nothing but what it is for.
        for operation in &operations {
            prop_assert!(operation.gate().is_none_or(|gate| case.allowed.contains(&gate)), "{operation}");
        }
        // Phases keep their order, and main and terminate are done exactly once when they are allowed.
        let phases: Vec<_> = operations.iter().filter_map(|operation| match operation {
            Operation::Phase { phase } => Some(*phase),
            _ => None,
        }).collect();
        prop_assert!(phases.is_sorted() && phases.iter().collect::<BTreeSet<_>>().len() == phases.len());
        for phase in [Phase::Main, Phase::Terminate] {
            prop_assert_eq!(phases.contains(&phase), case.allowed.contains(&Gate::Phase(phase)));
        }
        // The deepest checkpoint that holds and may be restored is restored; one that does not hold never is.
        let holds = |checkpoint: Checkpoint| {
            let below = Checkpoint::ALL.into_iter().filter(|below| *below <= checkpoint);
            case.snapshots.contains(&checkpoint) && below.map(|below| case.changed[below as usize]).all(|changed| !changed)
        };
        let installs = operations.first() == Some(&Operation::Install);
        let may = |checkpoint: &Checkpoint| holds(*checkpoint) && case.allowed.contains(&Gate::Restore(*checkpoint));
        let usable = Checkpoint::ALL.into_iter().rev().find(may);
        let deepest = usable.filter(|_| !installs);
        for checkpoint in Checkpoint::ALL {
            let restored = position(Operation::Restore { checkpoint }).is_some();
            prop_assert_eq!(restored, deepest == Some(checkpoint), "restore {}", checkpoint);
        }
        if usable.is_some() && !case.fresh {
            prop_assert!(!installs, "what holds is used");
        }
        if case.changed[0] && case.allowed.iter().any(|gate| *gate != Gate::Shutdown) {
            prop_assert!(installs, "changed hardware needs a new machine");
        }
        // A checkpoint is made only of a state that is known: above what was restored or installed, and after all phases in
        // between.
        for checkpoint in Checkpoint::ALL {
            let Some(created) = position(Operation::Create { checkpoint }) else { continue };
            prop_assert!(installs || deepest.is_some());
            prop_assert!(Some(checkpoint) > deepest);
            let between = Checkpoint::ALL.into_iter().filter(|between| Some(*between) > deepest && *between <= checkpoint);
            for phase in between.filter_map(Checkpoint::phase) {
                let ran = position(Operation::Phase { phase });
                prop_assert!(ran.is_some_and(|ran| ran < created), "{} is made without {}", checkpoint, phase);
            }
        }
        // What is kept already is not made a second time.
        for checkpoint in Checkpoint::ALL {
            let exists = case.snapshots.contains(&checkpoint) && !installs;
            if let Some(created) = position(Operation::Create { checkpoint }) {
                let discarded = position(Operation::Discard { checkpoint });
                prop_assert_eq!(discarded.is_some(), exists);
                prop_assert!(discarded.is_none_or(|discarded| discarded < created));
            }
        }
        // The machine runs before anything is done in it.
        let in_guest = operations.iter().position(|operation| matches!(operation, Operation::Phase { .. } | Operation::Create { .. }));
        if let Some(first) = in_guest {
            let started = position(Operation::Startup).is_some_and(|started| started < first);
            let restored_live = deepest.is_some() && case.live;
            let ran_on = deepest.is_none() && !installs && case.running;
            prop_assert!(started || restored_live || ran_on);
        }
    }
}

#[test]
fn each_gate_closes_what_it_is_for_and_nothing_else() {
    let without = |gate: Gate| allowing(Gate::all().filter(|other| *other != gate));
    let everything = operations(&wanted(), None, &all());
    let wanted = &wanted();
    for gate in Gate::all() {
        // Of a first run.
        let first = plan("m", &project(), wanted, None, &without(gate));
        match gate {
            Gate::Startup => {
                let operation = Operation::Create { checkpoint: Checkpoint::Clean };
                assert_eq!(first, Err(PlanError::Off { machine: "m".into(), operation }));
                continue;
            }
            Gate::Restore(_) => assert_eq!(operations(wanted, None, &without(gate)), everything),
            // Without a phase, nothing that stands on it is kept.
            Gate::Phase(phase @ (Phase::Dependencies | Phase::Init)) => {
                let left_out = |operation: &&String| {
                    **operation == phase.name()
                        || Checkpoint::ALL.into_iter().any(|checkpoint| {
                            checkpoint.phase() >= Some(phase) && **operation == format!("create {checkpoint}")
                        })
                };
                let expected: Vec<_> =
                    everything.iter().filter(|operation| !left_out(operation)).cloned().collect();
                assert_eq!(operations(wanted, None, &without(gate)), expected);
            }
            _ => {
                let expected: Vec<_> =
                    everything.iter().filter(|operation| **operation != gate.to_string()).cloned().collect();
                assert_eq!(operations(wanted, None, &without(gate)), expected);
            }
        }
    }
    // Of a later one.
    let existing = existing(wanted, &Checkpoint::ALL);
    let again = |gate| operations(wanted, Some(&existing), &without(gate));
    assert_eq!(again(Gate::Restore(Checkpoint::Init))[..2], ["restore dependencies", "init"]);
    assert_eq!(again(Gate::Restore(Checkpoint::Clean))[0], "restore init");
    assert_eq!(again(Gate::Startup)[0], "restore init");
}

#[test]
fn only_shutting_down_makes_no_machine() {
    let options = allowing([Gate::Shutdown]);
    assert!(operations(&wanted(), None, &options).is_empty());
    assert_eq!(operations(&wanted(), Some(&existing(&wanted(), &[])), &options), ["shutdown"]);
}

#[test]
fn a_state_that_nobody_knows_is_not_kept() {
    let mut running = existing(&wanted(), &Checkpoint::ALL);
    running.domain.state = DomainState::Running;
    let options = allowing(Gate::all().filter(|gate| !matches!(gate, Gate::Restore(_))));
    let expected = ["dependencies", "init", "main", "terminate", "shutdown"];
    assert_eq!(operations(&wanted(), Some(&running), &options), expected);
}

#[test]
fn deeper_checkpoints_hold_without_clean() {
    let existing = existing(&wanted(), &[Checkpoint::Init]);
    assert_eq!(operations(&wanted(), Some(&existing), &all())[0], "restore init");
}

#[test]
fn from_and_until_choose_a_part_of_a_machines_life() {
    let existing = existing(&wanted(), &Checkpoint::ALL);
    let chosen = |from, until| {
        let choice = GateChoice { from, until, ..GateChoice::default() };
        let allowed = choice.of(&Gate::all().collect()).unwrap();
        operations(&wanted(), Some(&existing), &allowing(allowed))
    };
    use Phase::{Dependencies, Init, Main, Terminate};
    assert_eq!(chosen(Some(Dependencies), None)[..2], ["restore clean", "dependencies"]);
    let init =
        ["restore dependencies", "init", "discard init", "create init", "main", "terminate", "shutdown"];
    assert_eq!(chosen(Some(Init), None), init);
    assert_eq!(chosen(Some(Main), None), ["restore init", "main", "terminate", "shutdown"]);
    assert_eq!(chosen(Some(Terminate), None), ["restore init", "terminate", "shutdown"]);
    assert_eq!(chosen(None, Some(Dependencies)), ["restore dependencies", "shutdown"]);
    assert_eq!(chosen(Some(Init), Some(Init))[..], [&init[..4], &["shutdown"]].concat()[..]);
    let choice = GateChoice { from: Some(Main), until: Some(Init), ..GateChoice::default() };
    assert_eq!(choice.of(&Gate::all().collect()), Err(GateError::Order { from: Main, until: Init }));
    let choice = GateChoice { only: vec![Gate::Startup], skip: vec![Gate::Startup], ..GateChoice::default() };
    assert_eq!(choice.of(&Gate::all().collect()), Err(GateError::Nothing));
}

#[test]
fn checkpoints_get_too_old() {
    let mut existing = existing(&wanted(), &Checkpoint::ALL);
    existing.snapshots[2].creation_time = 900;
    let mut options = all();
    options.rules.of_mut(Phase::Init).max_age = Some(std::time::Duration::from_secs(99));
    let verdicts =
        |options: &Options| plan("m", &project(), &wanted(), Some(&existing), options).unwrap().checkpoints;
    let reason = "it is 1m 40s old, and init has a max_age of 1m 39s";
    assert_eq!(verdicts(&options)[&Checkpoint::Init], Verdict::Stale(reason.into()));
    assert_eq!(operations(&wanted(), Some(&existing), &options)[..2], ["restore dependencies", "init"]);
    options.rules.of_mut(Phase::Init).max_age = Some(std::time::Duration::from_secs(100));
    assert_eq!(verdicts(&options)[&Checkpoint::Init], Verdict::Valid);
    // What stands on one that is too old is too old.
    options.rules.of_mut(Phase::Dependencies).max_age = Some(std::time::Duration::from_secs(999));
    let below = "it stands on dependencies, which is stale".to_owned();
    assert_eq!(verdicts(&options)[&Checkpoint::Init], Verdict::Stale(below));
    assert_eq!(operations(&wanted(), Some(&existing), &options)[..2], ["restore clean", "dependencies"]);
}

#[test]
fn what_it_stands_on_is_not_made_after_it() {
    let mut existing = existing(&wanted(), &Checkpoint::ALL);
    existing.snapshots[1].creation_time = 900;
    let reason = "dependencies was made anew after it".to_owned();
    assert_eq!(verdict(&wanted(), &existing, Checkpoint::Init), Verdict::Stale(reason));
    assert_eq!(operations(&wanted(), Some(&existing), &all())[..2], ["restore dependencies", "init"]);
    existing.snapshots[2].creation_time = 900;
    assert_eq!(verdict(&wanted(), &existing, Checkpoint::Init), Verdict::Valid);
    // Whatever is not there, or has no steps, is not stood on.
    existing.snapshots.remove(1);
    assert_eq!(operations(&wanted(), Some(&existing), &all())[0], "restore init");
}

#[test]
fn phases_are_tried_again_from_where_they_started() {
    let mut options = all();
    for phase in Phase::ALL {
        options.rules.of_mut(phase).retries = 3;
    }
    let retries = |options: &Options| -> Vec<_> {
        let plan = plan("m", &project(), &wanted(), None, options).unwrap();
        plan.operations.iter().filter_map(|planned| Some(planned.retry?.from)).collect()
    };
    let from = [Some(Checkpoint::Clean), Some(Checkpoint::Dependencies), Some(Checkpoint::Init), None];
    assert_eq!(retries(&options), from);
    // What is not kept can't be come back to.
    options.allowed.remove(&Gate::Create(Checkpoint::Dependencies));
    assert_eq!(retries(&options), [Some(Checkpoint::Clean), Some(Checkpoint::Init), None]);
}

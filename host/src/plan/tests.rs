use std::collections::BTreeSet;

use indexmap::IndexMap;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{base::Digest, hypervisor::DomainMetadata};

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
            disks: vec![],
        },
        snapshots: checkpoints
            .iter()
            .map(|checkpoint| Snapshot {
                name: checkpoint.snapshot_name("p", "0"),
                description: made_from.record(*checkpoint).to_description(),
                creation_time: 0,
                parent: None,
                live: true,
            })
            .collect(),
    }
}

fn all() -> Options {
    Options { allowed: Gate::all().collect(), fresh: false }
}

fn operations(wanted: &Wanted, existing: Option<&Existing>, options: &Options) -> Vec<String> {
    let plan = plan("m", &project(), wanted, existing, options).unwrap();
    plan.operations.iter().map(ToString::to_string).collect()
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
        assert_eq!(plan.operations[0], Operation::Install { reason: reason.to_owned() });
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
        let options = Options { allowed: case.allowed.clone(), fresh: case.fresh };
        let plan = plan("m", &project(), &wanted, Some(&existing), &options).unwrap();
        let position = |wanted: &Operation| plan.operations.iter().position(|operation| operation == wanted);

        // Nothing that is not allowed is done.
        for operation in &plan.operations {
            let gate = match operation {
                Operation::Install { .. } => continue,
                Operation::Startup => Gate::Startup,
                Operation::Restore { checkpoint } => Gate::Restore(*checkpoint),
                Operation::Discard { checkpoint } | Operation::Create { checkpoint } => Gate::Create(*checkpoint),
                Operation::Phase { phase } => Gate::Phase(*phase),
                Operation::Shutdown => Gate::Shutdown,
            };
            prop_assert!(case.allowed.contains(&gate), "{operation}");
        }
        // Phases keep their order, and main and terminate are done exactly once when they are allowed.
        let phases: Vec<_> = plan.operations.iter().filter_map(|operation| match operation {
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
        let installs = matches!(plan.operations.first(), Some(Operation::Install { .. }));
        let may = |checkpoint: &Checkpoint| holds(*checkpoint) && case.allowed.contains(&Gate::Restore(*checkpoint));
        let deepest = if installs { None } else { Checkpoint::ALL.into_iter().rev().find(may) };
        for checkpoint in Checkpoint::ALL {
            let restored = position(&Operation::Restore { checkpoint }).is_some();
            prop_assert_eq!(restored, deepest == Some(checkpoint), "restore {}", checkpoint);
        }
        prop_assert!(!case.changed[0] || installs, "changed hardware needs a new machine");
        // A checkpoint is made right after its phase, and only above what was restored.
        for checkpoint in Checkpoint::ALL {
            if let Some(created) = position(&Operation::Create { checkpoint }) {
                prop_assert!(Some(checkpoint) > deepest);
                if let Some(phase) = checkpoint.phase()
                    && let Some(ran) = position(&Operation::Phase { phase })
                {
                    prop_assert!(ran < created);
                }
            }
        }
    }
}

//! Which checkpoints can go. Pure.

use std::collections::{BTreeSet, HashMap};

use indexmap::IndexMap;

use super::{CheckpointRecord, Verdict};
use crate::{base::Checkpoint, farm::Project, hypervisor::Snapshot};

/// What is to be deleted of a machine's checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Those older than this many seconds.
    pub older_than: Option<i64>,
    /// Those of the project that the farm wants no more: stale ones, and those of its other revisions.
    pub unreachable: bool,
    /// Of all that are selected, none of this many newest ones. Alone it selects all others.
    pub keep: Option<usize>,
}

/// The names of a machine's snapshots that can go, in an order in which they can be deleted: none before what stands on it.
///
/// Only checkpoints go, never other snapshots, and none on which something stands that stays. `clean` belongs to no
/// project, so it is not unreachable. `now` is in seconds since the epoch.
pub fn expendable(
    project: &Project,
    checkpoints: &IndexMap<Checkpoint, Verdict>,
    snapshots: &[Snapshot],
    retention: &Retention,
    now: i64,
) -> Vec<String> {
    let is_checkpoint = |snapshot: &&Snapshot| CheckpointRecord::of(&snapshot.description).is_some();
    let mut newest: Vec<_> = snapshots.iter().filter(is_checkpoint).collect();
    // They come oldest first, and what stands on another after it.
    newest.reverse();
    let selects = |snapshot: &Snapshot| {
        let old = retention.older_than.is_some_and(|age| now.saturating_sub(snapshot.creation_time) > age);
        let lost = retention.unreachable && is_unreachable(project, checkpoints, &snapshot.name);
        let nothing_else = retention.older_than.is_none() && !retention.unreachable;
        old || lost || (nothing_else && retention.keep.is_some())
    };
    let kept = retention.keep.unwrap_or_default();
    let selected = newest.iter().skip(kept).filter(|snapshot| selects(snapshot));
    let mut going: BTreeSet<_> = selected.map(|snapshot| snapshot.name.as_str()).collect();

    let parents: HashMap<_, _> =
        snapshots.iter().map(|snapshot| (snapshot.name.as_str(), snapshot.parent.as_deref())).collect();
    for snapshot in
        snapshots.iter().filter(|snapshot| !going.contains(snapshot.name.as_str())).collect::<Vec<_>>()
    {
        let below = std::iter::successors(snapshot.parent.as_deref(), |name| *parents.get(name)?);
        // A loop can't be, and would not end.
        for name in below.take(snapshots.len()) {
            going.remove(name);
        }
    }
    let going = newest.iter().filter(|snapshot| going.contains(snapshot.name.as_str()));
    going.map(|snapshot| snapshot.name.clone()).collect()
}

/// Whether a snapshot is a checkpoint of the project's that the farm can't come back to.
fn is_unreachable(project: &Project, checkpoints: &IndexMap<Checkpoint, Verdict>, name: &str) -> bool {
    let of_phase = Checkpoint::ALL.into_iter().filter(|checkpoint| checkpoint.phase().is_some());
    let mut of_project = of_phase.filter_map(|checkpoint| {
        let revision = name.strip_prefix(&project.id)?.strip_prefix('.')?;
        let revision = revision.strip_suffix(checkpoint.name())?.strip_suffix('.')?;
        Some((checkpoint, revision.parse::<u32>().ok()?))
    });
    of_project.next().is_some_and(|(checkpoint, revision)| {
        revision != project.revision || checkpoints.get(&checkpoint) != Some(&Verdict::Valid)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{Digest, SnapshotKind},
        plan::{Inputs, Origin},
    };

    fn description() -> String {
        let origin =
            Origin { shape: Digest::of(""), resources: IndexMap::new(), preparation: IndexMap::new() };
        let record = CheckpointRecord { key: Digest::of("k"), parent: None, inputs: Inputs::Origin(origin) };
        record.to_description()
    }

    fn snapshot(name: &str, creation_time: i64, parent: Option<&str>) -> Snapshot {
        Snapshot {
            name: name.into(),
            description: description(),
            creation_time,
            parent: parent.map(str::to_owned),
            live: true,
            kind: SnapshotKind::Internal,
            files: vec![],
        }
    }

    /// Of the project `p` in revision 1, whose `init` is stale.
    fn snapshots() -> Vec<Snapshot> {
        vec![
            snapshot("clean", 100, None),
            snapshot("p.0.dependencies", 200, Some("clean")),
            snapshot("p.0.init", 300, Some("p.0.dependencies")),
            snapshot("q.1.init", 350, Some("clean")),
            snapshot("p.1.dependencies", 400, Some("clean")),
            snapshot("p.1.init", 500, Some("p.1.dependencies")),
        ]
    }

    fn going(snapshots: &[Snapshot], retention: Retention) -> String {
        let project = Project { id: "p".into(), revision: 1 };
        let checkpoints = IndexMap::from([
            (Checkpoint::Clean, Verdict::Valid),
            (Checkpoint::Dependencies, Verdict::Valid),
            (Checkpoint::Init, Verdict::Stale("changed".into())),
        ]);
        expendable(&project, &checkpoints, snapshots, &retention, 1000).join(" ")
    }

    #[test]
    fn unreachable_ones_are_stale_or_of_another_revision() {
        let unreachable = Retention { unreachable: true, ..Retention::default() };
        assert_eq!(going(&snapshots(), unreachable.clone()), "p.1.init p.0.init p.0.dependencies");
        let mut others = snapshots();
        others[1].name = "p.x.dependencies".into();
        others[2].name = "pp.0.init".into();
        others[5].description = "not farmhand's".into();
        assert_eq!(going(&others, unreachable), "");
    }

    #[test]
    fn age_counts_but_what_others_stand_on_stays() {
        let older_than = |age| Retention { older_than: Some(age), ..Retention::default() };
        assert_eq!(going(&snapshots(), older_than(750)), "", "p.0.init stands on them, and is younger");
        assert_eq!(
            going(&snapshots(), older_than(699)),
            "p.0.init p.0.dependencies",
            "not what is as old as that"
        );
        assert_eq!(
            going(&snapshots(), older_than(0)),
            "p.1.init p.1.dependencies q.1.init p.0.init p.0.dependencies clean"
        );
    }

    #[test]
    fn the_newest_are_kept_with_what_they_stand_on() {
        let keep = |keep| Retention { keep: Some(keep), ..Retention::default() };
        assert_eq!(going(&snapshots(), keep(1)), "q.1.init p.0.init p.0.dependencies");
        assert_eq!(going(&snapshots(), keep(6)), "");
        let both = Retention { keep: Some(1), unreachable: true, ..Retention::default() };
        assert_eq!(going(&snapshots(), both), "p.0.init p.0.dependencies");
        let mut with_own = snapshots();
        with_own.push(Snapshot { description: "mine".into(), ..snapshot("own", 600, Some("p.0.init")) });
        assert_eq!(going(&with_own, keep(1)), "q.1.init", "other snapshots stay, and what they stand on");
    }

    proptest! {
        #[test]
        fn nothing_is_deleted_before_or_without_what_stands_on_it(
            parents in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
            ours in any::<u16>(),
            older_than in proptest::option::of(0..14_i64),
            keep in proptest::option::of(0..14_usize),
            unreachable: bool,
        ) {
            let mut snapshots: Vec<Snapshot> = Vec::new();
            for (index, parent) in parents.iter().enumerate() {
                let parent = (index > 0).then(|| parent.index(index)).map(|parent| snapshots[parent].name.clone());
                let name = format!("p.{index}.init");
                let mut taken = snapshot(&name, 1000 - 14 + index as i64, parent.as_deref());
                if ours & (1 << index) != 0 {
                    taken.description.clear();
                }
                snapshots.push(taken);
            }
            let project = Project { id: "p".into(), revision: 1 };
            let retention = Retention { older_than, keep, unreachable };
            let going = expendable(&project, &IndexMap::new(), &snapshots, &retention, 1000);
            let at = |name: &str| going.iter().position(|going| going == name);
            for snapshot in &snapshots {
                if let Some(parent) = snapshot.parent.as_deref().and_then(at) {
                    prop_assert!(at(&snapshot.name).is_some_and(|child| child < parent));
                }
                prop_assert!(at(&snapshot.name).is_none() || !snapshot.description.is_empty());
            }
            if retention == Retention::default() {
                prop_assert!(going.is_empty());
            }
        }
    }
}

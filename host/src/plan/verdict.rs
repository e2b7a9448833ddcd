//! Which checkpoints still hold.

use std::time::Duration;

use indexmap::IndexMap;

use super::{Existing, Options, Verdict, Wanted};
use crate::{
    base::{Checkpoint, in_words},
    farm::Project,
    hypervisor::Snapshot,
};

/// Whether each checkpoint still holds: its key, its age, and those of all that it stands on.
pub(super) fn verdicts(
    project: &Project,
    wanted: &Wanted,
    existing: Option<&Existing>,
    options: &Options,
) -> IndexMap<Checkpoint, Verdict> {
    let mut stale_below: Option<Checkpoint> = None;
    let mut old_below: Option<Checkpoint> = None;
    let mut below: Option<(Checkpoint, &Snapshot)> = None;
    let mut verdicts = IndexMap::new();
    for checkpoint in Checkpoint::ALL {
        if checkpoint.phase().is_some_and(|phase| !wanted.has_steps(phase)) {
            verdicts.insert(checkpoint, Verdict::Unused);
            continue;
        }
        let Some(snapshot) = existing.and_then(|existing| snapshot(project, existing, checkpoint)) else {
            verdicts.insert(checkpoint, Verdict::Missing);
            continue;
        };
        let difference = wanted.difference(checkpoint, &snapshot.description);
        let age = too_old(wanted, checkpoint, snapshot, options).or_else(|| older_than(below?, snapshot));
        below = Some((checkpoint, snapshot));
        // A key is over all keys below it, so one that holds is enough; its age is not.
        let verdict = match (difference, stale_below, old_below) {
            (Some(_), Some(below), _) | (None, _, Some(below)) => {
                Verdict::Stale(format!("it stands on {below}, which is stale"))
            }
            (Some(reason), None, _) => Verdict::Stale(reason),
            (None, _, None) => age.clone().map_or(Verdict::Valid, Verdict::Stale),
        };
        if matches!(verdict, Verdict::Stale(_)) {
            stale_below.get_or_insert(checkpoint);
        }
        if age.is_some() {
            old_below.get_or_insert(checkpoint);
        }
        verdicts.insert(checkpoint, verdict);
    }
    verdicts
}

/// Whether what a checkpoint stands on was made anew after it: its own key may be the same as before.
fn older_than((below, under): (Checkpoint, &Snapshot), snapshot: &Snapshot) -> Option<String> {
    (snapshot.creation_time < under.creation_time).then(|| format!("{below} was made anew after it"))
}

/// Why a checkpoint's age is too great, if it is.
fn too_old(
    wanted: &Wanted,
    checkpoint: Checkpoint,
    snapshot: &Snapshot,
    options: &Options,
) -> Option<String> {
    // What it stands on is at least as old as itself, so the limits of the phases below count for it, too.
    let phases = Checkpoint::ALL
        .into_iter()
        .filter(|below| *below <= checkpoint)
        .filter_map(|below| below.phase().filter(|phase| wanted.has_steps(*phase)));
    let age = u64::try_from(options.now.saturating_sub(snapshot.creation_time)).unwrap_or_default();
    let mut limits = phases.filter_map(|phase| Some((phase, options.rules.of(phase).max_age?)));
    let (phase, limit) = limits.find(|(_, limit)| age > limit.as_secs())?;
    let (age, limit) = (in_words(Duration::from_secs(age)), in_words(limit));
    Some(format!("it is {age} old, and {phase} has a max_age of {limit}"))
}

/// A checkpoint's snapshot, if there is one.
pub(super) fn snapshot<'a>(
    project: &Project,
    existing: &'a Existing,
    checkpoint: Checkpoint,
) -> Option<&'a Snapshot> {
    let name = checkpoint.snapshot_name(&project.id, &project.revision.to_string());
    existing.snapshots.iter().find(|snapshot| snapshot.name == name)
}

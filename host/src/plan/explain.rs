//! Why each checkpoint holds or not, in full.

use serde::Serialize;

use super::{CheckpointRecord, Existing, Options, Verdict, Wanted, verdict};
use crate::{base::Checkpoint, farm::Project};

/// One checkpoint: its key, what went into it, and what differs from the one that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedCheckpoint {
    /// Which.
    pub checkpoint: Checkpoint,
    /// The name of its snapshot.
    pub snapshot: String,
    /// Whether it still holds.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What it would be recorded as if it were made now.
    pub wanted: CheckpointRecord,
    /// What the snapshot that exists is recorded as, if there is one with a record.
    pub stored: Option<CheckpointRecord>,
    /// When that snapshot was taken: seconds since the epoch.
    pub taken: Option<i64>,
    /// What it was made from that is wanted otherwise now. Nothing when its key holds or nothing is stored; the checkpoints
    /// below it have differences of their own.
    pub difference: Option<String>,
}

/// Explains the chain of a machine's checkpoints, from the shallowest to the deepest.
pub fn explain(
    project: &Project,
    wanted: &Wanted,
    existing: Option<&Existing>,
    options: &Options,
) -> Vec<ExplainedCheckpoint> {
    let wanted = wanted.assuming(existing);
    let explained = |(checkpoint, verdict): (Checkpoint, Verdict)| {
        let snapshot = existing.and_then(|existing| verdict::snapshot(project, existing, checkpoint));
        ExplainedCheckpoint {
            checkpoint,
            snapshot: checkpoint.snapshot_name(&project.id, &project.revision.to_string()),
            verdict,
            wanted: wanted.record(checkpoint),
            stored: snapshot.and_then(|snapshot| serde_json::from_str(&snapshot.description).ok()),
            taken: snapshot.map(|snapshot| snapshot.creation_time),
            difference: snapshot.and_then(|snapshot| wanted.difference(checkpoint, &snapshot.description)),
        }
    };
    verdict::verdicts(project, &wanted, existing, options).into_iter().map(explained).collect()
}

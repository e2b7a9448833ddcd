use std::{collections::HashMap, process::ExitCode};

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use super::full_name;
use crate::{
    base::{SnapshotKind, in_words},
    cli::{
        FarmArgs, planned::Planned, print, print_json, selection::Selection, table::table,
        workbench::Workbench,
    },
    hypervisor::Snapshot,
    image,
    plan::{CheckpointRecord, Existing, MachinePlan, Verdict},
};

/// List the snapshots of machines: checkpoints, whether they are still valid, and others.
///
/// SIZE is what a snapshot holds of its own: memory, and for one that is kept in files the disks' files, too. Disks' parts of
/// an internal one can't be told from others.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    selection: Selection,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    machine: String,
    snapshot: String,
    /// The checkpoint's key; `None` for a snapshot that farmhand did not make.
    key: Option<String>,
    created: String,
    /// Seconds since then.
    age: i64,
    /// In bytes; `None` when it can't be told, as on another host.
    size: Option<u64>,
    kind: SnapshotKind,
    memory: bool,
    /// `valid`, `stale: ...`, `unused`, or empty for a snapshot that is no checkpoint of this project.
    checkpoint: String,
}

impl List {
    pub(in crate::cli) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let planned = Planned::look(args, &self.selection).await?;
        let now = jiff::Timestamp::now().as_second();
        let mut rows = Vec::new();
        for machine in planned.machines() {
            if let Some(existing) = &machine.existing {
                let is_here = planned.workbench.hosts[machine.host].pool_dir.is_none();
                rows.extend(of_machine(&planned.workbench, &machine.plan, existing, is_here, now).await);
            }
        }
        if self.json {
            print_json(&rows)?;
        } else {
            let header = ["machine", "snapshot", "key", "age", "size", "kind", "checkpoint"];
            print(table(header, rows.into_iter().map(|row| row.for_people())))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Row {
    fn for_people(self) -> [String; 7] {
        let age = std::time::Duration::from_secs(u64::try_from(self.age).unwrap_or_default());
        let kind = match (self.kind, self.memory) {
            (SnapshotKind::Internal, false) => "internal, no memory".to_owned(),
            (kind, _) => kind.to_string(),
        };
        let key = self.key.as_deref().and_then(|key| key.get(..12)).unwrap_or_default().to_owned();
        let size = self.size.map(|size| HumanBytes(size).to_string()).unwrap_or_default();
        [self.machine, self.snapshot, key, in_words(age), size, kind, self.checkpoint]
    }
}

async fn of_machine(
    workbench: &Workbench,
    plan: &MachinePlan,
    existing: &Existing,
    is_here: bool,
    now: i64,
) -> Vec<Row> {
    let Existing { domain, snapshots } = existing;
    // libvirt does not tell what is inside of a disk.
    let inside = match domain.disks.first().filter(|_| is_here) {
        Some(disk) if snapshots.iter().any(|snapshot| snapshot.kind == SnapshotKind::Internal) => {
            image::inspect_disk(disk).await.map(|disk| disk.snapshots).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let inside: HashMap<_, _> =
        inside.into_iter().map(|snapshot| (snapshot.name, snapshot.vm_state_size)).collect();
    let verdict = |name: &str| {
        let mut verdicts = plan.checkpoints.iter();
        let (_, verdict) =
            verdicts.find(|(checkpoint, _)| full_name(workbench, checkpoint.name()) == name)?;
        Some(match verdict {
            Verdict::Valid => "valid".to_owned(),
            Verdict::Stale(reason) => format!("stale: {reason}"),
            Verdict::Missing | Verdict::Unused => "unused".to_owned(),
        })
    };
    let row = |snapshot: &Snapshot| Row {
        machine: domain.name.clone(),
        key: CheckpointRecord::of(&snapshot.description).map(|record| record.key.hex()),
        created: jiff::Timestamp::from_second(snapshot.creation_time)
            .map(|time| time.to_string())
            .unwrap_or_default(),
        age: now.saturating_sub(snapshot.creation_time),
        size: match snapshot.kind {
            SnapshotKind::Internal => inside.get(&snapshot.name).copied(),
            SnapshotKind::External | SnapshotKind::Disk if is_here => allocated(snapshot),
            SnapshotKind::External | SnapshotKind::Disk => None,
        },
        kind: snapshot.kind,
        memory: snapshot.live,
        checkpoint: verdict(&snapshot.name).unwrap_or_default(),
        snapshot: snapshot.name.clone(),
    };
    snapshots.iter().map(row).collect()
}

/// What a snapshot's files occupy; `None` when one of them can't be looked at.
fn allocated(snapshot: &Snapshot) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    // A block is of 512 bytes, whatever the file system's are.
    let sizes = snapshot.files.iter().map(|file| file.metadata().ok().map(|file| file.blocks() * 512));
    sizes.sum()
}

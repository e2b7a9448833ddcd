use std::fmt;

use serde::{Deserialize, Serialize};

/// How a snapshot keeps a machine's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Memory and disks inside of the machine's qcow2 disks. It can't be taken of a machine with UEFI variables in flash
    /// memory, or with writable disks of other formats.
    #[default]
    Internal,
    /// Memory in a file, and the disks by further files on top of theirs.
    External,
    /// The disks alone, by further files on top of theirs, of a machine that is shut off. After a restore it boots.
    Disk,
}

impl SnapshotKind {
    /// Its name, as it stands in definitions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

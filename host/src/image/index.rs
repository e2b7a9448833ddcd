//! What is known of sources that were fetched: one small file each.

use std::{io, os::unix::fs::MetadataExt as _};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// What was fetched from a source, or made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The source's URI, as it was given: for people.
    pub(super) uri: String,
    /// Digest of the content.
    pub(super) digest: Digest,
    /// Size of the content in bytes.
    pub(super) size: u64,
    /// What a local file looked like.
    pub(super) stat: Option<Stat>,
    /// The checksum that it was found to have, as the source's definition says it.
    pub(super) verified: Option<String>,
    /// The content that it was made from, for what was not fetched but unpacked or converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Digest>,
}

/// What changes when a file's content does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    device: u64,
    inode: u64,
}

impl From<&std::fs::Metadata> for Stat {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Reads an entry; one that can't be read counts as none: it is made again.
pub(super) fn read(path: &Utf8Path) -> Option<Entry> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Replaces an entry. The caller holds the source's lock.
pub(super) fn write(path: &Utf8Path, entry: &Entry) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec_pretty(entry)?)?;
    std::fs::rename(&temporary, path)
}

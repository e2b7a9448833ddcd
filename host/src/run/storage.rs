use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use indexmap::IndexMap;

use super::LockError;
use crate::{
    base::{Digest, Problem},
    farm::Machine,
    hypervisor::HypervisorError,
    image::{Format, ImageError},
};

/// A file that a machine is made from, fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// What it is.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its format, if it is a disk image.
    pub format: Option<Format>,
    /// What a guest sees of it as a disk image, in bytes; of other files their size.
    pub virtual_size: u64,
}

/// What a machine's first boot is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The image that holds it.
    pub path: Utf8PathBuf,
    /// The SSH host key that the guest gets, in OpenSSH's one-line form.
    pub host_key: String,
}

/// Is told what goes on.
pub type ProgressInWords = Arc<dyn Fn(String) + Send + Sync>;

/// Images and disks of machines.
#[async_trait]
pub trait Storage: Send + Sync {
    /// The digests of a machine's files, by their names in [`Machine::resources`], as far as they are known without reading
    /// them.
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>>;

    /// The same, but files of this host that changed since they were last read are read again. The network is not asked.
    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>>;

    /// Fetches and verifies all of a machine's files. `progress` is told what goes on, in words.
    async fn fetch(
        &self,
        machine: &Machine,
        progress: ProgressInWords,
    ) -> Result<IndexMap<String, Fetched>, StorageError>;

    /// Makes a machine's disks: overlays on its fetched images, in the order of its disks. Those that it had are replaced.
    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError>;

    /// Makes the seed of a machine's first boot, beside its disks; nothing for a machine without cloud-init.
    async fn create_seed(&self, machine: &Machine) -> Result<Option<Seed>, StorageError>;

    /// Removes a machine's disks and its seed. Does nothing when there are none.
    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError>;
}

/// Why images or disks can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// An image can't be fetched, or is not what it should be.
    #[error("can't get its {name}")]
    Fetch {
        /// Which: its name in [`Machine::resources`].
        name: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// An image is not what it was when it was pinned.
    #[error(
        "its {name} has changed: {uri} had the SHA-256 digest {pinned} when it was first used, and has {found} now; nothing of it was kept. If that is as it should be, accept it: farmhand image pull --accept"
    )]
    Changed {
        /// Which: its name in [`Machine::resources`].
        name: String,
        /// Where it comes from.
        uri: String,
        /// The digest that was pinned.
        pinned: String,
        /// The digest that it has now.
        found: String,
    },
    /// What is pinned can't be read or written.
    #[error(transparent)]
    Pins(Box<Problem>),
    /// A disk can't be made.
    #[error("can't make the disk {path}")]
    Disk {
        /// Its file.
        path: Utf8PathBuf,
        /// Why.
        source: Box<ImageError>,
    },
    /// The image does not fit in the disk.
    #[error(
        "can't make the disk {path}: the image holds {held} bytes, so a disk of {size} bytes would cut it off"
    )]
    TooSmall {
        /// The disk's file.
        path: Utf8PathBuf,
        /// What the definition says, in bytes.
        size: u64,
        /// What a guest sees of the image, in bytes.
        held: u64,
    },
    /// The storage pools of a hypervisor on another host.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The lock of an image that is brought to another host.
    #[error(transparent)]
    Lock(LockError),
    /// The seed of the first boot can't be made.
    #[error("can't make the seed of its first boot, {path}")]
    Seed {
        /// Its file.
        path: Utf8PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine's folder has the disks of one on another hypervisor of this host.
    #[error(
        "the disks of {machine} are those of a machine of that name on {hypervisor}: remove that one (farmhand --connect {hypervisor} \
         destroy '{machine}', or farmhand prune --leaks if it is gone), or give this one another vm.metadata.name"
    )]
    OfAnother {
        /// The machine.
        machine: String,
        /// The other hypervisor's URI.
        hypervisor: String,
    },
    /// The machine's folder can't be made or removed.
    #[error("can't prepare the folder {path}")]
    Folder {
        /// The folder.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

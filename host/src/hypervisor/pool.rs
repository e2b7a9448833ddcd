//! Storage pools of a hypervisor: how files get to one that shares no folder with this host.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};

use super::HypervisorError;

/// Is told how many bytes have gone up.
pub type Uploaded = Arc<dyn Fn(u64) + Send + Sync>;

/// The storage pools of a hypervisor that are folders on its host, and the volumes in them, which are files.
///
/// A method that changes something returns when libvirt has done it. Pools and volumes are named by their names.
#[async_trait]
pub trait Pools: Send + Sync {
    /// The names of all pools, active or not, sorted.
    async fn pools(&self) -> Result<Vec<String>, HypervisorError>;

    /// Makes sure that there is a pool of that name and that it is active. One that is missing is made, with its folder and
    /// those above. It fails where the pool is another folder.
    async fn ensure_pool(&self, name: &str, folder: &Utf8Path) -> Result<(), HypervisorError>;

    /// Removes a pool with all its volumes and its folder. Does nothing when there is none of that name.
    async fn remove_pool(&self, name: &str) -> Result<(), HypervisorError>;

    /// The volumes of a pool, which is started if it is off; also those that somebody else has made in its folder. Sorted by name.
    /// `None` when there is no pool of that name.
    async fn volumes(&self, pool: &str) -> Result<Option<Vec<Volume>>, HypervisorError>;

    /// Makes a volume, and gives its path. One of that name must not exist.
    async fn create_volume(&self, pool: &str, volume: &NewVolume) -> Result<Utf8PathBuf, HypervisorError>;

    /// Replaces a volume's content by that of a file of this host. Holes of the file are not sent: there the volume must hold
    /// zeros, as a new one does.
    async fn upload_volume(
        &self,
        pool: &str,
        name: &str,
        file: &Utf8Path,
        uploaded: Uploaded,
    ) -> Result<(), HypervisorError>;

    /// Deletes a volume. Does nothing when there is none of that name.
    async fn delete_volume(&self, pool: &str, name: &str) -> Result<(), HypervisorError>;
}

/// A volume as libvirt has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its file on the hypervisor's host.
    pub path: Utf8PathBuf,
    /// The file that it stands on, if it is a layer.
    pub backing: Option<Utf8PathBuf>,
    /// What it holds, in bytes: of a disk image what a guest sees.
    pub capacity: u64,
}

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// What it is.
    pub content: NewContent,
    /// What it holds, in bytes. It takes no space before something is written to it.
    pub capacity: u64,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewContent {
    /// Bytes, all of them zero. Only its owner may read it, and those whom libvirt lets.
    Bytes,
    /// A qcow2 layer on another volume.
    Layer {
        /// The other volume's path.
        backing: Utf8PathBuf,
        /// Its format (`qcow2`, `raw`), which is pinned in the layer.
        format: &'static str,
    },
}

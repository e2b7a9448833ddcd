//! Hypervisors: domains, their snapshots, their guest agent, and the networks and storage pools that they stand on. Only this room knows libvirt.
//!
//! [`Hypervisor`] has two implementations that obey the same contract tests: the real one, [`libvirt`], and [`simulated`].

mod capabilities_xml;
#[cfg(test)]
mod contract;
pub mod domain_xml;
mod kvm;
pub mod libvirt;
mod lock_xml;
mod network;
mod network_xml;
mod pool;
mod pool_xml;
pub mod simulated;
mod snapshot_xml;
mod xml;

use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use network::{
    Address, AddressSource, Interface, Lease, Network, Networks, NewNetwork, Reservation, Subnet,
};
pub use pool::{NewContent, NewVolume, Pools, Uploaded, Volume};

use crate::base::SnapshotKind;

/// A connection to one hypervisor. Cheap to share: every method takes `&self` and may run beside any other.
///
/// A method that changes something returns when libvirt has done it. Domains and snapshots are named by their names.
#[async_trait]
pub trait Hypervisor: Networks + Pools + Send + Sync {
    /// Its connection URI, which tells it from other hypervisors.
    fn uri(&self) -> &str;

    /// What it can run.
    async fn capabilities(&self) -> Result<Capabilities, HypervisorError>;

    /// All domains that exist there, running or not, farmhand's and others', sorted by name.
    async fn domains(&self) -> Result<Vec<Domain>, HypervisorError>;

    /// One domain, or `None` if there is none of that name.
    async fn domain(&self, name: &str) -> Result<Option<Domain>, HypervisorError>;

    /// Defines a domain from its XML, or redefines the one of that name.
    async fn define(&self, xml: &str) -> Result<(), HypervisorError>;

    /// Replaces what farmhand keeps in the domain's metadata (the element in farmhand's own namespace).
    async fn set_metadata(&self, name: &str, metadata: &DomainMetadata) -> Result<(), HypervisorError>;

    /// Boots a domain that is shut off. Does nothing when it runs already; resumes it when it is paused.
    async fn start(&self, name: &str) -> Result<(), HypervisorError>;

    /// Presses the reset button of a running domain.
    async fn reset(&self, name: &str) -> Result<(), HypervisorError>;

    /// Asks a running domain to shut down (guest agent, else ACPI) and waits until it is off. `Ok(false)` when it is not
    /// off by the end of `timeout`. Does nothing when it is off already.
    async fn shutdown(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError>;

    /// Pulls the plug of a running domain. Does nothing when it is off already.
    async fn destroy(&self, name: &str) -> Result<(), HypervisorError>;

    /// Undefines a domain that is shut off, with its snapshots' metadata, managed save image and NVRAM. Its disks stay:
    /// they are files of the one who made them. Does nothing when there is none of that name.
    async fn undefine(&self, name: &str) -> Result<(), HypervisorError>;

    /// The domain's snapshots, oldest first.
    async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, HypervisorError>;

    /// Takes a snapshot of disks and, when the domain runs, memory. A snapshot of that name must not exist, and for one of
    /// the kind [`SnapshotKind::Disk`] the domain must be off. Files of an external one are made in the folder of the
    /// domain's first disk.
    async fn create_snapshot(&self, name: &str, snapshot: &NewSnapshot) -> Result<(), HypervisorError>;

    /// Puts the domain into the state of a snapshot: it runs afterwards when it ran at that time. Connections into the guest
    /// break. The domain's metadata becomes what it was at that time, too.
    async fn revert(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError>;

    /// Deletes one snapshot, with its files; its children become its parent's. Does nothing when there is none of that name.
    /// An external one that has children is refused unless the domain's present state stands on it.
    async fn delete_snapshot(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError>;

    /// Waits until the guest agent of a running domain answers: by libvirt's lifecycle event of the agent, not by polling.
    /// `Ok(false)` when it does not by the end of `timeout`, or when the domain has no agent channel.
    async fn wait_for_agent(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError>;

    /// Sends the guest agent one command (QEMU guest agent protocol, JSON) and gives its whole answer
    /// (`{"return": ...}`).
    async fn agent_command(
        &self,
        name: &str,
        command: &serde_json::Value,
    ) -> Result<serde_json::Value, HypervisorError>;

    /// Puts the guest's clock right with the guest agent.
    async fn synchronize_clock(&self, name: &str) -> Result<(), HypervisorError>;

    /// Takes the lock of a domain name for all clients of this hypervisor, whether there is such a domain or not; or renews
    /// it with another owner's text, when the lock of that id has it already. Of several that try at once one gets it. It is
    /// not released when its owner ends or loses the connection.
    async fn lock(&self, name: &str, lock: &DomainLock) -> Result<Locked, HypervisorError>;

    /// Who has the lock of a domain name; `None` when nobody has, also where the hypervisor keeps no locks.
    async fn lock_holder(&self, name: &str) -> Result<Option<DomainLock>, HypervisorError>;

    /// Releases the lock of that id, whoever has it. Does nothing when it is not there, or when another one has taken its
    /// place.
    async fn unlock(&self, name: &str, id: Uuid) -> Result<(), HypervisorError>;
}

/// What a hypervisor can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The hypervisor's own architecture, in libvirt's words (`x86_64`).
    pub host_arch: String,
    /// Its memory in MiB, used or not.
    pub memory: u64,
    /// Its CPUs.
    pub cpus: u32,
    /// Guests that it can run.
    pub guests: Vec<GuestCapability>,
}

/// One combination of architecture and domain type that a hypervisor can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCapability {
    /// Architecture in libvirt's words (`x86_64`, `aarch64`).
    pub arch: String,
    /// `kvm` (only where a guest truly runs under it) or `qemu`.
    pub domain_type: String,
    /// Path of the emulator.
    pub emulator: Utf8PathBuf,
}

/// A domain as libvirt has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: DomainState,
    /// What farmhand keeps in its metadata; `None` for a domain that is not farmhand's.
    pub metadata: Option<DomainMetadata>,
    /// Port on the hypervisor's loopback that leads to the guest's port 22, if its XML forwards one.
    pub ssh_port: Option<u16>,
    /// Its network interfaces, in the XML's order.
    pub interfaces: Vec<Interface>,
    /// The disks' files, in the XML's order.
    pub disks: Vec<Utf8PathBuf>,
    /// The memory that it may have, in MiB.
    pub memory: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
}

/// Whether a domain runs. libvirt's other states are mapped to the nearest of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainState {
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It is off.
    ShutOff,
    /// It ended by a crash.
    Crashed,
}

impl DomainState {
    /// Whether the domain is active in libvirt's sense: it takes memory and CPUs.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// What farmhand keeps in a domain's metadata, as JSON in an element `<farmhand:machine>` of namespace
/// [`METADATA_NAMESPACE`]. It is the only record of a machine that exists outside the user's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainMetadata {
    /// Key of the machine's `clean` state: what it was installed from (see [`crate::plan`]), as JSON.
    pub origin: serde_json::Value,
    /// The guest's SSH host key, once known, in OpenSSH's one-line form (`ssh-ed25519 AAAA...`).
    pub ssh_host_key: Option<String>,
}

/// Namespace of [`DomainMetadata`] in a domain's XML.
pub const METADATA_NAMESPACE: &str = "https://farmhand.dev/xmlns/domain/1.0";

/// A snapshot as libvirt has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its description; farmhand's own hold the checkpoint's key as JSON.
    pub description: String,
    /// When it was taken: seconds since the epoch.
    pub creation_time: i64,
    /// Its parent's name.
    pub parent: Option<String>,
    /// Whether it holds memory: the domain ran when it was taken.
    pub live: bool,
    /// How it keeps the domain's state.
    pub kind: SnapshotKind,
    /// The files that hold this state, but for what they stand on: memory and disks; none for an internal one.
    pub files: Vec<Utf8PathBuf>,
}

/// A snapshot to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// How it keeps the domain's state.
    pub kind: SnapshotKind,
}

/// A lock on a domain name, kept by the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainLock {
    /// Which lock: a new one each time it is taken.
    pub id: Uuid,
    /// Who has it, in a text of the owner's. The hypervisor does not read it.
    pub owner: String,
}

/// The outcome of [`Hypervisor::lock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locked {
    /// The caller has the lock.
    Ours,
    /// Somebody else has it.
    Theirs(DomainLock),
    /// This hypervisor keeps no locks, and why, in libvirt's words.
    Unsupported(String),
}

/// Why a call to a hypervisor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// No connection could be made.
    #[error("can't connect to hypervisor {uri}: {message}")]
    Connect {
        /// The connection URI.
        uri: String,
        /// libvirt's own words.
        message: String,
    },
    /// libvirt refused a call.
    #[error("libvirt could not {operation}: {message}")]
    Libvirt {
        /// What was tried, e.g. `revert domain debian_vs_amd64 to snapshot clean`.
        operation: String,
        /// libvirt's own words.
        message: String,
    },
    /// A call took too long.
    #[error("libvirt did not {operation} within {} s", timeout.as_secs())]
    TimedOut {
        /// What was tried.
        operation: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// An answer of libvirt's could not be read.
    #[error("could not read libvirt's answer when asked to {operation}: {message}")]
    Answer {
        /// What was tried.
        operation: String,
        /// What is wrong with it.
        message: String,
    },
}

use std::fmt;

use camino::Utf8PathBuf;
use serde_json::Value;

use crate::hypervisor::{Address, Domain, DomainLock, Lease, Locked, Network, Snapshot, Volume};

/// A method of [`Hypervisor`](crate::hypervisor::Hypervisor), or of one that it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Method {
    Capabilities,
    Domains,
    Domain,
    Define,
    SetMetadata,
    Start,
    Reset,
    Shutdown,
    Destroy,
    Undefine,
    Snapshots,
    CreateSnapshot,
    Revert,
    DeleteSnapshot,
    WaitForAgent,
    AgentCommand,
    SynchronizeClock,
    Lock,
    LockHolder,
    Unlock,
    Networks,
    Network,
    DefineNetwork,
    StartNetwork,
    ReserveAddress,
    ReleaseAddress,
    Leases,
    Addresses,
    Pools,
    EnsurePool,
    RemovePool,
    Volumes,
    CreateVolume,
    UploadVolume,
    DeleteVolume,
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The domain, network or storage pool it is about; empty for those about none.
    pub domain: String,
    /// The snapshot, the agent's command, the address, or the volume; else empty.
    pub argument: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.method, self.domain, self.argument)
    }
}

/// How a call goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and fails with this message.
    Fail(String),
    /// It does nothing and never returns.
    Hang,
    /// It does what it should, and then fails with this message: its answer was lost.
    FailAfter(String),
    /// It dies half way, with this message: a domain that was being started or saved stays paused, one that was being put back
    /// into a snapshot is off, one that was being undefined has lost its snapshots. Calls with nothing half way just fail.
    HalfWay(String),
    /// It does nothing and says that it did. Where a method has a result, the call fails instead.
    Pretend,
}

/// What a call says that pretends to have done something.
pub(super) trait Pretended: Sized {
    fn pretended() -> Option<Self> {
        None
    }
}

impl Pretended for () {
    fn pretended() -> Option<Self> {
        Some(())
    }
}
impl Pretended for Option<Domain> {}
impl Pretended for Vec<Domain> {}
impl Pretended for Vec<Snapshot> {}
impl Pretended for Vec<Network> {}
impl Pretended for Option<Network> {}
impl Pretended for Vec<Lease> {}
impl Pretended for Vec<Address> {}
impl Pretended for Vec<String> {}
impl Pretended for Option<Vec<Volume>> {}
impl Pretended for Utf8PathBuf {}
impl Pretended for Value {}

impl Pretended for Option<DomainLock> {
    fn pretended() -> Option<Self> {
        Some(None)
    }
}

impl Pretended for Locked {
    fn pretended() -> Option<Self> {
        Some(Self::Ours)
    }
}

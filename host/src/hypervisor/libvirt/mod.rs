//! The real hypervisor: libvirt.
//!
//! Every call into libvirt blocks, so calls run on a few threads of the connection's own; waiting is done on libvirt's
//! events, not by asking again and again.
//!
//! An ordinary user's `qemu:///session` is reached through a socket below `XDG_RUNTIME_DIR`. Where that variable is not set,
//! libvirt uses `~/.cache/libvirt`, and starts a second daemon there that knows nothing of the first one's domains: set it
//! the same way for all programs. That daemon is started by libvirt when there is none, as a child of PID 1; where PID 1
//! does not reap the children that it is given, a stopped domain's QEMU stays a zombie, and libvirt waits for it for seconds.

mod agent;
#[cfg(test)]
mod agent_tests;
mod calls;
mod events;
mod networks;
mod pools;
mod threads;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;
use uuid::Uuid;
use virt::{connect::Connect, domain::Domain as VirtDomain};

use self::{
    calls::Fault,
    events::Event,
    threads::{NoResult, Threads},
};
use super::{
    Capabilities, Domain, DomainLock, DomainMetadata, Hypervisor, HypervisorError, Locked, NewSnapshot,
    Snapshot, kvm,
};
use crate::base::Dirs;

/// How long a connection may take to open: it may lead through SSH to another host.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// How long a call that only asks may take.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// How long a call that changes something may take: snapshots write a guest's memory to disk.
const CHANGE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The URI that libvirt's own programs would use: `LIBVIRT_DEFAULT_URI`, else root's `qemu:///system` or an ordinary user's
/// `qemu:///session`.
pub fn default_uri() -> String {
    match std::env::var("LIBVIRT_DEFAULT_URI") {
        Ok(uri) if !uri.is_empty() => uri,
        _ if rustix::process::geteuid().is_root() => "qemu:///system".to_owned(),
        _ => "qemu:///session".to_owned(),
    }
}

/// Whether the hypervisor of a [connection URI](https://libvirt.org/uri.html) sees the files of this host: it is this host, and
/// its daemon is reached at its usual socket.
pub fn shares_files(uri: &str) -> bool {
    uri.contains(":///") && !uri.contains("socket=")
}

/// A libvirt connection. It closes when this is dropped and its last call has returned.
pub struct Libvirt {
    uri: String,
    threads: Threads,
    capabilities: OnceCell<Capabilities>,
}

impl Libvirt {
    /// Connects to the hypervisor at a [connection URI](https://libvirt.org/uri.html), within 60 s.
    ///
    /// # Errors
    /// [`HypervisorError::Connect`] with libvirt's own words.
    pub async fn connect(uri: &str) -> Result<Self, HypervisorError> {
        let error = |message| HypervisorError::Connect { uri: uri.to_owned(), message };
        if uri.contains('\0') {
            return Err(error("a URI can't hold a NUL".to_owned()));
        }
        let threads = tokio::time::timeout(CONNECT_LIMIT, Threads::open(uri))
            .await
            .map_err(|_| error(format!("no answer within {} s", CONNECT_LIMIT.as_secs())))?
            .map_err(error)?;
        Ok(Self { uri: uri.to_owned(), threads, capabilities: OnceCell::new() })
    }

    async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        operation: &str,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        Self::answer(operation, self.threads.run(limit, call).await)
    }

    /// A call that takes as long as a file is large, and is not to keep others waiting.
    async fn long_call<T: Send + 'static>(
        &self,
        limit: Duration,
        operation: &str,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        Self::answer(operation, self.threads.run_long(limit, call).await)
    }

    /// A call about a lock: short, and not to be kept waiting by long ones.
    async fn lock_call<T: Send + 'static>(
        &self,
        operation: &str,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        Self::answer(operation, self.threads.run_urgently(ASK_LIMIT, call).await)
    }

    fn answer<T>(operation: &str, result: Result<Result<T, Fault>, NoResult>) -> Result<T, HypervisorError> {
        let operation = operation.to_owned();
        match result {
            Err(NoResult::TimedOut(timeout)) => Err(HypervisorError::TimedOut { operation, timeout }),
            Err(NoResult::Lost) => Err(HypervisorError::Libvirt {
                operation,
                message: "the call ended without a result".to_owned(),
            }),
            Ok(Err(Fault::Libvirt(error))) => {
                Err(HypervisorError::Libvirt { operation, message: error.message().to_owned() })
            }
            Ok(Err(Fault::Refused(message))) => Err(HypervisorError::Libvirt { operation, message }),
            Ok(Err(Fault::Answer(message))) => Err(HypervisorError::Answer { operation, message }),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// A call about one domain.
    async fn domain_call<T: Send + 'static>(
        &self,
        limit: Duration,
        operation: &str,
        name: &str,
        call: impl FnOnce(&VirtDomain) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let name = name.to_owned();
        self.call(limit, operation, move |connect| call(&calls::lookup(connect, &name)?)).await
    }

    fn events(&self, operation: &str) -> Result<Waiter, HypervisorError> {
        let operation = operation.to_owned();
        match self.threads.events() {
            Some(events) => Ok(Waiter { events, operation }),
            None => Err(Waiter::closed(operation)),
        }
    }
}

/// Waits for events about a domain. It must be made before the state is looked at, not to miss what happens in between.
struct Waiter {
    events: tokio::sync::broadcast::Receiver<Event>,
    operation: String,
}

impl Waiter {
    /// Returns when something may have changed about the domain.
    async fn changed(&mut self, name: &str) -> Result<(), HypervisorError> {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            match self.events.recv().await {
                Ok(Event::Changed(changed)) if changed == name => return Ok(()),
                Ok(Event::Changed(_)) => {}
                // What was missed may have been about this domain.
                Err(RecvError::Lagged(_)) => return Ok(()),
                Ok(Event::Closed) | Err(RecvError::Closed) => {
                    return Err(Self::closed(self.operation.clone()));
                }
            }
        }
    }

    fn closed(operation: String) -> HypervisorError {
        HypervisorError::Libvirt { operation, message: "the connection to libvirt was lost".to_owned() }
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn capabilities(&self) -> Result<Capabilities, HypervisorError> {
        let operation = "tell its capabilities";
        let capabilities = self.capabilities.get_or_try_init(async || {
            let mut capabilities = self.call(ASK_LIMIT, operation, calls::capabilities).await?;
            // Then the emulator that libvirt would use with KVM runs here, too, and can be tried.
            if self.uri.starts_with("qemu") && shares_files(&self.uri) {
                let session = self.uri.starts_with("qemu:///session");
                let cache = Dirs::of_user().ok().map(|dirs| dirs.probes());
                kvm::keep_if_usable(&mut capabilities, session, cache.as_deref()).await;
            }
            Ok(capabilities)
        });
        capabilities.await.cloned()
    }

    async fn domains(&self) -> Result<Vec<Domain>, HypervisorError> {
        self.call(ASK_LIMIT, "list the domains", calls::domains).await
    }

    async fn domain(&self, name: &str) -> Result<Option<Domain>, HypervisorError> {
        let operation = format!("describe domain {name}");
        let name = name.to_owned();
        self.call(ASK_LIMIT, &operation, move |connect| calls::domain(connect, &name)).await
    }

    async fn define(&self, xml: &str) -> Result<(), HypervisorError> {
        let operation = match super::domain_xml::name(xml) {
            Ok(name) => format!("define domain {name}"),
            Err(error) => {
                let operation = "define a domain".to_owned();
                return Err(HypervisorError::Libvirt { operation, message: error.to_string() });
            }
        };
        let xml = xml.to_owned();
        self.call(CHANGE_LIMIT, &operation, move |connect| calls::define(connect, &xml)).await
    }

    async fn set_metadata(&self, name: &str, metadata: &DomainMetadata) -> Result<(), HypervisorError> {
        let metadata = metadata.clone();
        self.domain_call(CHANGE_LIMIT, &format!("set the metadata of domain {name}"), name, move |domain| {
            calls::set_metadata(domain, &metadata)
        })
        .await
    }

    async fn start(&self, name: &str) -> Result<(), HypervisorError> {
        self.domain_call(CHANGE_LIMIT, &format!("start domain {name}"), name, calls::start).await
    }

    async fn reset(&self, name: &str) -> Result<(), HypervisorError> {
        let operation = format!("reset domain {name}");
        self.domain_call(CHANGE_LIMIT, &operation, name, |domain| Ok(domain.reset().map(drop)?)).await
    }

    async fn shutdown(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError> {
        let operation = format!("shut down domain {name}");
        let mut waiter = self.events(&operation)?;
        let off = async {
            if self.domain_call(ASK_LIMIT, &operation, name, calls::is_off).await? {
                return Ok(());
            }
            self.domain_call(CHANGE_LIMIT, &operation, name, calls::shutdown).await?;
            while !self.domain_call(ASK_LIMIT, &operation, name, calls::is_off).await? {
                waiter.changed(name).await?;
            }
            Ok(())
        };
        match tokio::time::timeout(timeout, off).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    async fn destroy(&self, name: &str) -> Result<(), HypervisorError> {
        self.domain_call(CHANGE_LIMIT, &format!("stop domain {name}"), name, calls::destroy).await
    }

    async fn undefine(&self, name: &str) -> Result<(), HypervisorError> {
        let operation = format!("undefine domain {name}");
        let name = name.to_owned();
        self.call(CHANGE_LIMIT, &operation, move |connect| calls::undefine(connect, &name)).await
    }

    async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, HypervisorError> {
        self.domain_call(ASK_LIMIT, &format!("list the snapshots of domain {name}"), name, calls::snapshots)
            .await
    }

    async fn create_snapshot(&self, name: &str, snapshot: &NewSnapshot) -> Result<(), HypervisorError> {
        let operation = format!("take snapshot {} of domain {name}", snapshot.name);
        let snapshot = snapshot.clone();
        self.domain_call(CHANGE_LIMIT, &operation, name, move |domain| {
            calls::create_snapshot(domain, &snapshot)
        })
        .await
    }

    async fn revert(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError> {
        let operation = format!("revert domain {name} to snapshot {snapshot}");
        let snapshot = snapshot.to_owned();
        self.domain_call(CHANGE_LIMIT, &operation, name, move |domain| calls::revert(domain, &snapshot)).await
    }

    async fn delete_snapshot(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError> {
        let operation = format!("delete snapshot {snapshot} of domain {name}");
        let snapshot = snapshot.to_owned();
        self.domain_call(CHANGE_LIMIT, &operation, name, move |domain| {
            calls::delete_snapshot(domain, &snapshot)
        })
        .await
    }

    async fn wait_for_agent(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError> {
        match tokio::time::timeout(timeout, agent::wait(self, name)).await {
            Ok(result) => result,
            Err(_) => Ok(false),
        }
    }

    async fn agent_command(&self, name: &str, command: &Value) -> Result<Value, HypervisorError> {
        agent::command(self, name, command, agent::COMMAND_LIMIT).await
    }

    async fn synchronize_clock(&self, name: &str) -> Result<(), HypervisorError> {
        let operation = format!("set the clock of domain {name}");
        self.domain_call(agent::COMMAND_LIMIT, &operation, name, calls::synchronize_clock).await
    }

    async fn lock(&self, name: &str, lock: &DomainLock) -> Result<Locked, HypervisorError> {
        let (operation, name, lock) = (format!("lock domain {name}"), name.to_owned(), lock.clone());
        self.lock_call(&operation, move |connect| calls::lock(connect, &name, &lock)).await
    }

    async fn lock_holder(&self, name: &str) -> Result<Option<DomainLock>, HypervisorError> {
        let (operation, name) = (format!("say who has locked domain {name}"), name.to_owned());
        self.lock_call(&operation, move |connect| calls::lock_holder(connect, &name)).await
    }

    async fn unlock(&self, name: &str, id: Uuid) -> Result<(), HypervisorError> {
        let operation = format!("release the lock of domain {name}");
        self.lock_call(&operation, move |connect| calls::unlock(connect, id)).await
    }
}

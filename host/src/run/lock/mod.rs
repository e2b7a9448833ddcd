//! Locks: who works on a machine.
//!
//! Two locks together. One on a file keeps out other processes of this host that use the same data folder, and ends with the
//! process in whatever way. One at the hypervisor keeps out all others, also on other hosts; as it outlives its owner, it
//! must be seen when an owner is dead: on the same host by its process being gone, from another one by the lock not being
//! renewed while somebody watches it. Clocks of different hosts are never compared.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use uuid::Uuid;

use super::owner::{Alive, Owner};
use crate::hypervisor::{DomainLock, Hypervisor, HypervisorError, Locked};

/// Between two renewals of a lock at the hypervisor.
const RENEW: Duration = Duration::from_secs(5);
/// An owner that could not renew its lock for this long has lost it: soon another one may take it.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// A lock that is not renewed while it is watched for this long has a dead owner.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long the hypervisor may take to release a lock.
const UNLOCK_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a lock that is watched.
const WATCH: Duration = Duration::from_secs(1);
/// How often a lock is tried that others take and release meanwhile.
const ATTEMPTS: u32 = 8;
/// The largest lock file that is read.
const MAX_FILE: u64 = 4096;

/// Why a machine could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process works on it.
    #[error("another farmhand works on {machine}{}; wait until it is done, or end that process", told(owner))]
    Held {
        /// The machine.
        machine: String,
        /// Who: process, host and time; empty when that can't be told.
        owner: String,
    },
    /// Another process has taken the lock while it was held here, or may do so at any moment.
    #[error(
        "the lock of {machine} is lost: {why}; another farmhand may work on it, so nothing more is done here"
    )]
    Lost {
        /// The machine.
        machine: String,
        /// What happened.
        why: String,
    },
    /// The lock file can't be used.
    #[error("can't lock {path}")]
    File {
        /// The lock file.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The hypervisor refused.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
}

fn told(owner: &str) -> String {
    if owner.is_empty() { String::new() } else { format!(" ({owner})") }
}

/// What there is to tell about a lock that is being taken or released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What is waited for.
    Progress(String),
    /// Something may be wrong.
    Warning(String),
}

/// The locks of one process's work.
#[derive(Debug)]
pub struct Locks {
    folder: Utf8PathBuf,
    warned: AtomicBool,
}

impl Locks {
    /// `folder` holds the lock files.
    pub fn new(folder: Utf8PathBuf) -> Self {
        Self { folder, warned: AtomicBool::new(false) }
    }

    /// Does work on a machine while it is locked. The work is dropped where it stands when the lock is lost.
    pub async fn during<T>(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        machine: &str,
        tell: &(dyn Fn(Notice) + Sync),
        work: impl Future<Output = T> + Send,
    ) -> Result<T, LockError> {
        let lock = self.acquire(hypervisor, machine, tell).await?;
        let result = tokio::select! {
            biased;
            result = work => Ok(result),
            lost = lock.lost() => Err(lost),
        };
        if let Err(error) = lock.release().await {
            // The work is done; the lock is seen to be a dead owner's once this process has ended.
            tell(Notice::Warning(format!("its lock could not be released: {error}")));
        }
        result
    }

    /// Locks a machine, for this host and for all clients of its hypervisor. It fails at once when its owner is seen to be
    /// alive. An owner on another host has to be watched, for up to 30 s.
    async fn acquire(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        machine: &str,
        tell: &(dyn Fn(Notice) + Sync),
    ) -> Result<MachineLock, LockError> {
        let file = lock_file(&self.folder, machine)?;
        let mut lock = MachineLock { machine: machine.to_owned(), renewal: None, file: Some(file) };
        let mut attempts = ATTEMPTS;
        let beat = Beat { owner: Owner::this_process(), beat: 0 };
        let id = Id::new();
        loop {
            let held = match hypervisor.lock(machine, &beat.to_lock(id.0)).await? {
                Locked::Ours => {
                    lock.renewal =
                        Some(Renewal::start(hypervisor.clone(), machine, beat, id, lock.file.take()));
                    return Ok(lock);
                }
                Locked::Unsupported(why) => {
                    if !self.warned.swap(true, Ordering::Relaxed) {
                        tell(Notice::Warning(format!(
                            "this hypervisor keeps no locks ({why}): only farmhands with the folder {} are kept from working on a machine at once",
                            self.folder
                        )));
                    }
                    return Ok(lock);
                }
                Locked::Theirs(held) => held,
            };
            let dead = match Beat::of(&held).map(|beat| beat.owner.alive()) {
                // This process may have failed to release a lock.
                Some(Alive::Itself) => !Id::is_held_here(held.id),
                Some(Alive::Yes) => false,
                Some(Alive::No) => true,
                Some(Alive::Unknown) | None => {
                    tell(Notice::Progress(format!("waiting for a sign of life of {}", name(&held))));
                    is_dead(&**hypervisor, machine, &held).await?
                }
            };
            if !dead || attempts == 0 {
                return Err(LockError::Held { machine: machine.to_owned(), owner: name(&held) });
            }
            attempts -= 1;
            // By its id: when somebody else has done so, and has the lock now, it stays his.
            hypervisor.unlock(machine, held.id).await?;
        }
    }
}

/// Keeps others away from a machine: until it is released, until it is dropped (soon after), or until this process ends in
/// whatever way.
#[derive(Debug)]
struct MachineLock {
    machine: String,
    renewal: Option<Renewal>,
    /// The lock file, unless the renewal has it.
    file: Option<File>,
}

impl MachineLock {
    /// Returns when the lock is lost: whoever holds it must stop working on the machine at once.
    async fn lost(&self) -> LockError {
        let why = match &self.renewal {
            Some(renewal) => {
                let mut lost = renewal.lost.clone();
                let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
                // It ends without a word only when it is told to.
                why.unwrap_or_else(|| "it is not renewed any more".to_owned())
            }
            None => std::future::pending().await,
        };
        LockError::Lost { machine: self.machine.clone(), why }
    }

    /// Releases it. An error means that others find it held by an owner that is gone.
    async fn release(mut self) -> Result<(), LockError> {
        let Some(Renewal { stop, task, .. }) = self.renewal.take() else { return Ok(()) };
        drop(stop);
        // The task panics only when the hypervisor's implementation does.
        Ok(task.await.unwrap_or(Ok(()))?)
    }
}

/// A task that renews a lock, and releases it when it is stopped.
#[derive(Debug)]
struct Renewal {
    /// It stops when this is dropped.
    stop: oneshot::Sender<()>,
    lost: watch::Receiver<Option<String>>,
    task: JoinHandle<Result<(), HypervisorError>>,
}

impl Renewal {
    fn start(
        hypervisor: Arc<dyn Hypervisor>,
        machine: &str,
        mut beat: Beat,
        id: Id,
        file: Option<File>,
    ) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (tell, lost) = watch::channel(None);
        let machine = machine.to_owned();
        let task = tokio::spawn(async move {
            // Both are given up after the lock at the hypervisor. The whole id: it is more than the number in it.
            let (_file, id) = (file, id);
            let renew = async {
                let why = keep(&*hypervisor, &machine, &mut beat, id.0).await;
                tell.send_replace(Some(why));
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = &mut stopped => {}
                () = renew => {}
            }
            let unlocked = timeout(UNLOCK_LIMIT, hypervisor.unlock(&machine, id.0)).await;
            unlocked.unwrap_or_else(|_| {
                let operation = format!("release the lock of {machine}");
                Err(HypervisorError::TimedOut { operation, timeout: UNLOCK_LIMIT })
            })
        });
        Self { stop, lost, task }
    }
}

/// The id of a lock that this process holds, or is about to take.
#[derive(Debug)]
struct Id(Uuid);

impl Id {
    fn new() -> Self {
        let id = Uuid::new_v4();
        Self::held_here().insert(id);
        Self(id)
    }

    fn is_held_here(id: Uuid) -> bool {
        Self::held_here().contains(&id)
    }

    fn held_here() -> MutexGuard<'static, BTreeSet<Uuid>> {
        static HELD: Mutex<BTreeSet<Uuid>> = Mutex::new(BTreeSet::new());
        HELD.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        Self::held_here().remove(&self.0);
    }
}

/// Renews a lock until it is lost, and says how that came.
async fn keep(hypervisor: &dyn Hypervisor, machine: &str, beat: &mut Beat, id: Uuid) -> String {
    let mut lost_at = Instant::now() + LOST_AFTER;
    loop {
        sleep(RENEW).await;
        beat.beat += 1;
        let asked = Instant::now();
        let refused = match timeout_at(lost_at, hypervisor.lock(machine, &beat.to_lock(id))).await {
            Ok(Ok(Locked::Ours)) => {
                lost_at = asked + LOST_AFTER;
                continue;
            }
            Ok(Ok(Locked::Theirs(held))) => return format!("{} has taken it", name(&held)),
            Ok(Ok(Locked::Unsupported(why))) => why,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the hypervisor does not answer".to_owned(),
        };
        if Instant::now() >= lost_at {
            return format!("it could not be renewed for {} s: {refused}", LOST_AFTER.as_secs());
        }
    }
}

/// Watches a lock until it is renewed, released or taken by another (`false`), or none of that has happened for long enough.
async fn is_dead(hypervisor: &dyn Hypervisor, machine: &str, seen: &DomainLock) -> Result<bool, LockError> {
    let begun = Instant::now();
    while begun.elapsed() < DEAD_AFTER {
        sleep(WATCH).await;
        match hypervisor.lock_holder(machine).await? {
            Some(held) if held == *seen => {}
            Some(_) => return Ok(false),
            // Released: then it is free to be taken, as a dead owner's is.
            None => return Ok(true),
        }
    }
    Ok(true)
}

/// A lock's text: its owner, and a number that each renewal makes greater.
#[derive(Serialize, Deserialize)]
struct Beat {
    #[serde(flatten)]
    owner: Owner,
    beat: u64,
}

impl Beat {
    fn of(lock: &DomainLock) -> Option<Self> {
        serde_json::from_str(&lock.owner).ok()
    }

    fn to_lock(&self, id: Uuid) -> DomainLock {
        DomainLock { id, owner: serde_json::to_string(self).unwrap_or_default() }
    }
}

/// Who has a lock, for people.
fn name(lock: &DomainLock) -> String {
    Beat::of(lock).map_or_else(|| "another version of farmhand".to_owned(), |beat| beat.owner.to_string())
}

/// Locks a machine's file, and writes this process into it for those who find it locked.
fn lock_file(folder: &Utf8Path, machine: &str) -> Result<File, LockError> {
    let path = folder.join(format!("{machine}.lock"));
    let failed = |source| LockError::File { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = open.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // A file that can't be read tells nothing.
            let _ = file.take(MAX_FILE).read_to_string(&mut text);
            let owner = serde_json::from_str::<Owner>(&text).map(|owner| owner.to_string());
            return Err(LockError::Held { machine: machine.to_owned(), owner: owner.unwrap_or_default() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let text = serde_json::to_string(&Owner::this_process()).unwrap_or_default();
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

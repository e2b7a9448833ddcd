//! The journal: what is about to be made or worked on, written down before, so that what a killed run leaves is found.
//!
//! An entry stands for as long as its run works on the machine, which is as long as the run holds the machine's lock. So an
//! entry whose machine can be locked is a leftover.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::{LockError, Locks, Notice, RunError, Storage, install, owner::Owner};
use crate::{
    base::Digest,
    hypervisor::{Domain, Hypervisor},
};

/// The largest entry that is read.
const MAX_ENTRY: u64 = 16 * 1024;

/// The journal of one data folder.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: Utf8PathBuf,
    machines: Utf8PathBuf,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is being made: without its `clean` checkpoint nobody knows what is on its disks.
    Installing,
    /// It is worked on, and may run.
    Working,
}

/// A machine that a run works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, which is its domain's.
    pub machine: String,
    /// Connection URI of its hypervisor.
    pub hypervisor: String,
    /// How far it is.
    pub stage: Stage,
    /// The folder of its disks.
    disks: Utf8PathBuf,
    owner: Owner,
}

/// The journal can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} the journal's {path}")]
pub struct JournalError {
    action: &'static str,
    path: Utf8PathBuf,
    source: std::io::Error,
}

/// What a killed run left, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A machine that was not made to its end: domain, snapshots and disks are removed.
    Unfinished,
    /// A machine that runs: it is powered off.
    Running,
    /// Nothing but the entry.
    Nothing,
}

/// A machine of which a killed run left something, and what was done about it, or is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Its name.
    pub machine: String,
    /// What, in words.
    pub what: String,
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.machine, self.what)
    }
}

impl Leftover {
    /// What was done about it, or is to be done: `removed: a run was killed while it made it`.
    pub fn told(&self, entry: &Entry, dry_run: bool) -> Option<String> {
        let by = &entry.owner;
        let would = if dry_run { "would be " } else { "" };
        match self {
            Self::Unfinished => {
                Some(format!("{would}removed: it was being made by a run that was killed ({by})"))
            }
            Self::Running => Some(format!("{would}powered off: a run was killed that worked on it ({by})")),
            Self::Nothing => None,
        }
    }
}

impl Journal {
    /// `folder` holds the entries, `machines` a folder of disks for each machine.
    pub fn new(folder: Utf8PathBuf, machines: Utf8PathBuf) -> Self {
        Self { folder, machines }
    }

    /// Writes down what is about to be done with a machine, in place of what stood there of it. It is on the disk when this
    /// returns. The caller holds the machine's lock.
    pub async fn begin(
        &self,
        hypervisor: &dyn Hypervisor,
        machine: &str,
        stage: Stage,
    ) -> Result<(), JournalError> {
        let entry = Entry {
            machine: machine.to_owned(),
            hypervisor: hypervisor.uri().to_owned(),
            stage,
            disks: self.machines.join(machine),
            owner: Owner::this_process(),
        };
        let (path, known) = (self.path(&entry.hypervisor, machine), self.known_path(&entry.hypervisor));
        let text = serde_json::to_vec(&entry).unwrap_or_default();
        blocking(move || {
            if !known.exists() {
                write_known(&known, &entry.hypervisor)?;
            }
            write(&path, &text)
        })
        .await
    }

    /// Strikes a machine out: whatever is left of it is meant to be there.
    pub async fn end(&self, hypervisor: &dyn Hypervisor, machine: &str) -> Result<(), JournalError> {
        let path = self.path(hypervisor.uri(), machine);
        blocking(move || match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(JournalError { action: "remove", path, source })
            }
            _ => Ok(()),
        })
        .await
    }

    /// All entries, those of runs that go on too, sorted by machine. One that can't be read is an error of its own.
    pub fn entries(&self) -> Result<Vec<Result<Entry, JournalError>>, JournalError> {
        let mut entries = files(&self.folder)?;
        entries.retain(|path| path.extension() == Some("json"));
        // An entry that has ended meanwhile is none.
        Ok(entries.into_iter().filter_map(|path| read(&path).transpose()).collect())
    }

    /// Connection URIs of all hypervisors that machines of this data folder were ever on.
    pub fn hypervisors(&self) -> Result<Vec<String>, JournalError> {
        let failed = |path: Utf8PathBuf| |source| JournalError { action: "read", path, source };
        let files = files(&self.folder.join("hypervisors"))?;
        // Not what a killed run was about to write.
        let files =
            files.into_iter().filter(|path| !path.file_name().is_some_and(|name| name.starts_with('.')));
        files.map(|path| std::fs::read_to_string(&path).map_err(failed(path))).collect()
    }

    /// Removes what a killed run left, or only looks what that is. Gives `None` when its machine is locked: the run is alive, or
    /// another one works on the machine since. A domain that farmhand did not make, or whose disks are not in this data
    /// folder, is left alone.
    pub async fn recover(
        &self,
        entry: &Entry,
        locks: &Locks,
        hypervisor: &Arc<dyn Hypervisor>,
        storage: &dyn Storage,
        dry_run: bool,
        tell: &(dyn Fn(Notice) + Sync),
    ) -> Result<Option<Leftover>, RunError> {
        let work = self.clean_up(entry, &**hypervisor, storage, dry_run);
        match locks.during(hypervisor, &entry.machine, tell, work).await {
            Ok(leftover) => leftover,
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn clean_up(
        &self,
        entry: &Entry,
        hypervisor: &dyn Hypervisor,
        storage: &dyn Storage,
        dry_run: bool,
    ) -> Result<Option<Leftover>, RunError> {
        let name = &entry.machine;
        // Its run may have ended, or another one begun and been killed, before the machine was locked.
        let path = self.path(&entry.hypervisor, name);
        let Some(entry) = read(&path)? else { return Ok(None) };
        let domain = hypervisor.domain(name).await?;
        let leftover = match (&domain, entry.stage) {
            (Some(domain), _) if !entry.is_of(domain) => Leftover::Nothing,
            (_, Stage::Installing) => Leftover::Unfinished,
            (Some(domain), Stage::Working) if domain.state.is_active() => Leftover::Running,
            (_, Stage::Working) => Leftover::Nothing,
        };
        if !dry_run {
            match leftover {
                Leftover::Unfinished => drop(install::remove(hypervisor, storage, name).await?),
                Leftover::Running => hypervisor.destroy(name).await?,
                Leftover::Nothing => {}
            }
            self.end(hypervisor, name).await?;
        }
        Ok(Some(leftover))
    }

    /// Machines' folders of disks in this data folder that belong to none of `domains`, which must be those of all
    /// hypervisors that machines were ever on, and to no entry of the journal. Sorted by machine.
    pub fn orphans(&self, domains: &[Domain]) -> Result<Vec<String>, JournalError> {
        let mut entered = Vec::new();
        for entry in self.entries()? {
            entered.push(entry?.machine);
        }
        let is_orphan = |folder: &Utf8PathBuf| {
            let name = folder.file_name().unwrap_or_default();
            let has = |domain: &Domain| {
                domain.name == name || domain.disks.iter().any(|disk| disk.starts_with(folder))
            };
            folder.is_dir() && !entered.iter().any(|entered| entered == name) && !domains.iter().any(has)
        };
        let folders = files(&self.machines)?.into_iter().filter(is_orphan);
        Ok(folders.filter_map(|folder| folder.file_name().map(str::to_owned)).collect())
    }

    fn path(&self, hypervisor: &str, machine: &str) -> Utf8PathBuf {
        // Machines of one name may be on several hypervisors.
        self.folder.join(format!("{machine}-{}.json", Digest::of(hypervisor).short()))
    }

    fn known_path(&self, hypervisor: &str) -> Utf8PathBuf {
        self.folder.join("hypervisors").join(Digest::of(hypervisor).short())
    }
}

impl Entry {
    /// Whether a domain of its name is the one that it is about.
    fn is_of(&self, domain: &Domain) -> bool {
        domain.metadata.is_some() && domain.disks.iter().any(|disk| disk.starts_with(&self.disks))
    }
}

/// Writes an entry that only its user can read, in place of what was there, in one step that survives a crash. Only the owner
/// of the machine's lock does so: the temporary file needs no name of its own, and one that a killed run left is written over.
fn write(path: &Utf8Path, text: &[u8]) -> Result<(), JournalError> {
    let failed = |source| JournalError { action: "write", path: path.to_owned(), source };
    let folder = folder_of(path).map_err(failed)?;
    let temporary = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).and_then(|()| folder.sync_all()).map_err(failed)
}

/// Writes a hypervisor's URI down. Several may do so at once.
fn write_known(path: &Utf8Path, uri: &str) -> Result<(), JournalError> {
    let failed = |source| JournalError { action: "write", path: path.to_owned(), source };
    let folder = folder_of(path).map_err(failed)?;
    // Such a file has mode 0600.
    let mut file =
        tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Utf8Path::new("."))).map_err(failed)?;
    file.write_all(uri.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    folder.sync_all().map_err(failed)
}

/// The folder of a file of the journal's, made if need be.
fn folder_of(path: &Utf8Path) -> std::io::Result<File> {
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    File::open(folder)
}

/// The entry in a file; `None` when the file is gone.
fn read(path: &Utf8Path) -> Result<Option<Entry>, JournalError> {
    use std::io::Read as _;
    let failed = |source| JournalError { action: "read", path: path.to_owned(), source };
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_ENTRY).read_to_string(&mut text).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| failed(error.into()))
}

/// What is in a folder, sorted; nothing when there is no folder.
fn files(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>, JournalError> {
    let failed = |source| JournalError { action: "read", path: folder.to_owned(), source };
    let mut paths = Vec::new();
    match folder.read_dir_utf8() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(files) => {
            for file in files {
                paths.push(file.map_err(failed)?.into_path());
            }
        }
    }
    paths.sort();
    Ok(paths)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(JournalError { action: "use", path: Utf8PathBuf::new(), source: error.into() }),
    }
}

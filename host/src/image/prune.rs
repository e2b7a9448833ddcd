//! What the store holds, and what of it can go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
};

use camino::{Utf8DirEntry, Utf8Path};
use serde::Serialize;

use super::{
    Format, ImageError, format,
    index::{self, Entry},
    store::{Store, open_lock, store_error},
};
use crate::base::Digest;

/// The file in a machine's folder that lists what the machine is made from.
const BASES: &str = "images.json";

/// Keeps the store from being pruned while it lives.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

/// Something that the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Digest of its content.
    pub digest: Digest,
    /// What it is as a disk image; none for other files.
    pub format: Option<Format>,
    /// Its size in bytes, holes included.
    pub size: u64,
    /// What it takes of the disk, in bytes.
    pub used: u64,
    /// Where it came from, and what was done to it.
    pub from: Vec<String>,
    /// The machines that are made from it.
    pub machines: Vec<String>,
}

/// What a file's name ends with while it is written.
const UNFINISHED: &str = ".partial";

/// Lists, in a machine's folder, the files of the store that the machine is made from. The list is there whole, or not at all.
///
/// # Errors
/// When the file can't be written: then the machine must not be made.
pub fn note_bases(folder: &Utf8Path, digests: &[Digest]) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = tempfile::Builder::new().suffix(UNFINISHED).tempfile_in(folder)?;
    file.write_all(&serde_json::to_vec(digests)?)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(BASES))?;
    Ok(())
}

impl Store {
    /// Keeps everything in the store from being pruned. Waits while it is pruned.
    pub async fn hold(&self) -> Result<Hold, ImageError> {
        let store = self.clone();
        super::fetch::blocking(move || {
            let (file, path) = store.prune_lock()?;
            file.lock_shared().map_err(store_error("lock", &path))?;
            Ok(Hold { _file: file })
        })
        .await
    }

    fn prune_lock(&self) -> Result<(File, camino::Utf8PathBuf), ImageError> {
        self.make_folders()?;
        let path = self.sources().join("prune.lock");
        let file = open_lock(&path).map_err(store_error("create", &path))?;
        Ok((file, path))
    }

    /// Everything in the store, the largest first. `machines` is the folder that holds a folder for each machine.
    ///
    /// # Errors
    /// When a folder can't be read, or a machine's list of images can't: then nobody knows what it needs.
    pub fn list(&self, machines: &Utf8Path) -> Result<Vec<Listed>, ImageError> {
        let needed = needed(machines)?;
        let entries = self.entries()?;
        let mut listed = Vec::new();
        for digest in self.digests()? {
            let path = self.path(&digest);
            let Ok(file) = File::open(&path) else { continue };
            let metadata = file.metadata().map_err(store_error("read", &path))?;
            let mut from: Vec<_> = entries
                .values()
                .filter(|entry| entry.digest == digest)
                .map(|entry| entry.uri.clone())
                .collect();
            from.sort();
            let machines = needed.iter().filter(|(_, digests)| digests.contains(&digest));
            listed.push(Listed {
                digest,
                format: format::inspect(&file).ok().map(|(format, _)| format),
                size: metadata.len(),
                used: metadata.blocks() * 512,
                from,
                machines: machines.map(|(machine, _)| machine.clone()).collect(),
            });
        }
        listed.sort_by(|a, b| b.used.cmp(&a.used).then(a.digest.cmp(&b.digest)));
        Ok(listed)
    }

    /// Removes everything that no machine is made from, and gives it. With `dry_run` it is only told.
    ///
    /// # Errors
    /// [`ImageError::InUse`] while a run uses the store; see also [`Self::list`].
    pub fn prune(&self, machines: &Utf8Path, dry_run: bool) -> Result<Vec<Listed>, ImageError> {
        let (lock, path) = self.prune_lock()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ImageError::InUse),
            Err(TryLockError::Error(error)) => return Err(store_error("lock", &path)(error)),
        }
        let mut unneeded = self.list(machines)?;
        unneeded.retain(|listed| listed.machines.is_empty());
        if dry_run {
            return Ok(unneeded);
        }
        for Listed { digest, .. } in &unneeded {
            let path = self.path(digest);
            std::fs::remove_file(&path).map_err(store_error("remove", &path))?;
        }
        self.forget_removed()?;
        self.remove_all_halves()?;
        Ok(unneeded)
    }

    /// Removes notes on content that is gone, unless something that is still there was made from it.
    fn forget_removed(&self) -> Result<(), ImageError> {
        let entries = self.entries()?;
        let there = |digest: &Digest| self.stored(digest).is_some();
        let made_from: BTreeSet<_> =
            entries.values().filter(|entry| there(&entry.digest)).filter_map(|entry| entry.from).collect();
        for (name, entry) in &entries {
            if !there(&entry.digest) && !made_from.contains(&entry.digest) {
                let path = self.sources().join(name);
                std::fs::remove_file(&path).map_err(store_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes downloads that broke off. Nobody works on one: the store is locked.
    fn remove_all_halves(&self) -> Result<(), ImageError> {
        for (name, path) in self.files(&self.sources())? {
            if name.ends_with(".partial") || name.ends_with(".resume") {
                std::fs::remove_file(&path).map_err(store_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// What the store has files of.
    fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        Ok(self.files(&self.root)?.into_iter().filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// All notes on what came from where, by the names of their files.
    fn entries(&self) -> Result<BTreeMap<String, Entry>, ImageError> {
        let files = self.files(&self.sources())?.into_iter();
        Ok(files
            .filter(|(name, _)| name.ends_with(".json"))
            .filter_map(|(name, path)| Some((name, index::read(&path)?)))
            .collect())
    }

    fn files(&self, folder: &Utf8Path) -> Result<Vec<(String, camino::Utf8PathBuf)>, ImageError> {
        let error = store_error("read", folder);
        let files = match folder.read_dir_utf8() {
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(&error)?,
        };
        let files = files.map(|file| file.map(|file| (file.file_name().to_owned(), file.path().to_owned())));
        files.collect::<io::Result<_>>().map_err(error)
    }
}

/// What each machine is made from.
fn needed(machines: &Utf8Path) -> Result<BTreeMap<String, Vec<Digest>>, ImageError> {
    let error = store_error("read", machines);
    let folders = match machines.read_dir_utf8() {
        Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        folders => folders.map_err(&error)?,
    };
    let mut needed = BTreeMap::new();
    for folder in folders {
        let folder = folder.map_err(&error)?;
        let path = folder.path().join(BASES);
        let digests = match std::fs::read(&path) {
            // A run that is killed right there has made no disk yet.
            Err(none) if none.kind() == io::ErrorKind::NotFound && has_nothing(folder.path()) => Vec::new(),
            content => {
                let content = content.map_err(store_error("read", &path))?;
                serde_json::from_slice(&content).map_err(|error| store_error("read", &path)(error.into()))?
            }
        };
        needed.insert(folder.file_name().to_owned(), digests);
    }
    Ok(needed)
}

/// Whether there is nothing in a folder that was written to its end.
fn has_nothing(folder: &Utf8Path) -> bool {
    let is_unfinished =
        |file: io::Result<Utf8DirEntry>| file.is_ok_and(|file| file.file_name().ends_with(UNFINISHED));
    folder.read_dir_utf8().is_ok_and(|mut files| files.all(is_unfinished))
}

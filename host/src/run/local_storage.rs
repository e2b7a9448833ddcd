use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;

use super::storage::{Fetched, ProgressInWords, Storage, StorageError};
use crate::{
    base::Digest,
    farm::{Machine, Resource, disk_name},
    image::{ImageError, Progress, Source, Store, create_overlay},
};

/// Images in the user's cache and disks in the user's data folder, for a hypervisor on this host.
pub struct LocalStorage {
    store: Store,
    machines: Utf8PathBuf,
}

impl LocalStorage {
    /// `machines` is the folder that holds a folder for each machine.
    pub fn new(store: Store, machines: Utf8PathBuf) -> Self {
        Self { store, machines }
    }

    fn folder(&self, machine: &str) -> Utf8PathBuf {
        self.machines.join(machine)
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let known = |resource: &Resource| self.store.known_digest(&source(resource));
        machine.resources().into_iter().map(|(name, resource)| (name, known(resource))).collect()
    }

    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let mut digests = self.known(machine);
        for (name, resource) in machine.resources() {
            if Utf8Path::new(&resource.uri).is_file()
                && let Some(unknown @ None) = digests.get_mut(&name)
            {
                // A file that can't be read, or is not what it should be, says so when it is fetched.
                let read = self.store.ensure_file(&source(resource), Arc::new(|_: Progress| {})).await;
                *unknown = read.ok().map(|file| file.digest);
            }
        }
        digests
    }

    async fn fetch(
        &self,
        machine: &Machine,
        progress: ProgressInWords,
    ) -> Result<IndexMap<String, Fetched>, StorageError> {
        let mut fetched = IndexMap::new();
        for (name, resource) in machine.resources() {
            let failed =
                |source: ImageError| StorageError::Fetch { name: name.clone(), source: Box::new(source) };
            if !resource.steps.is_empty() || resource.setup.is_some() {
                return Err(StorageError::Steps { name });
            }
            let source = source(resource);
            let (report, what) = (progress.clone(), name.clone());
            let progress = Arc::new(move |progress: Progress| report(in_words(&what, progress)));
            // A disk image must stand on its own; a kernel is just a file.
            let file = if name.starts_with("disk") {
                let image = self.store.ensure(&source, progress).await.map_err(failed)?;
                Fetched { path: image.path, digest: image.digest, format: Some(image.format) }
            } else {
                let file = self.store.ensure_file(&source, progress).await.map_err(failed)?;
                Fetched { path: file.path, digest: file.digest, format: None }
            };
            fetched.insert(name, file);
        }
        Ok(fetched)
    }

    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError> {
        self.remove_disks(&machine.name).await?;
        let folder = self.folder(&machine.name);
        let made = tokio::fs::create_dir_all(&folder).await;
        made.map_err(|source| StorageError::Folder { path: folder.clone(), source })?;
        let mut disks = Vec::new();
        for index in 0..machine.disks.len() {
            let path = folder.join(format!("disk{index}.qcow2"));
            let Some(Fetched { path: base, format: Some(format), .. }) = fetched.get(&disk_name(index))
            else {
                continue;
            };
            let made = create_overlay(base, *format, &path, None).await;
            made.map_err(|source| StorageError::Disk { path: path.clone(), source: Box::new(source) })?;
            disks.push(path);
        }
        Ok(disks)
    }

    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError> {
        let path = self.folder(machine);
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(StorageError::Folder { path, source })
            }
            _ => Ok(()),
        }
    }
}

fn source(resource: &Resource) -> Source {
    Source { uri: resource.uri.clone(), checksum: resource.checksum.clone() }
}

/// How far a fetch is: `disk 0: 40 of 120 MB`.
fn in_words(what: &str, progress: Progress) -> String {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    match progress.total {
        Some(total) => format!("{what}: {} of {} MB", megabytes(progress.done), megabytes(total)),
        None => format!("{what}: {} MB", megabytes(progress.done)),
    }
}

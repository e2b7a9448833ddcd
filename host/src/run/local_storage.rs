use std::{
    collections::BTreeSet,
    io::ErrorKind,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use tokio::sync::OnceCell;

use super::{
    first_boot,
    storage::{Fetched, ProgressInWords, Seed, Storage, StorageError},
};
use crate::{
    base::{Checksum, ChecksumValue, Digest, Dirs},
    farm::{FirstBoot, Lock, LockedImage, Machine, Resource, disk_name},
    image::{
        self, Hold, ImageError, Meter, Progress, Source, Store, StoredFile, StoredImage, create_overlay,
    },
};

/// The file in a machine's folder that says on which hypervisor it is.
const HYPERVISOR: &str = "hypervisor";

/// Images in the user's cache and disks in the user's data folder, for a hypervisor on this host.
pub struct LocalStorage {
    store: Store,
    machines: Utf8PathBuf,
    /// The private half of farmhand's own login key.
    login_key: Utf8PathBuf,
    /// The farm's folder, with what is pinned.
    farm: Utf8PathBuf,
    /// The URI of the hypervisor whose machines the disks are for, if there are to be any.
    hypervisor: String,
    /// Where images without a checksum are taken as they are now: the URIs of those that were fetched anew.
    accepted: Option<Mutex<BTreeSet<String>>>,
    /// Keeps images from being pruned that were fetched for a machine which does not stand on them yet.
    hold: OnceCell<Hold>,
}

impl LocalStorage {
    /// Storage in farmhand's folders, for the farm in that folder.
    pub fn new(dirs: &Dirs, farm: Utf8PathBuf) -> Self {
        Self {
            store: Store::new(dirs),
            machines: dirs.machines(),
            login_key: dirs.login_key(),
            farm,
            hypervisor: String::new(),
            accepted: None,
            hold: OnceCell::new(),
        }
    }

    /// The same, for machines on the hypervisor with that URI.
    pub fn on(self, hypervisor: &str) -> Self {
        Self { hypervisor: hypervisor.to_owned(), ..self }
    }

    /// The same, but images without a checksum are fetched anew, once each, and pinned as they are.
    pub fn accepting(self) -> Self {
        Self { accepted: Some(Mutex::default()), ..self }
    }

    /// Writes the seed of a first boot, and gives the host key that is in it.
    pub(super) async fn write_seed(
        &self,
        first_boot: &FirstBoot,
        path: &Utf8Path,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let (first_boot, login_key, file) = (first_boot.clone(), self.login_key.clone(), path.to_owned());
        // Hashing passwords takes a while.
        let write = move || first_boot::write_seed(&first_boot, &login_key, &file);
        tokio::task::spawn_blocking(write).await.map_err(Into::into).flatten()
    }

    fn folder(&self, machine: &str) -> Utf8PathBuf {
        self.machines.join(machine)
    }

    /// Where a file comes from, and what it must be: what the definition says, else what was pinned.
    fn source(resource: &Resource, pins: &Lock) -> Source {
        let pinned = || {
            let pin = pins.images.get(&resource.uri).filter(|_| is_pinned(resource))?;
            Some(Checksum::Value(ChecksumValue::of_hex(&pin.digest.hex())?))
        };
        let checksum = resource.checksum.clone().or_else(pinned);
        Source { uri: resource.uri.clone(), checksum, steps: resource.steps.clone() }
    }

    /// What is pinned, for those who only want to know: that it can't be read is told when an image is fetched.
    fn pins(&self) -> Lock {
        Lock::read(&self.farm).unwrap_or_default()
    }

    async fn fetch_one(
        &self,
        name: &str,
        resource: &Resource,
        progress: &ProgressInWords,
    ) -> Result<Fetched, StorageError> {
        let pins = Lock::read(&self.farm).map_err(|problem| StorageError::Pins(Box::new(problem)))?;
        let is_pinned = is_pinned(resource);
        let mut source = Self::source(resource, &pins);
        if is_pinned && let Some(accepted) = &self.accepted {
            source.checksum = None;
            let is_first =
                accepted.lock().unwrap_or_else(PoisonError::into_inner).insert(resource.uri.clone());
            if is_first {
                self.store.forget(&source);
            }
        }
        let failed = |error: ImageError| match (error, pins.images.get(&resource.uri)) {
            (ImageError::Mismatch { uri, found, .. }, Some(pin)) if is_pinned => {
                StorageError::Changed { name: name.to_owned(), uri, pinned: pin.digest.hex(), found }
            }
            (error, _) => StorageError::Fetch { name: name.to_owned(), source: Box::new(error) },
        };
        let (report, meter) = (progress.clone(), Meter::new(name));
        let progress = Arc::new(move |progress: Progress| {
            meter.words(progress).into_iter().for_each(|words| report(words))
        });
        // A disk image must stand on its own; a kernel is just a file.
        let file = if name.starts_with("disk") {
            let image = self.store.ensure(&source, progress).await.map_err(failed)?;
            let StoredImage { path, digest, size, format, virtual_size } = image;
            Fetched { path, digest, size, format: Some(format), virtual_size }
        } else {
            let file = self.store.ensure_file(&source, progress).await.map_err(failed)?;
            let StoredFile { path, digest, size } = file;
            Fetched { path, digest, size, format: None, virtual_size: size }
        };
        if is_pinned && let Some(digest) = self.store.origin_digest(&source) {
            let pin = |lock: &mut Lock| {
                lock.images.insert(resource.uri.clone(), LockedImage { digest });
            };
            Lock::update(&self.farm, pin).map_err(|problem| StorageError::Pins(Box::new(problem)))?;
        }
        Ok(file)
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let pins = self.pins();
        let known = |resource: &Resource| self.store.known_digest(&Self::source(resource, &pins));
        machine.resources().into_iter().map(|(name, resource)| (name, known(resource))).collect()
    }

    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let (mut digests, pins) = (self.known(machine), self.pins());
        for (name, resource) in machine.resources() {
            if Utf8Path::new(&resource.uri).is_file()
                && let Some(unknown @ None) = digests.get_mut(&name)
            {
                // A file that can't be read, or is not what it should be, says so when it is fetched.
                let read =
                    self.store.ensure_file(&Self::source(resource, &pins), Arc::new(|_: Progress| {})).await;
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
        let hold = self.hold.get_or_try_init(|| self.store.hold()).await;
        hold.map_err(|source| StorageError::Fetch { name: "images".to_owned(), source: Box::new(source) })?;
        let mut fetched = IndexMap::new();
        for (name, resource) in machine.resources() {
            let file = self.fetch_one(&name, resource, &progress).await?;
            fetched.insert(name, file);
        }
        Ok(fetched)
    }

    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError> {
        let folder = self.folder(&machine.name);
        let failed = |source| StorageError::Folder { path: folder.clone(), source };
        // Two hypervisors of this host, such as a user's session and the system, have machines of one name, perhaps.
        match tokio::fs::read_to_string(folder.join(HYPERVISOR)).await {
            // It is empty when a run was killed right there.
            Ok(hypervisor) if !hypervisor.is_empty() && hypervisor != self.hypervisor => {
                return Err(StorageError::OfAnother { machine: machine.name.clone(), hypervisor });
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.remove_disks(&machine.name).await?;
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        // Before its disks: what a machine stands on is never pruned.
        let digests: Vec<_> = fetched.values().map(|file| file.digest).collect();
        let noted = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || image::note_bases(&folder, &digests)).await
        };
        noted.map_err(Into::into).flatten().map_err(failed)?;
        tokio::fs::write(folder.join(HYPERVISOR), &self.hypervisor).await.map_err(failed)?;
        let mut disks = Vec::new();
        for (index, disk) in machine.disks.iter().enumerate() {
            let path = folder.join(format!("disk{index}.qcow2"));
            let Some(Fetched { path: base, format: Some(format), .. }) = fetched.get(&disk_name(index))
            else {
                continue;
            };
            let made = create_overlay(base, *format, &path, disk.size.map(|size| size.get())).await;
            made.map_err(|source| StorageError::Disk { path: path.clone(), source: Box::new(source) })?;
            disks.push(path);
        }
        Ok(disks)
    }

    async fn create_seed(&self, machine: &Machine) -> Result<Option<Seed>, StorageError> {
        let Some(first_boot) = machine.first_boot() else { return Ok(None) };
        let path = self.folder(&machine.name).join("seed.iso");
        match self.write_seed(first_boot, &path).await {
            Ok(host_key) => Ok(Some(Seed { path, host_key })),
            Err(source) => Err(StorageError::Seed { path, source }),
        }
    }

    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError> {
        let path = self.folder(machine);
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(StorageError::Folder { path, source }),
            _ => Ok(()),
        }
    }
}

/// Whether a file is pinned when it is first used: when it comes from elsewhere, and nothing is said about what it must be. A
/// file of this host is its user's own: that it changed is seen, and the machine is installed anew.
fn is_pinned(resource: &Resource) -> bool {
    resource.checksum.is_none() && !resource.uri.starts_with('/')
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::farm::Farm;

    /// A web server that gives the same bytes again and again, its address, and how often it was asked.
    fn server(content: &'static [u8]) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut head, mut byte) = (stream.unwrap(), Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.extend(byte);
                }
                count.fetch_add(1, Ordering::SeqCst);
                let length = content.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(content);
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn disks_of_another_hypervisor_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::create_dir_all(root.join("setup_vm/platforms")).unwrap();
        let farm = "project: { id: p }\nlist: [{ platform: d, target: amd64 }]\n";
        std::fs::write(root.join("farm.yaml"), farm).unwrap();
        std::fs::write(root.join("image"), [7; 1024]).unwrap();
        std::fs::write(root.join("setup_vm/platforms/d.yaml"), "vm: { disks: [{ src: image }] }\n").unwrap();
        let farm = Farm::load(root).unwrap();
        let dirs = Dirs::below(&root.join("home"));
        let storage = |uri: &str| LocalStorage::new(&dirs, farm.root.clone()).on(uri);
        let (machine, none) = (&farm.machines[0], IndexMap::new());
        let session = storage("qemu:///session");
        session.create_disks(machine, &none).await.unwrap();
        session.create_disks(machine, &none).await.unwrap();
        let refused = storage("qemu:///system").create_disks(machine, &none).await.unwrap_err().to_string();
        assert!(refused.contains("on qemu:///session: remove that one"), "{refused}");
        session.remove_disks(&machine.name).await.unwrap();
        storage("qemu:///system").create_disks(machine, &none).await.unwrap();
    }

    #[tokio::test]
    async fn what_machines_share_is_accepted_once() {
        let (address, asked) = server(&[7; 1024]);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8Path::from_path(folder.path()).unwrap().join(name);
        std::fs::create_dir_all(path("farm/setup_vm/platforms")).unwrap();
        let farm = "project: { id: p }\npermutations: { targets: [amd64], platforms: [a, b] }\n";
        std::fs::write(path("farm/farm.yaml"), farm).unwrap();
        for name in ["a", "b"] {
            let vm = format!(
                "vm: {{ metadata: {{ name: {name}, auth: {{ password: x }} }}, disks: [{{ src: '{address}/disk.raw' }}] }}"
            );
            std::fs::write(path(&format!("farm/setup_vm/platforms/{name}.yaml")), vm).unwrap();
        }
        let farm = Farm::load(&path("farm")).unwrap();
        let dirs = Dirs::below(&path("home"));
        dirs.create().unwrap();
        let fetch = async |storage: LocalStorage| {
            for machine in farm.machines.values() {
                storage.fetch(machine, Arc::new(|_| {})).await.unwrap();
            }
        };
        let storage = || LocalStorage::new(&dirs, farm.root.clone());
        for (storage, expected) in [(storage(), 1), (storage().accepting(), 2), (storage().accepting(), 3)] {
            fetch(storage).await;
            assert_eq!(asked.load(Ordering::SeqCst), expected);
        }
    }
}

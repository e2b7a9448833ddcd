use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use tokio::time::sleep;

use super::{
    LocalStorage, LockError, Locks, Notice,
    storage::{Fetched, ProgressInWords, Seed, Storage, StorageError},
};
use crate::{
    base::Digest,
    farm::{Machine, disk_name},
    hypervisor::{Hypervisor, HypervisorError, NewContent, NewVolume, Volume},
    image::{Doing, Meter, Progress},
};

/// The pool of images.
const IMAGES: &str = "farmhand";
/// What the pool of a machine's disks is named before the machine's name.
const MACHINE: &str = "farmhand-";
/// Between two looks whether an image is there that another run brings: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(5);
/// What the volume that says that an image is whole is named after the image.
const WHOLE: &str = ".whole";
/// What stands between an image's name and a machine's in the name of the volume that says that the machine is about to be made
/// from the image.
const FOR: &str = ".for-";

/// Images and disks on a hypervisor that shares no folder with this host: fetched here, and brought there by libvirt's storage
/// pools. One pool holds the images, each once, named by its digest; each machine has one for its disks.
pub struct RemoteStorage {
    local: LocalStorage,
    hypervisor: Arc<dyn Hypervisor>,
    locks: Arc<Locks>,
    /// The folder there for all that is farmhand's.
    folder: Utf8PathBuf,
}

impl RemoteStorage {
    /// `local` fetches images; `folder` is one of farmhand's own on the hypervisor's host.
    pub fn new(
        local: LocalStorage,
        hypervisor: Arc<dyn Hypervisor>,
        locks: Arc<Locks>,
        folder: Utf8PathBuf,
    ) -> Self {
        Self { local, hypervisor, locks, folder }
    }

    /// The folder of the machines' disks in such a folder, a folder a machine.
    pub fn machines(folder: &Utf8Path) -> Utf8PathBuf {
        folder.join("machines")
    }

    /// The machines that have disks at a hypervisor, whether they have a domain or not.
    ///
    /// # Errors
    /// When libvirt can't list its pools.
    pub async fn with_disks(hypervisor: &dyn Hypervisor) -> Result<Vec<String>, StorageError> {
        let pools = hypervisor.pools().await?;
        Ok(pools.iter().filter_map(|pool| pool.strip_prefix(MACHINE)).map(str::to_owned).collect())
    }

    /// Deletes the images at a hypervisor that no machine there is made from, and gives their names. With `dry_run` they are
    /// only told. An image that is being brought there, or that a run is about to make a machine from, is left alone.
    ///
    /// # Errors
    /// When libvirt can't say what there is: then nobody knows what is needed.
    pub async fn prune(
        hypervisor: &Arc<dyn Hypervisor>,
        locks: &Locks,
        dry_run: bool,
    ) -> Result<Vec<String>, StorageError> {
        let Some(volumes) = hypervisor.volumes(IMAGES).await? else { return Ok(Vec::new()) };
        let needed = Needed::now(&**hypervisor).await?;
        let mut gone = Vec::new();
        // An image's name is its digest; what is about an image has a dot behind it.
        for image in volumes.iter().filter(|volume| !volume.name.contains('.') && !needed.has(volume)) {
            let prune = Self::prune_locked(hypervisor, locks, image, dry_run);
            match locks.during(hypervisor, &lock(&image.name), &|_| {}, prune).await {
                Ok(pruned) => gone.extend(pruned?.then(|| image.name.clone())),
                Err(LockError::Held { .. }) => {}
                Err(error) => return Err(StorageError::Lock(error)),
            }
        }
        Ok(gone)
    }

    /// Deletes an image that is locked, unless it is needed by now. Gives whether it is not.
    async fn prune_locked(
        hypervisor: &Arc<dyn Hypervisor>,
        locks: &Locks,
        image: &Volume,
        dry_run: bool,
    ) -> Result<bool, StorageError> {
        let mark = format!("{}{WHOLE}", image.name);
        if dry_run {
            return Ok(!Self::is_wanted(hypervisor, locks, image).await?);
        }
        // A run that was killed may have left half of it.
        let volumes = images(&**hypervisor).await?;
        let was_whole = volumes.iter().any(|volume| volume.name == mark);
        // From here on a run that wants the image does not find it, and waits for its lock. One that found it has said so before.
        hypervisor.delete_volume(IMAGES, &mark).await?;
        let is_wanted = Self::is_wanted(hypervisor, locks, image).await;
        if matches!(is_wanted, Ok(false)) {
            hypervisor.delete_volume(IMAGES, &image.name).await?;
        } else if was_whole {
            hypervisor.create_volume(IMAGES, &empty(mark)).await?;
        }
        is_wanted.map(|is_wanted| !is_wanted)
    }

    /// Whether a machine is made from an image that is locked, or a run is about to make one.
    async fn is_wanted(
        hypervisor: &Arc<dyn Hypervisor>,
        locks: &Locks,
        image: &Volume,
    ) -> Result<bool, StorageError> {
        let prefix = format!("{}{FOR}", image.name);
        for volume in images(&**hypervisor).await? {
            let Some(machine) = volume.name.strip_prefix(&prefix) else { continue };
            // Who is about to make the machine has locked it. Otherwise it was made, or its run was killed.
            let forget = hypervisor.delete_volume(IMAGES, &volume.name);
            match locks.during(hypervisor, machine, &|_| {}, forget).await {
                Ok(forgotten) => forgotten?,
                Err(LockError::Held { .. }) => return Ok(true),
                Err(error) => return Err(StorageError::Lock(error)),
            }
        }
        Ok(Needed::now(&**hypervisor).await?.has(image))
    }

    /// Brings a file to the hypervisor, unless it is there already. Two runs that want the same one bring it once. It is not
    /// pruned as long as the machine is locked.
    async fn bring(
        &self,
        machine: &str,
        name: &str,
        fetched: &Fetched,
        progress: &ProgressInWords,
    ) -> Result<Utf8PathBuf, StorageError> {
        let volume = fetched.digest.to_string().replace(':', "-");
        self.hypervisor.ensure_pool(IMAGES, &self.folder.join("images")).await?;
        let tell = |notice| {
            let (Notice::Progress(words) | Notice::Warning(words)) = notice;
            progress(words);
        };
        let mut pause = FIRST_LOOK;
        loop {
            if let Some(path) = self.whole(&volume, machine).await? {
                return Ok(path);
            }
            let bring = self.bring_locked(machine, name, fetched, &volume, progress);
            match self.locks.during(&self.hypervisor, &lock(&volume), &tell, bring).await {
                // Who has the lock is alive, and an upload has a limit of its own.
                Err(LockError::Held { .. }) => {
                    progress(format!("{name}: waiting until another run has uploaded it"));
                }
                Err(error) => return Err(StorageError::Lock(error)),
                Ok(brought) => return brought,
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Where an image is at the hypervisor, if it is there as a whole. That the machine is about to be made from it is said
    /// first: whoever prunes looks for that after the image has ceased to be whole.
    async fn whole(&self, volume: &str, machine: &str) -> Result<Option<Utf8PathBuf>, StorageError> {
        let (whole, wanted) = (format!("{volume}{WHOLE}"), format!("{volume}{FOR}{machine}"));
        let has = |volumes: &[Volume], name: &str| volumes.iter().any(|volume| volume.name == name);
        let mut volumes = images(&*self.hypervisor).await?;
        if !has(&volumes, &wanted) {
            self.hypervisor.create_volume(IMAGES, &empty(wanted.clone())).await?;
            volumes = images(&*self.hypervisor).await?;
        }
        let is_whole = has(&volumes, &whole) && has(&volumes, &wanted);
        Ok(volumes.into_iter().find(|other| is_whole && other.name == volume).map(|found| found.path))
    }

    async fn bring_locked(
        &self,
        machine: &str,
        name: &str,
        fetched: &Fetched,
        volume: &str,
        progress: &ProgressInWords,
    ) -> Result<Utf8PathBuf, StorageError> {
        // Another run may have been first.
        if let Some(path) = self.whole(volume, machine).await? {
            return Ok(path);
        }
        // What a run left that was killed, or what somebody left that has deleted the image.
        let mark = format!("{volume}{WHOLE}");
        self.hypervisor.delete_volume(IMAGES, &mark).await?;
        self.hypervisor.delete_volume(IMAGES, volume).await?;
        let size = fetched.size;
        let new = NewVolume { name: volume.to_owned(), content: NewContent::Bytes, capacity: size };
        let path = self.hypervisor.create_volume(IMAGES, &new).await?;
        let (meter, progress) = (Meter::new(name), progress.clone());
        let uploaded = Arc::new(move |done| {
            let doing = Progress { doing: Doing::Uploading, done, total: Some(size) };
            meter.words(doing).into_iter().for_each(|words| progress(words));
        });
        self.hypervisor.upload_volume(IMAGES, volume, &fetched.path, uploaded).await?;
        self.hypervisor.create_volume(IMAGES, &empty(mark)).await?;
        Ok(path)
    }
}

/// What the machines at a hypervisor are made from.
struct Needed {
    layers: Vec<Volume>,
    /// What the domains say that they were made from.
    origins: String,
}

impl Needed {
    async fn now(hypervisor: &dyn Hypervisor) -> Result<Self, HypervisorError> {
        // A kernel is no layer's base: that it is needed stands in the domain alone.
        let domains = hypervisor.domains().await?;
        let origins = domains.iter().filter_map(|domain| Some(domain.metadata.as_ref()?.origin.to_string()));
        let origins = origins.collect();
        let mut layers = Vec::new();
        for machine in hypervisor.pools().await?.iter().filter(|pool| pool.starts_with(MACHINE)) {
            // A pool may have gone with its machine meanwhile.
            layers.extend(hypervisor.volumes(machine).await?.into_iter().flatten());
        }
        Ok(Self { layers, origins })
    }

    fn has(&self, image: &Volume) -> bool {
        self.layers.iter().any(|layer| layer.backing.as_ref() == Some(&image.path))
            || self.origins.contains(&image.name.replace('-', ":"))
    }
}

/// The images at a hypervisor, and the volumes that say something of them.
async fn images(hypervisor: &dyn Hypervisor) -> Result<Vec<Volume>, HypervisorError> {
    Ok(hypervisor.volumes(IMAGES).await?.unwrap_or_default())
}

/// A volume that says something by being there.
fn empty(name: String) -> NewVolume {
    NewVolume { name, content: NewContent::Bytes, capacity: 0 }
}

/// The name under which an image is locked while it is brought there or deleted.
fn lock(volume: &str) -> String {
    format!("image {volume}")
}

fn pool(machine: &str) -> String {
    format!("{MACHINE}{machine}")
}

#[async_trait]
impl Storage for RemoteStorage {
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        self.local.known(machine)
    }

    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        self.local.identify(machine).await
    }

    async fn fetch(
        &self,
        machine: &Machine,
        progress: ProgressInWords,
    ) -> Result<IndexMap<String, Fetched>, StorageError> {
        let mut fetched = self.local.fetch(machine, progress.clone()).await?;
        for (name, file) in &mut fetched {
            file.path = self.bring(&machine.name, name, file, &progress).await?;
        }
        Ok(fetched)
    }

    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError> {
        self.remove_disks(&machine.name).await?;
        let pool = pool(&machine.name);
        let folder = Self::machines(&self.folder).join(&machine.name);
        self.hypervisor.ensure_pool(&pool, &folder).await?;
        let mut disks = Vec::new();
        for (index, disk) in machine.disks.iter().enumerate() {
            let Some(Fetched { path, format: Some(format), virtual_size, .. }) =
                fetched.get(&disk_name(index))
            else {
                continue;
            };
            let name = format!("disk{index}.qcow2");
            let size = disk.size.map_or(*virtual_size, |size| size.get());
            if size < *virtual_size {
                return Err(StorageError::TooSmall { path: folder.join(name), size, held: *virtual_size });
            }
            let content = NewContent::Layer { backing: path.clone(), format: format.name() };
            let volume = NewVolume { name, content, capacity: size };
            disks.push(self.hypervisor.create_volume(&pool, &volume).await?);
        }
        Ok(disks)
    }

    async fn create_seed(&self, machine: &Machine) -> Result<Option<Seed>, StorageError> {
        let Some(first_boot) = machine.first_boot() else { return Ok(None) };
        let pool = pool(&machine.name);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StorageError::Seed {
            path: format!("{pool}/seed.iso").into(),
            source,
        };
        // It holds a private key: only its owner can read what tempfile makes.
        let file =
            tempfile::Builder::new().suffix(".iso").tempfile().map_err(|error| failed(error.into()))?;
        let local = Utf8PathBuf::from_path_buf(file.path().to_owned())
            .map_err(|path| failed(format!("{} is not UTF-8", path.display()).into()))?;
        let host_key = self.local.write_seed(first_boot, &local).await.map_err(failed)?;
        let size = std::fs::metadata(&local).map_err(|error| failed(error.into()))?.len();
        let seed = NewVolume { name: "seed.iso".to_owned(), content: NewContent::Bytes, capacity: size };
        let path = self.hypervisor.create_volume(&pool, &seed).await?;
        self.hypervisor.upload_volume(&pool, "seed.iso", &local, Arc::new(|_| {})).await?;
        Ok(Some(Seed { path, host_key }))
    }

    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError> {
        Ok(self.hypervisor.remove_pool(&pool(machine)).await?)
    }
}

use std::{
    fs::{File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use camino::{Utf8Path, Utf8PathBuf};

use super::{
    Format, ImageError, ProgressFn,
    checksum::find_in_file,
    download::{Downloads, Target},
    fetch::{Fetched, blocking, fetch, read_small},
    format,
    growth::Growth,
    index::{self, Entry, Stat},
    location::{Location, shown},
    sparse::Bounds,
};
use crate::{
    base::{Checksum, ChecksumAlgorithm, ChecksumValue, Digest, Dirs},
    farm::ResourceStep,
};

/// What a download that broke off left is kept for so long, to be resumed.
const RESUMABLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file to have: where it comes from, what its content must be, and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// An absolute path of this host, or a `file://`, `http://` or `https://` URI.
    pub uri: String,
    /// What the content must be; anything if absent.
    pub checksum: Option<Checksum>,
    /// What is done to it, in order.
    pub steps: Vec<ResourceStep>,
}

/// A file in the store. It is never written to again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// Digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A disk image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// Digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its format.
    pub format: Format,
    /// What a guest sees of it, in bytes.
    pub virtual_size: u64,
}

/// Files by the digest of their content, fetched once.
///
/// A file appears whole and verified, or not at all; what a killed process left half is removed by the next fetch. Any number
/// of tasks and processes may use one store: two that want the same source fetch it once.
///
/// What came from a URL is taken to stay the same: it is not asked for again. A local file is read again when it was written
/// to or replaced, and both are when another checksum is demanded.
///
/// Files are readable by all: QEMU runs as another user under `qemu:///system`. Root's store is in folders that all can enter;
/// others' are their own.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) root: Utf8PathBuf,
    pub(super) downloads: Arc<Downloads>,
    pub(super) bounds: Bounds,
}

/// A file that nobody else makes while this lives.
pub(super) struct Lock {
    _file: File,
}

impl Store {
    /// The store in farmhand's folders. It is made when it is first used.
    pub fn new(dirs: &Dirs) -> Self {
        Self { root: dirs.images(), downloads: Arc::default(), bounds: Bounds::default() }
    }

    /// The digest of a source's content after its steps, if that is known without reading it; nothing is asked of the network.
    ///
    /// A digest that the source's own SHA-256 checksum demands is known even before it is fetched.
    pub fn known_digest(&self, source: &Source) -> Option<Digest> {
        source
            .steps
            .iter()
            .try_fold(self.known_origin(source)?, |digest, step| self.known_derived(&digest, step))
    }

    /// The digest of a source as it comes, before its steps, if that is known without reading it.
    pub fn origin_digest(&self, source: &Source) -> Option<Digest> {
        self.known_origin(source)
    }

    /// Forgets what came from a source, so that it is fetched anew when it is next wanted. The content stays: machines may
    /// stand on it.
    pub fn forget(&self, source: &Source) {
        let _ = std::fs::remove_file(self.beside(&key(source), "json"));
    }

    /// Has a disk image in the store.
    ///
    /// # Errors
    /// [`ImageError::Unusable`] when it is not qcow2 or raw, or leads to other files; see also [`Self::ensure_file`].
    pub async fn ensure(&self, source: &Source, progress: ProgressFn) -> Result<StoredImage, ImageError> {
        let stored = self.prepare(source, &progress, true).await?;
        let (path, uri) = (stored.path.clone(), shown(&source.uri));
        let (format, virtual_size) = blocking(move || {
            let file = File::open(&path).map_err(|source| ImageError::Read { path, source })?;
            format::inspect(&file).map_err(|message| ImageError::Unusable { uri, message })
        })
        .await?;
        let StoredFile { path, digest, size } = stored;
        Ok(StoredImage { path, digest, size, format, virtual_size })
    }

    /// Has a file of any kind (a kernel, an initrd) in the store.
    ///
    /// # Errors
    /// When it can't be fetched or prepared, or is not what its checksum says: then nothing of it is kept. A download that
    /// broke off is resumed by the next try where a checksum will tell whether it is right.
    pub async fn ensure_file(&self, source: &Source, progress: ProgressFn) -> Result<StoredFile, ImageError> {
        self.prepare(source, &progress, false).await
    }

    /// Has a source as it comes, before its steps. `growth` is told how it grows; whoever reads along is freed in the end.
    pub(super) async fn fetch(
        &self,
        source: &Source,
        progress: &ProgressFn,
        is_image: bool,
        growth: Option<Arc<Growth>>,
    ) -> Result<StoredFile, ImageError> {
        let release = Release(growth);
        let stored = self.have(source, progress, is_image, release.0.clone()).await;
        if let Some(growth) = &release.0
            && stored.is_ok()
        {
            growth.end(Ok(()));
        }
        stored
    }

    async fn have(
        &self,
        source: &Source,
        progress: &ProgressFn,
        is_image: bool,
        growth: Option<Arc<Growth>>,
    ) -> Result<StoredFile, ImageError> {
        let location = Location::parse(&source.uri)?;
        if let Some(stored) = self.look_up_off_thread(source).await? {
            return Ok(stored);
        }
        let key = key(source);
        let lock = self.lock(&key).await?;
        // Somebody else may have fetched it meanwhile.
        if let Some(stored) = self.look_up_off_thread(source).await? {
            return Ok(stored);
        }
        let expected = expected(&self.downloads, source, &location).await?;
        let note = expected.is_some().then(|| self.beside(&key, "resume"));
        loop {
            let (file, resumed) = self.open_partial(&key, note.as_deref()).await?;
            if let Some(growth) = &growth {
                growth.begin(file.try_clone().map_err(store_error("read", &self.beside(&key, "partial")))?);
            }
            let target = Target { file, note: note.clone(), growth: growth.clone() };
            let fetched = fetch(&self.downloads, &location, target, expected.clone(), progress).await;
            if resumed && matches!(&fetched, Ok(Fetched { digest: Err(_), .. })) {
                // What was there before may be what is wrong.
                growth.iter().for_each(|growth| growth.restarted());
                self.remove_partial(&key).await?;
                continue;
            }
            let (store, source) = (self.clone(), source.clone());
            return blocking(move || {
                let broke_off = matches!(&fetched, Err(ImageError::Download { .. }));
                let stored =
                    fetched.and_then(|fetched| store.keep(&source, expected.as_ref(), fetched, is_image));
                if !(broke_off && note.is_some_and(|note| note.exists())) {
                    store.remove_halves(&key);
                }
                drop(lock);
                stored
            })
            .await;
        }
    }

    /// The file that a download goes into, and whether it holds what an earlier process got.
    async fn open_partial(&self, key: &Digest, note: Option<&Utf8Path>) -> Result<(File, bool), ImageError> {
        let (store, partial, key) = (self.clone(), self.beside(key, "partial"), *key);
        let may_resume = note.is_some_and(Utf8Path::exists);
        blocking(move || {
            store.remove_leftovers();
            if may_resume && let Ok(file) = File::options().read(true).write(true).open(&partial) {
                return Ok((file, true));
            }
            // What is there was left by a killed process, and may be read-only already.
            store.remove_halves(&key);
            store.create_partial(&partial).map(|file| (file, false))
        })
        .await
    }

    pub(super) fn create_partial(&self, partial: &Utf8Path) -> Result<File, ImageError> {
        let create = File::options().read(true).write(true).create_new(true).open(partial);
        create.map_err(store_error("create", partial))
    }

    async fn remove_partial(&self, key: &Digest) -> Result<(), ImageError> {
        let (store, key) = (self.clone(), *key);
        blocking(move || {
            store.remove_halves(&key);
            Ok(())
        })
        .await
    }

    /// Removes what was made of a file so far. That there is nothing, or that it can't be removed, harms nobody: it is not
    /// looked at again without a checksum.
    pub(super) fn remove_halves(&self, key: &Digest) {
        let _ = std::fs::remove_file(self.beside(key, "partial"));
        let _ = std::fs::remove_file(self.beside(key, "resume"));
    }

    /// Puts what was fetched in its place, when it is what it should be.
    fn keep(
        &self,
        source: &Source,
        expected: Option<&ChecksumValue>,
        fetched: Fetched,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let Fetched { file, size, stat, digest } = fetched;
        let digest = digest.map_err(|found| mismatch(source, expected, found))?;
        let verified = source.checksum.as_ref().map(checksum_text);
        let entry = Entry { uri: shown(&source.uri), digest, size, stat, verified, from: None };
        self.place(&file, &key(source), entry, is_image)
    }

    /// Puts the half of `key`, which is complete, in its place, and notes what it is.
    pub(super) fn place(
        &self,
        file: &File,
        key: &Digest,
        entry: Entry,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let partial = self.beside(key, "partial");
        if is_image {
            let mut start = file;
            io::Seek::rewind(&mut start).map_err(store_error("read", &partial))?;
            format::inspect(file)
                .map_err(|message| ImageError::Unusable { uri: entry.uri.clone(), message })?;
        }
        let (digest, size) = (entry.digest, entry.size);
        let path = self.path(&digest);
        file.set_permissions(Permissions::from_mode(0o444))
            .map_err(store_error("make readable", &partial))?;
        file.sync_all().map_err(store_error("write", &partial))?;
        if size_of(&path) == Some(size) {
            // The same content came from another source; machines may stand on that file.
            std::fs::remove_file(&partial).map_err(store_error("remove", &partial))?;
        } else {
            std::fs::rename(&partial, &path).map_err(store_error("create", &path))?;
            File::open(&self.root)
                .and_then(|root| root.sync_all())
                .map_err(store_error("write", &self.root))?;
        }
        let index = self.beside(key, "json");
        index::write(&index, &entry).map_err(store_error("write", &index))?;
        Ok(StoredFile { path, digest, size })
    }

    /// The digest of a source as it comes, if it is known, whether or not its content is still there.
    pub(super) fn known_origin(&self, source: &Source) -> Option<Digest> {
        if let Some(Checksum::Value(value)) = &source.checksum
            && value.algorithm() == ChecksumAlgorithm::Sha256
        {
            // Whatever it came from before, this is what is demanded.
            return value.hex().parse().ok();
        }
        let entry = index::read(&self.beside(&key(source), "json"))?;
        if let Location::Local(path) = Location::parse(&source.uri).ok()? {
            let now = Stat::from(&std::fs::metadata(path).ok()?);
            if entry.stat != Some(now) {
                return None;
            }
        }
        let demanded = source.checksum.as_ref().map(checksum_text);
        (demanded.is_none() || entry.verified == demanded).then_some(entry.digest)
    }

    /// A file by the digest of its content.
    pub(super) fn stored(&self, digest: &Digest) -> Option<StoredFile> {
        let path = self.path(digest);
        size_of(&path).map(|size| StoredFile { path, digest: *digest, size })
    }

    /// The source's content as it comes, if it is in the store and the source has not changed since, as far as can be seen.
    fn look_up(&self, source: &Source) -> Option<StoredFile> {
        self.stored(&self.known_origin(source)?)
    }

    /// Where the file of that content is.
    pub(super) fn path(&self, digest: &Digest) -> Utf8PathBuf {
        self.root.join(digest.hex())
    }

    async fn look_up_off_thread(&self, source: &Source) -> Result<Option<StoredFile>, ImageError> {
        let (store, source) = (self.clone(), source.clone());
        blocking(move || Ok(store.look_up(&source))).await
    }

    /// Waits until nobody else makes this file, in this process or another.
    pub(super) async fn lock(&self, key: &Digest) -> Result<Lock, ImageError> {
        let path = self.beside(key, "lock");
        let (store, locked_path) = (self.clone(), path.clone());
        let (result, locked) = tokio::sync::oneshot::channel();
        // A thread of its own: the runtime would wait for one of its own threads before the process can end.
        let run = move || {
            let lock = store.make_folders().and_then(|()| {
                let file = open_lock(&locked_path).map_err(store_error("create", &locked_path))?;
                file.lock().map_err(store_error("lock", &locked_path))?;
                Ok(Lock { _file: file })
            });
            let _ = result.send(lock);
        };
        thread::Builder::new()
            .name("image-lock".to_owned())
            .spawn(run)
            .map_err(store_error("lock", &path))?;
        locked.await.map_err(|_| store_error("lock", &path)(io::Error::other("the locking thread ended")))?
    }

    /// As [`Self::lock`], but gives `None` at once when somebody else makes it.
    pub(super) fn try_lock(&self, key: &Digest) -> Result<Option<Lock>, ImageError> {
        let path = self.beside(key, "lock");
        let file = open_lock(&path).map_err(store_error("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(store_error("lock", &path)(error)),
        }
    }

    /// Removes what killed processes left: halves that nobody makes, and that can't be resumed or are too old.
    pub(super) fn remove_leftovers(&self) {
        let Ok(files) = self.sources().read_dir_utf8() else { return };
        for file in files.flatten() {
            let partial = file.path();
            let age = |file: &Utf8Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
            let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > RESUMABLE);
            if partial.extension() == Some("partial")
                && (!partial.with_extension("resume").exists() || age(partial).is_some_and(is_old))
                && let Ok(lock) = open_lock(&partial.with_extension("lock"))
                && !matches!(lock.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_)))
            {
                let _ = std::fs::remove_file(partial);
                let _ = std::fs::remove_file(partial.with_extension("resume"));
            }
        }
    }

    pub(super) fn make_folders(&self) -> Result<(), ImageError> {
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        make_folder(&self.root, mode)?;
        make_folder(&self.sources(), mode)
    }

    pub(super) fn sources(&self) -> Utf8PathBuf {
        self.root.join("sources")
    }

    /// One of the files about a source, or about what was made of one.
    pub(super) fn beside(&self, key: &Digest, extension: &str) -> Utf8PathBuf {
        self.sources().join(format!("{}.{extension}", key.hex()))
    }
}

/// Frees whoever reads along when a fetch ends, in whatever way.
struct Release(Option<Arc<Growth>>);

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(growth) = &self.0 {
            growth.end(Err("the download failed"));
        }
    }
}

/// The name of a source as it comes, in the store.
pub(super) fn key(source: &Source) -> Digest {
    Digest::of(&source.uri)
}

pub(super) fn store_error(action: &'static str, path: &Utf8Path) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Store { action, path: path.clone(), source }
}

/// Makes a folder and those above it that are missing; only those get the permissions.
fn make_folder(path: &Utf8Path, mode: u32) -> Result<(), ImageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent, mode)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // The process's umask may have taken away what QEMU's user needs.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(store_error("make readable", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(store_error("create", path)(error)),
    }
}

pub(super) fn open_lock(path: &Utf8Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

pub(super) fn size_of(path: &Utf8Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// A checksum as it stands in the index.
fn checksum_text(checksum: &Checksum) -> String {
    match checksum {
        Checksum::Value(value) => value.to_string(),
        // By digest: what is secret in a URI is not written down.
        Checksum::File { uri, algorithm } => {
            format!("{} in {}", algorithm.map_or("any", ChecksumAlgorithm::name), Digest::of(uri))
        }
    }
}

/// What the content must be, if anything is said about it.
async fn expected(
    downloads: &Downloads,
    source: &Source,
    location: &Location,
) -> Result<Option<ChecksumValue>, ImageError> {
    match &source.checksum {
        None => Ok(None),
        Some(Checksum::Value(value)) => Ok(Some(value.clone())),
        Some(Checksum::File { uri, algorithm }) => {
            let content = read_small(downloads, &Location::parse(uri)?).await?;
            let error = |source| ImageError::ChecksumFile { uri: shown(uri), source };
            find_in_file(&content, location.file_name(), *algorithm).map(Some).map_err(error)
        }
    }
}

fn mismatch(source: &Source, expected: Option<&ChecksumValue>, found: String) -> ImageError {
    let origin = match &source.checksum {
        Some(Checksum::File { uri, .. }) => format!(" by {}", shown(uri)),
        _ => String::new(),
    };
    ImageError::Mismatch {
        uri: shown(&source.uri),
        algorithm: expected.map_or("digest", |expected| expected.algorithm().name()),
        found,
        expected: expected.map(|expected| expected.hex().to_owned()).unwrap_or_default(),
        origin,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "server_tests.rs"]
mod server_tests;

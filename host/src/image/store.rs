use std::{
    fs::{File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    sync::Arc,
    thread,
};

use camino::{Utf8Path, Utf8PathBuf};

use super::{
    Format, ImageError,
    checksum::find_in_file,
    fetch::{Fetched, Location, blocking, fetch, read_small, shown},
    format,
    index::{self, Entry, Stat},
};
use crate::base::{Checksum, ChecksumAlgorithm, ChecksumValue, Digest, Dirs};

/// A file to have, and what its content must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// An absolute path of this host, or a `file://`, `http://` or `https://` URI.
    pub uri: String,
    /// What the content must be; anything if absent.
    pub checksum: Option<Checksum>,
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
    /// Its format.
    pub format: Format,
    /// What a guest sees of it, in bytes.
    pub virtual_size: u64,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have come.
    pub done: u64,
    /// Bytes that there are, if that is known.
    pub total: Option<u64>,
}

/// Called with each piece that comes; it must return soon.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

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
    root: Utf8PathBuf,
}

/// A source that nobody else fetches while this lives.
struct Lock {
    _file: File,
}

impl Store {
    /// The store in farmhand's folders. It is made when it is first used.
    pub fn new(dirs: &Dirs) -> Self {
        Self { root: dirs.images() }
    }

    /// The digest of a source's content, if that is known without reading it; nothing is asked of the network.
    ///
    /// A digest that the source's own SHA-256 checksum demands is known even before it is fetched.
    pub fn known_digest(&self, source: &Source) -> Option<Digest> {
        if let Some(Checksum::Value(value)) = &source.checksum
            && value.algorithm() == ChecksumAlgorithm::Sha256
        {
            return value.hex().parse().ok();
        }
        self.look_up(source).map(|file| file.digest)
    }

    /// Has a disk image in the store.
    ///
    /// # Errors
    /// [`ImageError::Unusable`] when it is not qcow2 or raw, or leads to other files; see also [`Self::ensure_file`].
    pub async fn ensure(&self, source: &Source, progress: ProgressFn) -> Result<StoredImage, ImageError> {
        let stored = self.have(source, progress, true).await?;
        let (path, uri) = (stored.path.clone(), shown(&source.uri));
        let (format, virtual_size) = blocking(move || {
            let file = File::open(&path).map_err(|source| ImageError::Read { path, source })?;
            format::inspect(&file).map_err(|message| ImageError::Unusable { uri, message })
        })
        .await?;
        Ok(StoredImage { path: stored.path, digest: stored.digest, format, virtual_size })
    }

    /// Has a file of any kind (a kernel, an initrd) in the store.
    ///
    /// # Errors
    /// When it can't be fetched, or is not what its checksum says: then nothing of it is kept.
    pub async fn ensure_file(&self, source: &Source, progress: ProgressFn) -> Result<StoredFile, ImageError> {
        self.have(source, progress, false).await
    }

    async fn have(
        &self,
        source: &Source,
        progress: ProgressFn,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let location = Location::parse(&source.uri)?;
        if let Some(stored) = self.look_up_off_thread(source).await? {
            return Ok(stored);
        }
        let lock = self.lock(source).await?;
        // Somebody else may have fetched it meanwhile.
        if let Some(stored) = self.look_up_off_thread(source).await? {
            return Ok(stored);
        }
        let expected = expected(source, &location).await?;
        let partial = self.beside(source, "partial");
        let into = {
            let (store, partial) = (self.clone(), partial.clone());
            blocking(move || {
                store.remove_leftovers();
                // What is there was left by a killed process, and may be read-only already.
                let _ = std::fs::remove_file(&partial);
                let create = File::options().read(true).write(true).create_new(true).open(&partial);
                create.map_err(store_error("create", &partial))
            })
            .await?
        };
        let fetched = fetch(&location, into, expected.clone(), progress).await;
        let (store, source) = (self.clone(), source.clone());
        blocking(move || {
            let stored = fetched
                .and_then(|fetched| store.keep(&source, expected.as_ref(), fetched, &partial, is_image));
            if stored.is_err() {
                let _ = std::fs::remove_file(&partial);
            }
            drop(lock);
            stored
        })
        .await
    }

    /// Puts what was fetched in its place, when it is what it should be.
    fn keep(
        &self,
        source: &Source,
        expected: Option<&ChecksumValue>,
        fetched: Fetched,
        partial: &Utf8Path,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let Fetched { file, size, stat, digest } = fetched;
        let digest = digest.map_err(|found| mismatch(source, expected, found))?;
        if is_image {
            let mut start = &file;
            io::Seek::rewind(&mut start).map_err(store_error("read", partial))?;
            format::inspect(&file)
                .map_err(|message| ImageError::Unusable { uri: shown(&source.uri), message })?;
        }
        let path = self.root.join(digest.hex());
        file.set_permissions(Permissions::from_mode(0o444)).map_err(store_error("make readable", partial))?;
        file.sync_all().map_err(store_error("write", partial))?;
        if size_of(&path) == Some(size) {
            // The same content came from another source; machines may stand on that file.
            std::fs::remove_file(partial).map_err(store_error("remove", partial))?;
        } else {
            std::fs::rename(partial, &path).map_err(store_error("create", &path))?;
            File::open(&self.root)
                .and_then(|root| root.sync_all())
                .map_err(store_error("write", &self.root))?;
        }
        let verified = source.checksum.as_ref().map(checksum_text);
        let entry = Entry { uri: shown(&source.uri), digest, size, stat, verified };
        let index = self.beside(source, "json");
        index::write(&index, &entry).map_err(store_error("write", &index))?;
        Ok(StoredFile { path, digest, size })
    }

    /// The source's content, if it is in the store and the source has not changed since, as far as can be seen.
    fn look_up(&self, source: &Source) -> Option<StoredFile> {
        if let Some(Checksum::Value(value)) = &source.checksum
            && value.algorithm() == ChecksumAlgorithm::Sha256
        {
            // Whatever it came from before, this is what is demanded.
            let digest: Digest = value.hex().parse().ok()?;
            let path = self.root.join(digest.hex());
            return size_of(&path).map(|size| StoredFile { path, digest, size });
        }
        let entry = index::read(&self.beside(source, "json"))?;
        if let Location::Local(path) = Location::parse(&source.uri).ok()? {
            let now = Stat::from(&std::fs::metadata(path).ok()?);
            if entry.stat != Some(now) {
                return None;
            }
        }
        let demanded = source.checksum.as_ref().map(checksum_text);
        let holds = demanded.is_none() || entry.verified == demanded;
        let path = self.root.join(entry.digest.hex());
        let stored = holds && size_of(&path) == Some(entry.size);
        stored.then_some(StoredFile { path, digest: entry.digest, size: entry.size })
    }

    async fn look_up_off_thread(&self, source: &Source) -> Result<Option<StoredFile>, ImageError> {
        let (store, source) = (self.clone(), source.clone());
        blocking(move || Ok(store.look_up(&source))).await
    }

    /// Waits until nobody else fetches this source, in this process or another.
    async fn lock(&self, source: &Source) -> Result<Lock, ImageError> {
        let path = self.beside(source, "lock");
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

    /// Removes what killed processes left: halves whose source nobody fetches.
    fn remove_leftovers(&self) {
        let Ok(files) = self.sources().read_dir_utf8() else { return };
        for file in files.flatten() {
            let partial = file.path();
            if partial.extension() == Some("partial")
                && let Ok(lock) = open_lock(&partial.with_extension("lock"))
                && !matches!(lock.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_)))
            {
                let _ = std::fs::remove_file(partial);
            }
        }
    }

    fn make_folders(&self) -> Result<(), ImageError> {
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        make_folder(&self.root, mode)?;
        make_folder(&self.sources(), mode)
    }

    fn sources(&self) -> Utf8PathBuf {
        self.root.join("sources")
    }

    /// One of the files about a source.
    fn beside(&self, source: &Source, extension: &str) -> Utf8PathBuf {
        self.sources().join(format!("{}.{extension}", Digest::of(&source.uri).hex()))
    }
}

fn store_error(action: &'static str, path: &Utf8Path) -> impl Fn(io::Error) -> ImageError + use<> {
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

fn open_lock(path: &Utf8Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

fn size_of(path: &Utf8Path) -> Option<u64> {
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
async fn expected(source: &Source, location: &Location) -> Result<Option<ChecksumValue>, ImageError> {
    match &source.checksum {
        None => Ok(None),
        Some(Checksum::Value(value)) => Ok(Some(value.clone())),
        Some(Checksum::File { uri, algorithm }) => {
            let content = read_small(&Location::parse(uri)?).await?;
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

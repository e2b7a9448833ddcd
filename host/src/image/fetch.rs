//! Brings the content of a source into a file, hashing it on the way; and small files into memory.

use std::{
    fs::File,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use camino::Utf8Path;

use super::{
    Doing, ImageError, Progress, ProgressFn,
    checksum::Hasher,
    download::{Downloads, Target},
    index::Stat,
    location::Location,
};
use crate::base::{ChecksumValue, Digest};

/// Larger files are taken for a mistake: 1 TiB.
pub(super) const MAX_SIZE: u64 = 1 << 40;
/// Checksum files are small.
const MAX_CHECKSUM_FILE: u64 = 4 << 20;
const CHUNK: usize = 1 << 20;

/// What was fetched.
pub(super) struct Fetched {
    pub(super) file: File,
    pub(super) size: u64,
    /// What a local file looked like when it was read.
    pub(super) stat: Option<Stat>,
    /// The digest; or that of the expected algorithm, if it is not the expected one.
    pub(super) digest: Result<Digest, String>,
}

/// Fetches a source into a file.
pub(super) async fn fetch(
    downloads: &Downloads,
    location: &Location,
    target: Target,
    expected: Option<ChecksumValue>,
    progress: &ProgressFn,
) -> Result<Fetched, ImageError> {
    match location {
        Location::Local(path) => {
            let cancel = CancelOnDrop::default();
            let (path, cancelled, progress) = (path.clone(), cancel.flag(), progress.clone());
            blocking(move || copy(&path, target.file, expected.as_ref(), &progress, &cancelled)).await
        }
        Location::Http(url) => downloads.download(url, target, expected, progress).await,
    }
}

/// Runs what blocks, off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let ended = |error: tokio::task::JoinError| ImageError::Store {
        action: "work with",
        path: "the store".into(),
        source: std::io::Error::other(error),
    };
    tokio::task::spawn_blocking(run).await.map_err(ended)?
}

/// Ends blocking work whose caller has gone.
#[derive(Default)]
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    /// What the work looks at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy(
    path: &Utf8Path,
    into: File,
    expected: Option<&ChecksumValue>,
    progress: &ProgressFn,
    cancelled: &AtomicBool,
) -> Result<Fetched, ImageError> {
    let error = |source| ImageError::Read { path: path.to_owned(), source };
    let from = File::open(path).map_err(error)?;
    let metadata = from.metadata().map_err(error)?;
    if !metadata.is_file() {
        return Err(error(std::io::Error::other("it is not a regular file")));
    }
    let (stat, total) = (Stat::from(&metadata), metadata.len());
    if total > MAX_SIZE {
        return Err(ImageError::TooLarge { uri: path.to_string(), max_size: MAX_SIZE });
    }
    // Where the file system can share the blocks, only reading is left to do.
    let shared = rustix::fs::ioctl_ficlone(&into, &from).is_ok();
    let (mut hasher, mut size, mut buffer) = (Hasher::new(expected), 0, vec![0; CHUNK]);
    loop {
        let length = match (&from).read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(failed) if failed.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(failed) => return Err(error(failed)),
        };
        let chunk = buffer.get(..length).unwrap_or_default();
        hasher.update(chunk);
        if !shared {
            write_sparse(&into, chunk, size).map_err(write_error)?;
        }
        size += length as u64;
        progress(Progress { doing: Doing::Fetching, done: size, total: Some(total) });
        if size > total || cancelled.load(Ordering::Relaxed) {
            break;
        }
    }
    into.set_len(size).map_err(write_error)?;
    let after = std::fs::metadata(path).map_err(error)?;
    if size != total || Stat::from(&after) != stat {
        return Err(ImageError::Changing(path.to_owned()));
    }
    Ok(Fetched { file: into, size, stat: Some(stat), digest: hasher.finish(expected) })
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes at an offset of a file that has nothing there, leaving a hole where there is nothing but zeros. Gives whether it
/// wrote.
pub(super) fn write_sparse(file: &File, bytes: &[u8], at: u64) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    if bytes.chunks(ZEROS.len()).all(|piece| Some(piece) == ZEROS.get(..piece.len())) {
        return Ok(false);
    }
    file.write_all_at(bytes, at).map(|()| true)
}

pub(super) fn write_error(source: std::io::Error) -> ImageError {
    ImageError::Store { action: "write to", path: "the store".into(), source }
}

/// Reads a small file whole: a checksum file.
pub(super) async fn read_small(downloads: &Downloads, location: &Location) -> Result<Vec<u8>, ImageError> {
    match location {
        Location::Local(path) => {
            let path = path.clone();
            blocking(move || {
                let error = |source| ImageError::Read { path: path.clone(), source };
                let mut content = Vec::new();
                let mut file = File::open(&path).map_err(error)?.take(MAX_CHECKSUM_FILE + 1);
                file.read_to_end(&mut content).map_err(error)?;
                if content.len() as u64 > MAX_CHECKSUM_FILE {
                    return Err(ImageError::TooLarge { uri: path.to_string(), max_size: MAX_CHECKSUM_FILE });
                }
                Ok(content)
            })
            .await
        }
        Location::Http(url) => downloads.read_small(url, MAX_CHECKSUM_FILE).await,
    }
}

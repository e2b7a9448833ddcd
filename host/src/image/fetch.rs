//! Brings the content of a source into a file, hashing it on the way; and small files into memory.

use std::{
    error::Error as _,
    fs::File,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt as _;
use reqwest::Url;
use tokio::sync::mpsc;

use super::{
    ImageError,
    checksum::Hasher,
    index::Stat,
    store::{Progress, ProgressFn},
};
use crate::base::{ChecksumValue, Digest};

/// Larger files are taken for a mistake: 1 TiB.
const MAX_SIZE: u64 = 1 << 40;
/// Checksum files are small.
const MAX_CHECKSUM_FILE: u64 = 4 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may send nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const CHUNK: usize = 1 << 20;
/// Chunks that may wait to be written.
const CHUNKS_WAITING: usize = 16;

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Local(Utf8PathBuf),
    Http(Url),
}

impl Location {
    pub(super) fn parse(uri: &str) -> Result<Self, ImageError> {
        if uri.starts_with('/') {
            return Ok(Self::Local(uri.into()));
        }
        let error = || ImageError::Source(shown(uri));
        let url = Url::parse(uri).map_err(|_| error())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(url)),
            "file" => {
                let path = url.to_file_path().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
                path.map(Self::Local).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }

    /// The last part of its path.
    pub(super) fn file_name(&self) -> &str {
        match self {
            Self::Local(path) => path.file_name().unwrap_or_default(),
            Self::Http(url) => url.path().rsplit('/').next().unwrap_or_default(),
        }
    }
}

/// A URI for people and records: without what may be secret in it (user and password, query).
pub(super) fn shown(uri: &str) -> String {
    let Ok(mut url) = Url::parse(uri) else { return uri.to_owned() };
    if !url.has_host() {
        return uri.to_owned();
    }
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.to_string()
}

/// What was fetched.
pub(super) struct Fetched {
    pub(super) file: File,
    pub(super) size: u64,
    /// What a local file looked like when it was read.
    pub(super) stat: Option<Stat>,
    /// The digest; or that of the expected algorithm, if it is not the expected one.
    pub(super) digest: Result<Digest, String>,
}

/// Fetches a source into an empty file.
pub(super) async fn fetch(
    location: &Location,
    into: File,
    expected: Option<ChecksumValue>,
    progress: ProgressFn,
) -> Result<Fetched, ImageError> {
    match location {
        Location::Local(path) => {
            let cancelled = Arc::new(AtomicBool::new(false));
            let _guard = CancelOnDrop(Arc::clone(&cancelled));
            let path = path.clone();
            blocking(move || copy(&path, into, expected.as_ref(), &progress, &cancelled)).await
        }
        Location::Http(url) => download(url, into, expected, &progress).await,
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

/// Ends a copy whose caller has gone.
struct CancelOnDrop(Arc<AtomicBool>);

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
        progress(Progress { done: size, total: Some(total) });
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

/// Writes at an offset of an empty file, leaving a hole where there is nothing but zeros.
fn write_sparse(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    if bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { file.write_all_at(bytes, at) }
}

fn write_error(source: std::io::Error) -> ImageError {
    ImageError::Store { action: "write to", path: "the store".into(), source }
}

async fn download(
    url: &Url,
    into: File,
    expected: Option<ChecksumValue>,
    progress: &ProgressFn,
) -> Result<Fetched, ImageError> {
    let (response, total) = get(url, MAX_SIZE).await?;
    let mut body = response.bytes_stream();
    let (chunks, received) = mpsc::channel(CHUNKS_WAITING);
    let writer = blocking(move || write_down(received, into, expected.as_ref()));
    // It owns the sender: when it fails, the writer ends too.
    let reader = async move {
        let mut done = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| failed(url, error))?;
            done += chunk.len() as u64;
            if done > MAX_SIZE {
                return Err(too_large(url, MAX_SIZE));
            }
            if chunks.send(Some(chunk)).await.is_err() {
                // The writer failed; it says why.
                return Ok(());
            }
            progress(Progress { done, total });
        }
        let _ = chunks.send(None).await;
        Ok(())
    };
    let (written, read) = tokio::join!(writer, reader);
    read?;
    written
}

/// Writes what comes, up to the `None` at the end. Without it the download was given up.
fn write_down(
    mut received: mpsc::Receiver<Option<Bytes>>,
    into: File,
    expected: Option<&ChecksumValue>,
) -> Result<Fetched, ImageError> {
    let (mut hasher, mut size) = (Hasher::new(expected), 0);
    loop {
        match received.blocking_recv() {
            Some(Some(chunk)) => {
                hasher.update(&chunk);
                write_sparse(&into, &chunk, size).map_err(write_error)?;
                size += chunk.len() as u64;
            }
            Some(None) => break,
            None => return Err(write_error(std::io::Error::other("the download was given up"))),
        }
    }
    into.set_len(size).map_err(write_error)?;
    Ok(Fetched { file: into, size, stat: None, digest: hasher.finish(expected) })
}

/// Reads a small file whole: a checksum file.
pub(super) async fn read_small(location: &Location) -> Result<Vec<u8>, ImageError> {
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
        Location::Http(url) => {
            let (response, _) = get(url, MAX_CHECKSUM_FILE).await?;
            let (mut body, mut content) = (response.bytes_stream(), Vec::new());
            while let Some(chunk) = body.next().await {
                content.extend_from_slice(&chunk.map_err(|error| failed(url, error))?);
                if content.len() as u64 > MAX_CHECKSUM_FILE {
                    return Err(too_large(url, MAX_CHECKSUM_FILE));
                }
            }
            Ok(content)
        }
    }
}

/// Asks for a URL, and gives the answer and the size that it promises.
async fn get(url: &Url, max_size: u64) -> Result<(reqwest::Response, Option<u64>), ImageError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .user_agent(concat!("farmhand/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(url, error))?;
    let response = client.get(url.clone()).send().await.map_err(|error| failed(url, error))?;
    if !response.status().is_success() {
        let message = format!("the server answers {}", response.status());
        return Err(ImageError::Download { uri: shown(url.as_str()), message });
    }
    let total = response.content_length();
    if total.is_some_and(|total| total > max_size) {
        Err(too_large(url, max_size))
    } else {
        Ok((response, total))
    }
}

fn too_large(url: &Url, max_size: u64) -> ImageError {
    ImageError::TooLarge { uri: shown(url.as_str()), max_size }
}

/// The client's error with its causes, without the URL, which may hold secrets.
fn failed(url: &Url, error: reqwest::Error) -> ImageError {
    let error = error.without_url();
    let (mut message, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    ImageError::Download { uri: shown(url.as_str()), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_paths_or_uris() {
        let parse = |uri| Location::parse(uri);
        assert_eq!(parse("/a b/c%20d").unwrap(), Location::Local("/a b/c%20d".into()));
        assert_eq!(parse("file:///a/c%20d").unwrap(), Location::Local("/a/c d".into()));
        assert_eq!(parse("https://example.org/x/y.qcow2?z=/1").unwrap().file_name(), "y.qcow2");
        for uri in ["", "a", "./a", "ftp://example.org/a", "file://other-host/a", "http://"] {
            assert!(matches!(parse(uri), Err(ImageError::Source(_))), "{uri}");
        }
    }

    #[test]
    fn secrets_of_a_uri_are_not_shown() {
        assert_eq!(shown("https://u:p@example.org/x?token=t"), "https://example.org/x?...");
        assert_eq!(shown("/a?b"), "/a?b");
    }
}

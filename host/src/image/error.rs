use camino::Utf8PathBuf;

use super::checksum::ChecksumFileError;

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The source is neither an absolute path nor a URI of a known scheme.
    #[error(
        "can't fetch `{0}`: expected an absolute path, or a URI that begins with file://, http:// or https://"
    )]
    Source(String),
    /// A source of this host can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A source of this host was written to while it was read.
    #[error("{0} changed while it was read: wait until whatever writes it is done, and try again")]
    Changing(Utf8PathBuf),
    /// A download failed.
    #[error("can't download {uri}: {message}")]
    Download {
        /// From where.
        uri: String,
        /// What the HTTP client says.
        message: String,
    },
    /// The source is larger than what is taken.
    #[error("{uri} is larger than {max_size} bytes")]
    TooLarge {
        /// From where.
        uri: String,
        /// The bound.
        max_size: u64,
    },
    /// The content is not what it should be. Nothing of it was kept.
    #[error("{uri} has {algorithm} {found}, but {expected} was expected{origin}; nothing of it was kept")]
    Mismatch {
        /// From where.
        uri: String,
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Digest of the content.
        found: String,
        /// Digest that was expected.
        expected: String,
        /// ` by <checksum file>`, or nothing when the definition itself says it.
        origin: String,
    },
    /// The checksum file does not tell what is needed.
    #[error("the checksum file {uri} can't be used: {source}")]
    ChecksumFile {
        /// From where.
        uri: String,
        /// What is wrong with it.
        source: ChecksumFileError,
    },
    /// The store's own folder can't be used.
    #[error("can't {action} {path}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: Utf8PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The file is not a disk image that can be a base.
    #[error("{uri} can't be used as a disk image: {message}")]
    Unusable {
        /// Where it comes from.
        uri: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// The store can't be pruned now.
    #[error("a run uses the images at the moment; wait until it is done")]
    InUse,
    /// The file can't be unpacked.
    #[error("can't unpack {uri}: {message}")]
    Unpack {
        /// Where it comes from.
        uri: String,
        /// What is wrong with it.
        message: String,
    },
    /// `qemu-img` failed.
    #[error("qemu-img could not {operation}: {message}")]
    QemuImg {
        /// What was tried.
        operation: String,
        /// Its own words, or why it could not be run.
        message: String,
    },
}

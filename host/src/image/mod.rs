//! Base images and other files of installations: fetched once, verified, kept by digest; and the machines' disks on top of
//! them.

mod checksum;
mod error;
mod fetch;
mod format;
mod index;
mod overlay;
mod store;

pub use checksum::ChecksumFileError;
pub use error::ImageError;
pub use format::Format;
pub use overlay::{Disk, DiskSnapshot, create_overlay, inspect_disk};
pub use store::{Progress, ProgressFn, Source, Store, StoredFile, StoredImage};

//! Base images and other files of installations: fetched once, verified, kept by digest; and the machines' disks on top of
//! them.

mod checksum;
mod convert;
mod derive;
mod download;
mod error;
mod fetch;
mod format;
mod growth;
mod index;
mod location;
mod overlay;
mod progress;
mod prune;
mod qemu_img;
mod seed;
mod sparse;
mod store;
mod unpack;

pub use checksum::ChecksumFileError;
pub use error::ImageError;
pub use format::Format;
pub use overlay::{Disk, DiskSnapshot, create_overlay, inspect_disk};
pub use progress::{Doing, Meter, Progress, ProgressFn};
pub use prune::{Hold, Listed, note_bases};
pub use seed::{SeedData, SeedError, cloud_config, hash_password, write_seed};
pub use store::{Source, Store, StoredFile, StoredImage};

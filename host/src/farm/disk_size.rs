use serde::{Deserialize, Deserializer, Serialize};

use super::bytes::{self, Bytes};

/// The smallest and the largest disk: a sector, 16 TiB.
const MIN: u64 = 512;
const MAX: u64 = 1 << 44;

/// The size of a disk in bytes: `10737418240`, `10G`, `10 GiB`. The units are powers of two, as for `qemu-img`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskSize(u64);

impl DiskSize {
    /// The number of bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Bytes for DiskSize {
    const EXPECTED: &str =
        "a disk's size of at most 16 TiB\nwrite bytes (a multiple of 512), or a unit as in `512 MiB`, `20G`";

    /// Disks consist of sectors of 512 bytes.
    fn bounded(bytes: u64) -> Option<Self> {
        ((MIN..=MAX).contains(&bytes) && bytes.is_multiple_of(512)).then_some(Self(bytes))
    }
}

impl<'de> Deserialize<'de> for DiskSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (written, bytes) in [
            ("10737418240", 10 << 30),
            ("20G", 20 << 30),
            ("512 MiB", 512 << 20),
            ("1TB", 1 << 40),
            ("\"4 k\"", 4 << 10),
        ] {
            assert_eq!(serde_yaml::from_str::<DiskSize>(written).unwrap().get(), bytes, "{written}");
        }
        for written in
            ["0", "513", "-1", "17 TiB", "1 PiB", "much", "20 GiBB", "[1]", "99999999999999999999 G"]
        {
            assert!(serde_yaml::from_str::<DiskSize>(written).is_err(), "{written}");
        }
    }
}

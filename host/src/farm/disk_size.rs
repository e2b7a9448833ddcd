use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

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

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return None,
        };
        Self::bounded(number.parse::<u64>().ok()?.checked_mul(1 << shift)?)
    }

    /// Disks consist of sectors of 512 bytes.
    fn bounded(bytes: u64) -> Option<Self> {
        ((MIN..=MAX).contains(&bytes) && bytes.is_multiple_of(512)).then_some(Self(bytes))
    }
}

impl<'de> Deserialize<'de> for DiskSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = DiskSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a disk's size of at most 16 TiB\nwrite bytes (a multiple of 512), or a unit as in `512 MiB`, `20G`")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<DiskSize, E> {
                DiskSize::bounded(bytes)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DiskSize, E> {
                DiskSize::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
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

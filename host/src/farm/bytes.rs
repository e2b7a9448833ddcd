//! Numbers of bytes as people write them: `1048576`, `64K`, `10 GiB`. The units are powers of two, as for `qemu-img`.

use std::{fmt, marker::PhantomData};

use serde::{Deserializer, de};

/// A number of bytes within bounds.
pub(super) trait Bytes: Sized {
    /// What is expected, for people; after a line break, how it is written.
    const EXPECTED: &str;

    /// So many bytes, if they are within the bounds.
    fn bounded(bytes: u64) -> Option<Self>;
}

/// Reads a number, or a text with a unit.
pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Bytes>(deserializer: D) -> Result<T, D::Error> {
    struct Visitor<T>(PhantomData<T>);

    impl<T: Bytes> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<T, E> {
            T::bounded(bytes).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            let bytes = parse(text).and_then(T::bounded);
            bytes.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Visitor(PhantomData))
}

fn parse(text: &str) -> Option<u64> {
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
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The name of a run: when it began, in UTC and to the millisecond, and four random hexadecimal digits, e.g.
/// `2026-11-25T18-27-03.412Z-4f1c`. Names sort by time, and no two runs have the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// What a name must look like: digits where there is a `0`, lower-case hexadecimal ones where there is an `x`.
const SHAPE: &[u8] = b"0000-00-00T00-00-00.000Z-xxxx";

/// A text that is no name of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a run: it looks like 2026-11-25T18-27-03.412Z-4f1c")]
pub struct NoRunId(String);

impl RunId {
    /// A name for a run that begins now.
    pub fn new() -> Self {
        Self::of(Timestamp::now(), uuid::Uuid::new_v4().as_fields().2)
    }

    fn of(begun: Timestamp, random: u16) -> Self {
        Self(format!("{}-{random:04x}", begun.strftime("%Y-%m-%dT%H-%M-%S.%3fZ")))
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl TryFrom<String> for RunId {
    type Error = NoRunId;

    fn try_from(text: String) -> Result<Self, NoRunId> {
        let fits = |(byte, shape): (u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            other => byte == *other,
        };
        match text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits) {
            true => Ok(Self(text)),
            false => Err(NoRunId(text)),
        }
    }
}

impl std::str::FromStr for RunId {
    type Err = NoRunId;

    fn from_str(text: &str) -> Result<Self, NoRunId> {
        text.to_owned().try_into()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_come_back() {
        let at = |text: &str, random| RunId::of(text.parse().unwrap(), random);
        let earlier = at("2026-11-25T18:27:03.0129Z", 0xffff);
        let later = at("2026-11-25T18:27:03.4Z", 0x1c);
        assert_eq!(earlier.as_str(), "2026-11-25T18-27-03.012Z-ffff");
        assert_eq!(later.as_str(), "2026-11-25T18-27-03.400Z-001c");
        assert!(earlier < later);
        let new = RunId::new();
        assert!(later.as_str()[..4] <= new.as_str()[..4]);
        assert_eq!(new.as_str().parse(), Ok(new.clone()));
        assert_ne!(new, RunId::new());
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in ["", "..", "2026-11-25T18-27-03.412Z-4f1", "2026-11-25T18-27-03.412Z-4F1C", "last"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
        assert!("2026-11-25T18-27-03.412Z/4f1c".parse::<RunId>().is_err());
    }
}

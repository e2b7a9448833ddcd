use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What the content of a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// Its digest.
    Value(ChecksumValue),
    /// A file that lists it among others (`SHA256SUMS`).
    File {
        /// Where the file is: an absolute path or a URI.
        uri: String,
        /// The algorithm whose lines count; the strongest one that is there if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        algorithm: Option<ChecksumAlgorithm>,
    },
}

/// An algorithm that makes a checksum, the weaker ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumAlgorithm {
    /// MD5. It tells damage, not malice.
    Md5,
    /// SHA-1. It tells damage, not malice.
    Sha1,
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl ChecksumAlgorithm {
    /// All of them, the weaker ones first.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// Its name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits its digests have.
    pub fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = ChecksumError;

    /// Reads a name, also as `SHA-256`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase().replace('-', "");
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        found.ok_or_else(|| ChecksumError::Algorithm(text.to_owned()))
    }
}

/// A digest of some algorithm, written `sha256:` and hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct ChecksumValue {
    algorithm: ChecksumAlgorithm,
    hex: String,
}

/// A text is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// There is no such algorithm.
    #[error("`{0}` is no checksum algorithm: expected md5, sha1, sha256 or sha512")]
    Algorithm(String),
    /// The text is no digest of a known algorithm.
    #[error(
        "`{0}` is not a checksum: expected 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512) hexadecimal digits, with or without the algorithm's name and a colon before them"
    )]
    Value(String),
    /// The text is no digest of this algorithm.
    #[error("`{text}` is no {} checksum: expected {} hexadecimal digits", .algorithm.name(), .algorithm.digits())]
    OtherAlgorithm {
        /// The text.
        text: String,
        /// The algorithm that was named.
        algorithm: ChecksumAlgorithm,
    },
}

impl ChecksumValue {
    /// A digest whose algorithm is told by the number of its hexadecimal digits.
    pub fn of_hex(hex: &str) -> Option<Self> {
        let of_length = |algorithm: &ChecksumAlgorithm| algorithm.digits() == hex.len();
        let algorithm = ChecksumAlgorithm::ALL.into_iter().find(of_length)?;
        let all = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        all.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// A digest that must be of this algorithm.
    pub fn of_algorithm(algorithm: ChecksumAlgorithm, text: &str) -> Result<Self, ChecksumError> {
        let value: Self = text.parse()?;
        let same = value.algorithm == algorithm;
        same.then_some(value).ok_or(ChecksumError::OtherAlgorithm { text: text.to_owned(), algorithm })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// The digest in lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for ChecksumValue {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Self::of_hex(text).ok_or_else(|| ChecksumError::Value(text.to_owned()));
        };
        let algorithm = algorithm.parse()?;
        let value = Self::of_hex(hex).filter(|value| value.algorithm == algorithm);
        value.ok_or_else(|| ChecksumError::OtherAlgorithm { text: hex.to_owned(), algorithm })
    }
}

impl fmt::Display for ChecksumValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl From<ChecksumValue> for String {
    fn from(value: ChecksumValue) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_by_their_length() {
        let digits = |digit: &str, count: usize| digit.repeat(count);
        let parse = |text: &str| text.parse::<ChecksumValue>().map(|value| value.to_string());
        for algorithm in ChecksumAlgorithm::ALL {
            let expected = format!("{}:{}", algorithm.name(), digits("a", algorithm.digits()));
            assert_eq!(parse(&digits("A", algorithm.digits())), Ok(expected.clone()));
            assert_eq!(parse(&expected.to_uppercase()), Ok(expected));
        }
        for text in ["", "sha256:", &digits("a", 33), &digits("g", 64), "sha3:00"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let wrong = ChecksumValue::of_algorithm(ChecksumAlgorithm::Sha512, &digits("a", 64)).unwrap_err();
        assert!(wrong.to_string().contains("no sha512 checksum: expected 128"), "{wrong}");
    }
}

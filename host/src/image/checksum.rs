use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256, Sha512};

/// What the content of a source must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// Its digest.
    Value(ChecksumValue),
    /// A file that lists it among others (`SHA256SUMS`).
    File {
        /// Where the file is: as for a source.
        uri: String,
        /// Which line counts: the name of a file in it. The last part of the source's path if absent.
        name: Option<String>,
    },
}

/// A digest of some algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChecksumValue {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The digest in lower-case hexadecimal digits.
    hex: String,
}

/// An algorithm that makes a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// Its name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    fn of_digits(digits: usize) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|algorithm| algorithm.digits() == digits)
    }
}

/// A checksum can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// The text is no digest of a known algorithm.
    #[error(
        "`{0}` is not a checksum: expected 64 (SHA-256) or 128 (SHA-512) hexadecimal digits, with or without `sha256:` or `sha512:` before them"
    )]
    Value(String),
    /// The file has no line for this name.
    #[error("it has no SHA-256 or SHA-512 checksum of `{0}`")]
    NotListed(String),
    /// The file is no text.
    #[error("it is not a text file")]
    NotText,
}

impl ChecksumValue {
    /// The digest in lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    fn new(hex: &str) -> Option<Self> {
        let algorithm = Algorithm::of_digits(hex.len())?;
        let all = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        all.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl FromStr for ChecksumValue {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ChecksumError::Value(text.to_owned());
        let (algorithm, hex) = match text.split_once(':') {
            Some((algorithm, hex)) => (Some(algorithm), hex),
            None => (None, text),
        };
        let value = Self::new(hex).ok_or_else(error)?;
        if algorithm.is_some_and(|name| name != value.algorithm.name()) { Err(error()) } else { Ok(value) }
    }
}

impl fmt::Display for ChecksumValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Finds the checksum of `name` in a checksum file: lines of coreutils' `<hex>  name` or `<hex> *name`, BSD's
/// `SHA256 (name) = <hex>`, or the digest alone. The stronger one counts if there are two.
pub(super) fn find_in_file(content: &[u8], name: &str) -> Result<ChecksumValue, ChecksumError> {
    let text = std::str::from_utf8(content).map_err(|_| ChecksumError::NotText)?;
    let listed = text.lines().filter_map(|line| {
        let (listed, hex) = parse_line(line.trim())?;
        let is_it = listed.is_none_or(|listed| listed.strip_prefix("./").unwrap_or(listed) == name);
        if is_it { ChecksumValue::new(hex) } else { None }
    });
    listed.max_by_key(|value| value.algorithm).ok_or_else(|| ChecksumError::NotListed(name.to_owned()))
}

/// The name, if there is one, and the digits of one line.
fn parse_line(line: &str) -> Option<(Option<&str>, &str)> {
    if let Some((start, hex)) = line.rsplit_once(") = ") {
        let (_, name) = start.split_once(" (")?;
        return Some((Some(name), hex));
    }
    match line.split_once(' ') {
        Some((hex, name)) => Some((Some(name.strip_prefix([' ', '*']).unwrap_or(name)), hex)),
        None => Some((None, line)),
    }
}

/// Digests of a content, made in one pass: SHA-256 always, because files are kept by it, and another one if it is asked for.
pub(super) struct Hasher {
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Hasher {
    pub(super) fn new(expected: Option<&ChecksumValue>) -> Self {
        let sha512 = expected.is_some_and(|expected| expected.algorithm == Algorithm::Sha512);
        Self { sha256: Sha256::new(), sha512: sha512.then(Sha512::new) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    /// The SHA-256 digest; or, if the content is not what is expected, the digest that it has by the expected one's
    /// algorithm.
    pub(super) fn finish(self, expected: Option<&ChecksumValue>) -> Result<crate::base::Digest, String> {
        let digest = crate::base::Digest::from_hasher(self.sha256);
        let Some(expected) = expected else { return Ok(digest) };
        let found = match self.sha512 {
            Some(sha512) => sha512.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            None => digest.hex(),
        };
        if found == expected.hex { Ok(digest) } else { Err(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(digit: char, count: usize) -> String {
        digit.to_string().repeat(count)
    }

    #[test]
    fn values_are_told_by_their_length() {
        let parse = |text: &str| text.parse::<ChecksumValue>().map(|value| value.to_string());
        assert_eq!(parse(&digits('A', 64)), Ok(format!("sha256:{}", digits('a', 64))));
        assert_eq!(
            parse(&format!("sha512:{}", digits('b', 128))),
            Ok(format!("sha512:{}", digits('b', 128)))
        );
        for text in
            ["", "sha256:", &digits('a', 32), &digits('g', 64), &format!("sha512:{}", digits('a', 64))]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_layout_of_a_checksum_file_is_read() {
        let (a, b, long) = (digits('a', 64), digits('b', 64), digits('c', 128));
        let find = |content: &str| find_in_file(content.as_bytes(), "x.qcow2").map(|value| value.hex);
        assert_eq!(find(&format!("# note\n{b}  other\n{a}  x.qcow2\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{a} *x.qcow2\r\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{a} *./x.qcow2\n")), Ok(a.clone()));
        assert_eq!(find(&format!("SHA256 (x.qcow2) = {a}\nSHA256 (y) = {b}")), Ok(a.clone()));
        assert_eq!(find(&format!("SHA512 (x.qcow2) = {long}\nSHA256 (x.qcow2) = {a}\n")), Ok(long));
        assert_eq!(find(&format!("{a}\n")), Ok(a.clone()));
        let not_listed = Err(ChecksumError::NotListed("x.qcow2".into()));
        assert_eq!(
            find(&format!("{a}  old-x.qcow2\n{a}  x.qcow2.sig\n{}  x.qcow2", digits('a', 32))),
            not_listed
        );
        assert_eq!(find(""), not_listed);
        assert_eq!(find_in_file(&[0xff], "x"), Err(ChecksumError::NotText));
    }
}

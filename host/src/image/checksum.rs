use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512, digest::DynDigest};

use crate::base::{ChecksumAlgorithm, ChecksumValue, Digest};

/// A checksum file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumFileError {
    /// The file has no line for this name.
    #[error("it has no{algorithm} checksum of `{name}`")]
    NotListed {
        /// The name that was looked for.
        name: String,
        /// A blank and the algorithm's name, if only that one counts.
        algorithm: String,
    },
    /// The file is no text.
    #[error("it is not a text file")]
    NotText,
}

/// Finds the checksum of `name` in a checksum file: lines of coreutils' `<hex>  name` or `<hex> *name`, BSD's
/// `SHA256 (name) = <hex>`, or the digest alone. The strongest one counts if there are several; with an `algorithm`, only
/// that one's.
pub(super) fn find_in_file(
    content: &[u8],
    name: &str,
    algorithm: Option<ChecksumAlgorithm>,
) -> Result<ChecksumValue, ChecksumFileError> {
    let text = std::str::from_utf8(content).map_err(|_| ChecksumFileError::NotText)?;
    let values = |is_it: &dyn Fn(Option<&str>) -> bool| {
        let listed = text.lines().filter_map(|line| {
            let (listed, hex) = parse_line(line.trim())?;
            let value = ChecksumValue::of_hex(hex).filter(|_| is_it(listed))?;
            algorithm.is_none_or(|algorithm| value.algorithm() == algorithm).then_some(value)
        });
        listed.max_by_key(ChecksumValue::algorithm)
    };
    let exact = |listed: Option<&str>| {
        listed.is_none_or(|listed| listed.strip_prefix("./").unwrap_or(listed) == name)
    };
    // Lists of whole trees give paths.
    let last = |listed: Option<&str>| listed.and_then(|listed| listed.rsplit('/').next()) == Some(name);
    values(&exact).or_else(|| values(&last)).ok_or_else(|| ChecksumFileError::NotListed {
        name: name.to_owned(),
        algorithm: algorithm.map(|algorithm| format!(" {}", algorithm.name())).unwrap_or_default(),
    })
}

/// The name, if there is one, and the digits of one line.
fn parse_line(line: &str) -> Option<(Option<&str>, &str)> {
    if let Some((start, hex)) = line.rsplit_once(") = ") {
        let (_, name) = start.split_once(" (")?;
        return Some((Some(name), hex));
    }
    match line.split_once([' ', '\t']) {
        Some((hex, name)) => {
            let name = name.trim_start();
            Some((Some(name.strip_prefix('*').unwrap_or(name)), hex))
        }
        None => Some((None, line)),
    }
}

/// Digests of a content, made in one pass: SHA-256 always, because files are kept by it, and another one if it is asked for.
pub(super) struct Hasher {
    sha256: Sha256,
    other: Option<Box<dyn DynDigest + Send>>,
}

impl Hasher {
    pub(super) fn new(expected: Option<&ChecksumValue>) -> Self {
        let other: Option<Box<dyn DynDigest + Send>> = match expected.map(ChecksumValue::algorithm) {
            None | Some(ChecksumAlgorithm::Sha256) => None,
            Some(ChecksumAlgorithm::Md5) => Some(Box::new(Md5::default())),
            Some(ChecksumAlgorithm::Sha1) => Some(Box::new(Sha1::default())),
            Some(ChecksumAlgorithm::Sha512) => Some(Box::new(Sha512::default())),
        };
        Self { sha256: Sha256::new(), other }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.sha256, bytes);
        if let Some(other) = &mut self.other {
            DynDigest::update(&mut **other, bytes);
        }
    }

    /// The SHA-256 digest; or, if the content is not what is expected, the digest that it has by the expected one's
    /// algorithm.
    pub(super) fn finish(self, expected: Option<&ChecksumValue>) -> Result<Digest, String> {
        let digest = Digest::from_hasher(self.sha256);
        let Some(expected) = expected else { return Ok(digest) };
        let found = match self.other {
            Some(other) => other.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            None => digest.hex(),
        };
        if found == expected.hex() { Ok(digest) } else { Err(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(digit: char, count: usize) -> String {
        digit.to_string().repeat(count)
    }

    #[test]
    fn every_layout_of_a_checksum_file_is_read() {
        let (a, b, long) = (digits('a', 64), digits('b', 64), digits('c', 128));
        let (sha1, md5) = (digits('d', 40), digits('e', 32));
        let find = |content: &str| {
            find_in_file(content.as_bytes(), "x.qcow2", None).map(|value| value.hex().to_owned())
        };
        assert_eq!(find(&format!("# note\n{b}  other\n{a}  x.qcow2\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{a} *x.qcow2\r\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{a} *./x.qcow2\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{b}  x.qcow2/y\n{a}  cloud/x.qcow2\n")), Ok(a.clone()));
        assert_eq!(find(&format!("SHA256 (x.qcow2) = {a}\nSHA256 (y) = {b}")), Ok(a.clone()));
        assert_eq!(find(&format!("SHA512 (x.qcow2) = {long}\nSHA256 (x.qcow2) = {a}\n")), Ok(long.clone()));
        assert_eq!(find(&format!("{a}\n")), Ok(a.clone()));
        assert_eq!(find(&format!("{sha1}  x.qcow2\n")), Ok(sha1.clone()));
        assert_eq!(find(&format!("MD5 (x.qcow2) = {md5}\n")), Ok(md5.clone()));

        let only = |algorithm| {
            let content = format!("{long}  x.qcow2\n{a}  x.qcow2\n");
            find_in_file(content.as_bytes(), "x.qcow2", Some(algorithm)).map(|value| value.hex().to_owned())
        };
        assert_eq!(only(ChecksumAlgorithm::Sha256), Ok(a.clone()));
        assert_eq!(
            only(ChecksumAlgorithm::Md5).unwrap_err().to_string(),
            "it has no md5 checksum of `x.qcow2`"
        );

        for content in
            [String::new(), format!("{a}  old-x.qcow2\n{a}  x.qcow2.sig\n{}  x.qcow2", digits('a', 33))]
        {
            assert_eq!(find(&content).unwrap_err().to_string(), "it has no checksum of `x.qcow2`");
        }
        assert_eq!(find_in_file(&[0xff], "x", None), Err(ChecksumFileError::NotText));
    }

    #[test]
    fn content_is_hashed_by_the_algorithm_that_is_asked_for() {
        for (expected, fits) in [
            ("900150983cd24fb0d6963f7d28e17f72", true),
            ("a9993e364706816aba3e25717850c26c9cd0d89d", true),
            ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", true),
            (
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
                true,
            ),
            ("a9993e364706816aba3e25717850c26c9cd0d89e", false),
        ] {
            let expected: ChecksumValue = expected.parse().unwrap();
            let mut hasher = Hasher::new(Some(&expected));
            hasher.update(b"ab");
            hasher.update(b"c");
            assert_eq!(
                hasher.finish(Some(&expected)),
                if fits {
                    Ok(Digest::of("abc"))
                } else {
                    Err("a9993e364706816aba3e25717850c26c9cd0d89d".into())
                }
            );
        }
    }
}

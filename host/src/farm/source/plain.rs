//! The older form of a source: a URI, its checksum, and a name.

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Resource, ResourceStep, absolute, below,
    files::{Files, is_archive},
    read,
};
use crate::{
    base::{Checksum, ChecksumAlgorithm, ChecksumValue},
    farm::yaml::{Key, Mistake},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainSource {
    uri: String,
    #[serde(default)]
    resource_name: Option<String>,
    #[serde(default)]
    unarchived: Option<Unarchived>,
    #[serde(default)]
    checksum_uri: Option<String>,
    #[serde(default)]
    checksum_type: Option<String>,
    #[serde(default)]
    checksum_value: Option<String>,
}

/// `unarchived`: whether the file is to be unpacked, or the name of what is in it.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false, or the name of the file when it is unpacked")]
enum Unarchived {
    Flag(bool),
    Name(String),
}

/// The keys that say what a file must be, in both forms.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ChecksumKeys<'a> {
    pub(super) uri: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) value: Option<&'a str>,
}

pub(super) fn read_source(
    source: &Value,
    place: &[Key],
    root: &Utf8Path,
    files: &mut Files,
) -> Result<(), Mistake> {
    let source: PlainSource = read(source, place)?;
    let keys = ChecksumKeys {
        uri: source.checksum_uri.as_deref(),
        kind: source.checksum_type.as_deref(),
        value: source.checksum_value.as_deref(),
    };
    let resource = Resource::new(absolute(&source.uri, root), checksum(keys, place, root)?);
    let path = source.uri.split(['?', '#']).next().unwrap_or_default();
    let file_name = path.rsplit('/').next().unwrap_or_default();
    let name = source.resource_name.as_deref().unwrap_or(file_name);
    match source.unarchived {
        None | Some(Unarchived::Flag(false)) => files.add(name, resource),
        Some(Unarchived::Flag(true)) => files.add_unpacked(file_name, name, &resource),
        Some(Unarchived::Name(unpacked)) => {
            let member = is_archive(file_name).then(|| unpacked.clone());
            let resource = resource.then(ResourceStep::Unarchive { member });
            files.add(name, resource.clone());
            files.add(&unpacked, resource);
        }
    }
    Ok(())
}

/// What the file must be, if anything is said about it.
pub(super) fn checksum(
    keys: ChecksumKeys<'_>,
    place: &[Key],
    root: &Utf8Path,
) -> Result<Option<Checksum>, Mistake> {
    let wrong = |key: &str, message: String| Mistake::new(below(place, key), message);
    let algorithm = keys.kind.map(str::parse::<ChecksumAlgorithm>).transpose();
    let algorithm = algorithm.map_err(|error| {
        wrong("checksum_type", error.to_string()).help("known are md5, sha1, sha256 and sha512")
    })?;
    match (keys.value, keys.uri) {
        (Some(value), _) => {
            let value = match algorithm {
                Some(algorithm) => ChecksumValue::of_algorithm(algorithm, value),
                None => value.parse(),
            };
            value
                .map(|value| Some(Checksum::Value(value)))
                .map_err(|error| {
                    let help = "write it as the publisher's list has it, or give `checksum_uri` to have it looked up there";
                    wrong("checksum_value", error.to_string()).help(help)
                })
        }
        (None, Some(uri)) => Ok(Some(Checksum::File { uri: absolute(uri, root), algorithm })),
        (None, None) if algorithm.is_some() => {
            let message = "this is a checksum_type without a checksum".to_owned();
            Err(wrong("checksum_type", message).help("give `checksum_value` or `checksum_uri` as well"))
        }
        (None, None) => Ok(None),
    }
}

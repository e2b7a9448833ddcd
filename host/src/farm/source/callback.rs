//! The later form of a source: callbacks that hand files on to each other by name.

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::Value;

use super::{
    ImageFormat, ImageSetup, PublicKey, Resource, ResourceStep, absolute, below,
    files::Files,
    plain::{ChecksumKeys, checksum},
    read,
};
use crate::{
    base::Secret,
    farm::{
        definition::nearest,
        yaml::{Key, Mistake},
    },
};

/// Callbacks that can stand in `before_provision`.
const BEFORE: [&str; 5] = ["fetch", "unarchive", "copy", "img_convert", "setup_image"];
/// The one that can stand in `on_provision`.
const INSTALL: &str = "install_to_libvirt";
/// Where definitions say that callbacks lie.
const FOLDER: &str = "callbacks/sources/";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pipeline {
    #[serde(default)]
    before_provision: Vec<Value>,
    #[serde(default)]
    on_provision: Option<OneOrMore>,
}

/// `on_provision`: one thing to do, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a mapping or a list of mappings")]
enum OneOrMore {
    More(Vec<Value>),
    One(serde_json::Map<String, Value>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fetch {
    #[serde(rename = "callback")]
    _callback: String,
    src: String,
    #[serde(default)]
    dest: Option<String>,
    /// As Ansible's `get_url` has it: `sha256:DIGEST` or `sha256:URI`.
    #[serde(default)]
    checksum: Option<String>,
    #[serde(default)]
    checksum_uri: Option<String>,
    #[serde(default)]
    checksum_type: Option<String>,
    #[serde(default)]
    checksum_value: Option<String>,
}

/// `unarchive` and `copy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    #[serde(rename = "callback")]
    _callback: String,
    src: String,
    dest: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImgConvert {
    #[serde(rename = "callback")]
    _callback: String,
    src: String,
    dest: String,
    #[serde(default)]
    from_format: Option<ImageFormat>,
    #[serde(default = "qcow2")]
    to_format: ImageFormat,
}

fn qcow2() -> ImageFormat {
    ImageFormat::Qcow2
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetupImage {
    #[serde(rename = "callback")]
    _callback: String,
    src: String,
    #[serde(default)]
    dest: Option<String>,
    #[serde(default)]
    root_password: Option<Secret>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    ssh_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    #[serde(default, rename = "callback")]
    _callback: Option<String>,
    src: String,
    #[serde(default)]
    dest: Option<String>,
}

/// Follows a source's callbacks, in order.
pub(super) fn before_provision(
    source: &Value,
    place: &[Key],
    root: &Utf8Path,
    files: &mut Files,
) -> Result<(), Mistake> {
    let pipeline: Pipeline = read(source, place)?;
    let place = below(place, "before_provision");
    for (index, action) in pipeline.before_provision.iter().enumerate() {
        let place = below(&place, index);
        match callback(action, &place, &BEFORE)? {
            Some("fetch") => fetch(&read(action, &place)?, &place, root, files)?,
            Some("unarchive") => {
                let Move { src, dest, .. } = read(action, &place)?;
                let packed = input(&src, &below(&place, "src"), Some(root), files)?;
                files.add_unpacked(&src, &dest, &packed);
            }
            Some("copy") => {
                let Move { src, dest, .. } = read(action, &place)?;
                let resource = input(&src, &below(&place, "src"), Some(root), files)?;
                files.add(&dest, resource);
            }
            Some("img_convert") => {
                let ImgConvert { src, dest, from_format, to_format, .. } = read(action, &place)?;
                if !to_format.can_be_base() {
                    let message =
                        format!("machines' disks are made from qcow2 or raw, not {}", to_format.name());
                    let help = "write `to_format: qcow2`";
                    return Err(Mistake::new(below(&place, "to_format"), message).help(help));
                }
                let resource = input(&src, &below(&place, "src"), Some(root), files)?;
                files.add(&dest, resource.then(ResourceStep::ImgConvert { from_format, to_format }));
            }
            Some("setup_image") => setup_image(read(action, &place)?, &place, root, files)?,
            _ => {
                let help =
                    format!("add `callback: callbacks/sources/NAME.yaml`; known are {}", list(&BEFORE));
                return Err(Mistake::new(place, "no callback is named").help(help));
            }
        }
    }
    Ok(())
}

/// Gives the files that a source provides to the machine the names by which disks refer to them.
pub(super) fn on_provision(
    source: &Value,
    place: &[Key],
    fetched: &Files,
    provided: &mut Files,
) -> Result<(), Mistake> {
    let pipeline: Pipeline = read(source, place)?;
    let place = below(place, "on_provision");
    let actions: Vec<(Value, Vec<Key>)> = match pipeline.on_provision {
        None => Vec::new(),
        Some(OneOrMore::One(action)) => vec![(Value::Object(action), place)],
        Some(OneOrMore::More(actions)) => {
            actions.into_iter().enumerate().map(|(index, action)| (action, below(&place, index))).collect()
        }
    };
    for (action, place) in actions {
        // Without one it is the only one that there is.
        callback(&action, &place, &[INSTALL])?;
        let Install { src, dest, .. } = read(&action, &place)?;
        let resource = input(&src, &below(&place, "src"), None, fetched)?;
        provided.add(dest.as_deref().unwrap_or_else(|| src.rsplit('/').next().unwrap_or(&src)), resource);
    }
    Ok(())
}

/// Which of the `known` callbacks an action names; `None` when it names none.
fn callback<'k>(action: &Value, place: &[Key], known: &[&'k str]) -> Result<Option<&'k str>, Mistake> {
    let Some(value) = action.get("callback") else { return Ok(None) };
    let place = below(place, "callback");
    let Some(path) = value.as_str() else {
        let help = format!("known here are {}", list(known));
        return Err(Mistake::new(place, "`callback` must be a name").help(help));
    };
    let name = path.strip_prefix(FOLDER).unwrap_or(path);
    let name = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name);
    if let Some(found) = known.iter().find(|known| **known == name) {
        return Ok(Some(found));
    }
    let names: Vec<String> = known.iter().map(|&name| name.to_owned()).collect();
    let last = name.rsplit('/').next().unwrap_or(name);
    let near = nearest(last, &names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let message = format!("there is no callback `{path}`");
    let help = format!("{near}farmhand has callbacks of its own and runs no others; here: {}", list(known));
    Err(Mistake::new(place, message).help(help))
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

fn fetch(fetch: &Fetch, place: &[Key], root: &Utf8Path, files: &mut Files) -> Result<(), Mistake> {
    let mut keys = ChecksumKeys {
        uri: fetch.checksum_uri.as_deref(),
        kind: fetch.checksum_type.as_deref(),
        value: fetch.checksum_value.as_deref(),
    };
    if let Some(checksum) = &fetch.checksum {
        // What is no URI or path is a digest.
        match checksum.split_once(':') {
            Some((kind, uri)) if uri.contains('/') => {
                keys = ChecksumKeys { uri: Some(uri), kind: Some(kind), value: None };
            }
            _ => keys = ChecksumKeys { value: Some(checksum), ..ChecksumKeys::default() },
        }
    }
    let checksum = checksum(keys, place, root).map_err(|mut error| {
        if fetch.checksum.is_some() {
            error.path = below(place, "checksum");
        }
        error
    })?;
    let path = fetch.src.split(['?', '#']).next().unwrap_or_default();
    let file_name = path.rsplit('/').next().unwrap_or_default();
    let resource = Resource::new(absolute(&fetch.src, root), checksum);
    match fetch.dest.as_deref() {
        Some(dest) if !dest.ends_with('/') => files.add(dest, resource),
        Some(folder) => files.add(&format!("{folder}{file_name}"), resource),
        None => files.add(file_name, resource),
    }
    Ok(())
}

fn setup_image(setup: SetupImage, place: &[Key], root: &Utf8Path, files: &mut Files) -> Result<(), Mistake> {
    let SetupImage { src, dest, root_password, hostname, user, password, ssh_key, .. } = setup;
    let mut resource = input(&src, &below(place, "src"), Some(root), files)?;
    if password.is_some() && user.is_none() {
        let help = "give `user` as well, or `root_password` instead";
        return Err(Mistake::new(below(place, "password"), "this is nobody's password").help(help));
    }
    for (key, name) in [("hostname", &hostname), ("user", &user)] {
        if let Some(name) = name
            && !is_plain_name(name)
        {
            let help = "it has 1 to 64 letters, digits, `-`, `_` or `.`, and a letter or digit first";
            return Err(Mistake::new(below(place, key), format!("`{name}` is no {key}")).help(help));
        }
    }
    let ssh_key = ssh_key.map(|key| match key.contains(' ') {
        true => PublicKey::Line(key.trim().to_owned()),
        false => PublicKey::File(root.join(key)),
    });
    let before = resource.setup.unwrap_or_default();
    resource.setup = Some(ImageSetup {
        root_password: root_password.or(before.root_password),
        hostname: hostname.or(before.hostname),
        user: user.or(before.user),
        password: password.or(before.password),
        ssh_key: ssh_key.or(before.ssh_key),
    });
    files.add(dest.as_deref().unwrap_or(&src), resource);
    Ok(())
}

/// Whether it can be a user's or a host's name.
pub(in crate::farm) fn is_plain_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && !name.starts_with(['-', '.']) && name.chars().all(fine)
}

/// The file that a callback works on: one that a callback before it gave, else one of this host.
fn input(src: &str, place: &[Key], root: Option<&Utf8Path>, files: &Files) -> Result<Resource, Mistake> {
    if let Some(resource) = files.find(src) {
        return Ok(resource);
    }
    let local = root.map(|root| absolute(src, root)).filter(|path| Utf8Path::new(path).is_file());
    if let Some(path) = local {
        return Ok(Resource::new(path, None));
    }
    let names = files.names();
    let near = nearest(src, &names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let help = match names.is_empty() {
        true => "let a callback `fetch` come before it, whose `dest` is this name".to_owned(),
        false => format!("{near}there are {}", super::quoted(&names)),
    };
    Err(Mistake::new(place.to_vec(), format!("no callback before this one gives a file `{src}`")).help(help))
}

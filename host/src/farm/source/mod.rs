//! `vm.metadata.sources`: where a machine's files come from and what is done to them.
//!
//! Two forms are read and give the same: the older one, where a source is a URI with a checksum, and the later one, where a
//! source is a list of callbacks that hand files on to each other by name. What comes out is a [`Resource`] for each name that
//! a disk or a kernel can refer to. The names are no paths: two machines that use one name for different files don't meet.

mod callback;
mod files;
mod plain;
mod resource;
#[cfg(test)]
mod tests;

use camino::Utf8Path;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub(super) use callback::is_plain_name;
pub use resource::{ImageFormat, ImageSetup, PublicKey, Resource, ResourceStep};

use self::files::Files;
use super::{
    definition::nearest,
    yaml::{self, Key, Mistake},
};

/// The files that `vm.metadata.sources` defines, by the names under which disks and kernels refer to them.
pub(super) struct Sources<'a> {
    root: &'a Utf8Path,
    /// What is there for disks and kernels; later ones hide earlier ones of the same name.
    provided: Files,
}

/// The folders by which definitions name files: `tmp_dir` before a machine is provided with them, `libvirt_pool_dir` then.
/// farmhand makes neither; they only stand before names.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Folders<'a> {
    pub(super) tmp_dir: Option<&'a str>,
    pub(super) libvirt_pool_dir: Option<&'a str>,
}

impl<'a> Sources<'a> {
    /// Reads all sources of a machine. `root` is the farm's folder, to which relative paths refer.
    pub(super) fn new(sources: &[Value], folders: Folders<'_>, root: &'a Utf8Path) -> Result<Self, Mistake> {
        // The callbacks of all sources come first, then what each one provides.
        let mut fetched = Files::new(folders);
        let mut provided = Files::new(folders);
        let place = |index: usize| vec!["metadata".into(), "sources".into(), index.into()];
        for (index, source) in sources.iter().enumerate() {
            if is_pipeline(source) {
                callback::before_provision(source, &place(index), root, &mut fetched)?;
            }
        }
        for (index, source) in sources.iter().enumerate() {
            if is_pipeline(source) {
                callback::on_provision(source, &place(index), &fetched, &mut provided)?;
            } else {
                plain::read_source(source, &place(index), root, &mut provided)?;
            }
        }
        Ok(Self { root, provided: provided.over(fetched) })
    }

    /// The source that a disk or kernel names, else the file at that path. `place` is where the name stands.
    pub(super) fn find(&self, src: &str, place: impl FnOnce() -> Vec<Key>) -> Result<Resource, Mistake> {
        if let Some(resource) = self.provided.find(src).or_else(|| self.provided.find_by_file_name(src)) {
            return Ok(resource);
        }
        let uri = absolute(src, self.root);
        if uri.starts_with('/') && !Utf8Path::new(&uri).is_file() {
            let names = self.provided.names();
            let known = if names.is_empty() { "there are none".to_owned() } else { quoted(&names) };
            let near = nearest(src, &names).map(|near| format!("did you mean `{near}`? "));
            let message =
                format!("`{src}` is neither a resource of vm.metadata.sources ({known}) nor a file ({uri})");
            let help = "name one of the resources, a URL, or a path that is relative to farm.yaml";
            return Err(Mistake::new(place(), message).help(near.unwrap_or_default() + help));
        }
        Ok(Resource::new(uri, None))
    }
}

/// Takes the passwords out of sources as they are written: templates have no use for them.
pub(super) fn without_passwords(sources: &mut Value) {
    match sources {
        Value::Array(items) => items.iter_mut().for_each(without_passwords),
        Value::Object(entries) => {
            entries.retain(|key, _| !key.contains("password"));
            entries.values_mut().for_each(without_passwords);
        }
        _ => {}
    }
}

/// Whether a source has the later form.
fn is_pipeline(source: &Value) -> bool {
    ["before_provision", "on_provision", "callback"].iter().any(|key| source.get(key).is_some())
}

/// Reads a value that stands at `place`.
fn read<T: DeserializeOwned>(value: &Value, place: &[Key]) -> Result<T, Mistake> {
    yaml::mistakes(value.clone()).map_err(|mistakes| {
        let first = mistakes.into_iter().next().map(|mut mistake| {
            mistake.path.splice(0..0, place.iter().cloned());
            mistake
        });
        first.unwrap_or_else(|| Mistake::new(place.to_vec(), "this can't be read"))
    })
}

/// Names in a sentence.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A place with one more step.
fn below(place: &[Key], key: impl Into<Key>) -> Vec<Key> {
    place.iter().cloned().chain([key.into()]).collect()
}

/// A URI as it is; a path made absolute, also one of this host that is written as a URI.
fn absolute(uri: &str, root: &Utf8Path) -> String {
    if !uri.contains("://") {
        return root.join(uri).to_string();
    }
    let url = Url::parse(uri).ok().filter(|url| url.scheme() == "file");
    let path = url.and_then(|url| url.to_file_path().ok()?.into_os_string().into_string().ok());
    path.unwrap_or_else(|| uri.to_owned())
}

//! Finding and reading definition files.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};

use super::document::Document;
use crate::base::{Problems, SourceFile};

/// What a definition file defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Target,
    Platform,
}

impl Kind {
    /// In a word, for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Platform => "platform",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Target => "targets",
            Self::Platform => "platforms",
        }
    }
}

/// The folders of a farm's definition files, in the order in which they are searched.
const FOLDERS: [&str; 2] = ["setup_vm", "vars"];

/// The extensions of definition files, in the order in which they are searched.
const EXTENSIONS: [&str; 2] = ["yaml", "yml"];

/// The name of the file that holds what all platforms have in common.
pub(super) const DEFAULTS: &str = "defaults";

/// Definitions that every farm has, unless it has files of the same names.
const BUILT_IN: [(Kind, &str, &str); 5] = [
    (Kind::Target, "amd64", include_str!("../builtin/targets/amd64.yaml")),
    (Kind::Target, "arm64", include_str!("../builtin/targets/arm64.yaml")),
    (Kind::Target, "arm", include_str!("../builtin/targets/arm.yaml")),
    (Kind::Target, "kvm", include_str!("../builtin/targets/kvm.yaml")),
    (Kind::Platform, DEFAULTS, include_str!("../builtin/platforms/defaults.yaml")),
];

/// The definition files of one farm. Each is read and parsed once.
pub(super) struct Files {
    root: Utf8PathBuf,
    read: RefCell<HashMap<(Kind, String), Read>>,
}

/// A file, if there is one and it is good.
type Read = Result<Option<Arc<Document>>, Problems>;

impl Files {
    pub(super) fn new(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), read: RefCell::default() }
    }

    /// The farm's own definition file of that name, else the built-in one, if there is one.
    pub(super) fn get(&self, kind: Kind, name: &str) -> Read {
        let key = (kind, name.to_owned());
        if let Some(known) = self.read.borrow().get(&key) {
            return known.clone();
        }
        let read = self.read(kind, name);
        self.read.borrow_mut().insert(key, read.clone());
        read
    }

    fn read(&self, kind: Kind, name: &str) -> Read {
        let own = self.candidates(kind, name).find(|path| path.is_file());
        let built_in =
            || BUILT_IN.into_iter().find(|(known, built_in, _)| (*known, *built_in) == (kind, name));
        let source = match (own, built_in()) {
            (Some(path), _) => SourceFile::read(&path)?,
            (None, Some((_, name, text))) => {
                SourceFile::new(Utf8Path::new(&format!("<built-in>/{}/{name}.yaml", kind.folder())), text)
            }
            (None, None) => return Ok(None),
        };
        Document::read(Arc::new(source), kind).map(|document| Some(Arc::new(document)))
    }

    /// The files that are looked for, in order.
    pub(super) fn candidates(&self, kind: Kind, name: &str) -> impl Iterator<Item = Utf8PathBuf> {
        let folders = FOLDERS.map(|folder| self.root.join(folder).join(kind.folder()));
        let name = name.to_owned();
        folders
            .into_iter()
            .flat_map(move |folder| EXTENSIONS.map(|extension| folder.join(format!("{name}.{extension}"))))
    }

    /// The names of all definitions of a kind.
    pub(super) fn names(&self, kind: Kind) -> Vec<String> {
        let folders = FOLDERS.map(|folder| self.root.join(folder).join(kind.folder()));
        let files = folders.iter().flat_map(|folder| folder.read_dir_utf8().into_iter().flatten().flatten());
        let own = files.filter_map(|entry| {
            let is_definition = entry.path().extension().is_some_and(|found| EXTENSIONS.contains(&found));
            is_definition.then(|| entry.path().file_stem().map(str::to_owned)).flatten()
        });
        let built_in =
            BUILT_IN.iter().filter(|(known, ..)| *known == kind).map(|(_, name, _)| (*name).to_owned());
        let mut names: Vec<_> = own.chain(built_in).filter(|name| name != DEFAULTS).collect();
        names.sort();
        names.dedup();
        names
    }
}

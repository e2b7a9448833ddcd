//! Where each value of a machine comes from.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use serde_json::Value;

use super::merge::Merged;
use crate::{
    base::{SourceFile, is_password_key},
    farm::{
        config::Pair,
        yaml::{self, Data, Node},
    },
};

/// A value of a machine's definition, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Its path: `vm.disks[0].src`.
    pub path: String,
    /// What it is; `None` for a password and what was made from one.
    pub value: Option<Value>,
    /// The file that says so, relative to the farm's folder where it is in it.
    pub file: Utf8PathBuf,
    /// The line in that file, from 1.
    pub line: usize,
}

/// All values of a machine that are no mappings or lists of others, in order.
pub(super) fn explain(merged: &Merged, root: &Utf8Path, farm: &SourceFile, pair: &Pair) -> Vec<Explained> {
    let mut explaining = Explaining { root, farm, pair, found: Vec::new() };
    explaining.node("vm", merged.root(), false);
    explaining.found
}

struct Explaining<'a> {
    root: &'a Utf8Path,
    farm: &'a SourceFile,
    pair: &'a Pair,
    found: Vec<Explained>,
}

impl Explaining<'_> {
    fn node(&mut self, path: &str, node: &Node, hidden: bool) {
        let hidden = hidden || node.hidden;
        match &node.data {
            Data::Map(entries) if !entries.is_empty() => {
                for (key, entry) in entries {
                    self.node(&format!("{path}.{key}"), &entry.value, hidden || is_password_key(key));
                }
            }
            Data::List(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    self.node(&format!("{path}[{index}]"), item, hidden);
                }
            }
            _ => {
                let (file, line) = self.place(path, node);
                let value = (!hidden).then(|| node.to_value());
                self.found.push(Explained { path: path.to_owned(), value, file, line });
            }
        }
    }

    /// What stands in no definition file is farm.yaml's choice of target, platform and template.
    fn place(&self, path: &str, node: &Node) -> (Utf8PathBuf, usize) {
        match &node.place {
            Some(place) => (self.relative(place.file.path()), place.line()),
            None => {
                let place = if path == "vm.metadata.target_name" {
                    &self.pair.target_place
                } else {
                    &self.pair.platform_place
                };
                let range = yaml::find(self.farm, place);
                (self.relative(self.farm.path()), self.farm.position(range.start).0)
            }
        }
    }

    fn relative(&self, path: &Utf8Path) -> Utf8PathBuf {
        path.strip_prefix(self.root).unwrap_or(path).to_owned()
    }
}

//! Which machines a farm has: `permutations` and `list`.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml::{self, Key, Node},
};

/// A machine for each platform on each target.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Permutations {
    /// Machine shapes, by their names in `setup_vm/targets`.
    targets: Vec<String>,
    /// Operating systems, by their names in `setup_vm/platforms`.
    platforms: Vec<String>,
}

/// A single machine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListItem {
    /// Its operating system, by its name in `setup_vm/platforms`.
    platform: String,
    /// Its shape, by its name in `setup_vm/targets`.
    target: String,
    /// The template of its domain XML, by its name in `setup_vm/templates`.
    #[serde(default)]
    template: Option<String>,
    /// Variables of this machine, which win against all others.
    #[serde(default)]
    pub(super) variables: IndexMap<String, Value>,
}

/// A platform on a target, and where `farm.yaml` says so.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Pair {
    pub(in crate::farm) platform: String,
    pub(in crate::farm) target: String,
    pub(in crate::farm) template: Option<String>,
    /// The machine's own variables.
    pub(in crate::farm) variables: Option<Arc<Node>>,
    pub(in crate::farm) platform_place: Vec<Key>,
    pub(in crate::farm) target_place: Vec<Key>,
}

impl Pair {
    /// Gives a problem that stands in no file this pair's place.
    pub(in crate::farm) fn place(&self, farm: &SourceFile, problem: Problem) -> Problem {
        problem.or_at(farm, yaml::find(farm, &self.platform_place))
    }
}

/// The name under which the file has its list.
pub(super) fn list_key(farm: &Node) -> &'static str {
    ["list", "combinations", "definitions"].into_iter().find(|key| farm.get(key).is_some()).unwrap_or("list")
}

/// All pairs of platform and target without doubles: the permutations first, then the list. An item of the list that is one of
/// the permutations adds its variables to it; items that differ in their variables are machines of their own.
pub(super) fn pairs(
    permutations: Option<&Permutations>,
    list: &[ListItem],
    farm: Option<&Node>,
) -> Vec<Pair> {
    let mut pairs = Pairs::default();
    if let Some(Permutations { targets, platforms }) = permutations {
        for (t, target) in targets.iter().enumerate() {
            for (p, platform) in platforms.iter().enumerate() {
                pairs.add(Pair {
                    platform: definition_name(platform),
                    target: definition_name(target),
                    template: None,
                    variables: None,
                    platform_place: vec!["permutations".into(), "platforms".into(), p.into()],
                    target_place: vec!["permutations".into(), "targets".into(), t.into()],
                });
            }
        }
    }
    let list_key = farm.map_or("list", list_key);
    for (index, item) in list.iter().enumerate() {
        let place = |key: &str| vec![Key::from(list_key), index.into(), key.into()];
        let node = farm.and_then(|farm| farm.get(list_key)).and_then(|list| list.step(&index.into()));
        let variables = node.and_then(|item| item.get("variables"));
        pairs.add(Pair {
            platform: definition_name(&item.platform),
            target: definition_name(&item.target),
            template: item.template.clone(),
            variables: variables.cloned(),
            platform_place: place("platform"),
            target_place: place("target"),
        });
    }
    pairs.all
}

/// Pairs in order, each of them once.
#[derive(Default)]
struct Pairs {
    all: Vec<Pair>,
    /// The places in `all` of those of one platform, target and template.
    known: HashMap<(String, String, Option<String>), Vec<usize>>,
}

impl Pairs {
    fn add(&mut self, pair: Pair) {
        let key = (pair.platform.clone(), pair.target.clone(), pair.template.clone());
        let same = self.known.entry(key).or_default();
        if same.iter().any(|&index| self.all[index].variables == pair.variables) {
            return;
        }
        // One without variables is the permutations', or says nothing of its own.
        match same.iter().find(|&&index| self.all[index].variables.is_none()) {
            Some(&plain) if pair.variables.is_some() => self.all[plain].variables = pair.variables,
            Some(_) => {}
            None if pair.variables.is_none() && !same.is_empty() => {}
            None => {
                same.push(self.all.len());
                self.all.push(pair);
            }
        }
    }
}

/// Definitions are named by their files, sometimes with the extension.
fn definition_name(name: &str) -> String {
    name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name).to_owned()
}

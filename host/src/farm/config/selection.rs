//! Which machines a farm has: `permutations` and `list`.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml::{self, Key},
};

/// A machine for each platform on each target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Permutations {
    targets: Vec<String>,
    platforms: Vec<String>,
}

/// A single machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListItem {
    platform: String,
    target: String,
    #[serde(default)]
    template: Option<String>,
}

/// A platform on a target, and where `farm.yaml` says so.
#[derive(Debug, Clone)]
pub(in crate::farm) struct Pair {
    pub(in crate::farm) platform: String,
    pub(in crate::farm) target: String,
    pub(in crate::farm) template: Option<String>,
    pub(in crate::farm) platform_place: Vec<Key>,
    pub(in crate::farm) target_place: Vec<Key>,
}

impl Pair {
    /// A problem with this pair.
    pub(in crate::farm) fn problem(&self, farm: &SourceFile, message: impl Into<String>) -> Problem {
        farm.problem(yaml::find(farm, &self.platform_place), message)
    }
}

/// All pairs of platform and target without doubles: the permutations first, then the list.
pub(super) fn pairs(permutations: Option<&Permutations>, list: &[ListItem]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    if let Some(Permutations { targets, platforms }) = permutations {
        for (t, target) in targets.iter().enumerate() {
            for (p, platform) in platforms.iter().enumerate() {
                pairs.push(Pair {
                    platform: definition_name(platform),
                    target: definition_name(target),
                    template: None,
                    platform_place: vec!["permutations".into(), "platforms".into(), p.into()],
                    target_place: vec!["permutations".into(), "targets".into(), t.into()],
                });
            }
        }
    }
    for (index, item) in list.iter().enumerate() {
        let place = |key: &str| vec![Key::from("list"), index.into(), key.into()];
        pairs.push(Pair {
            platform: definition_name(&item.platform),
            target: definition_name(&item.target),
            template: item.template.clone(),
            platform_place: place("platform"),
            target_place: place("target"),
        });
    }
    let mut seen = BTreeSet::new();
    pairs.retain(|pair| seen.insert((pair.platform.clone(), pair.target.clone(), pair.template.clone())));
    pairs
}

/// Definitions are named by their files, sometimes with the extension.
fn definition_name(name: &str) -> String {
    name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name).to_owned()
}

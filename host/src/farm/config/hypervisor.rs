use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml,
};

/// A libvirt connection.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hypervisor {
    /// Its name in this farm.
    pub name: String,
    /// Its connection URI; libvirt's own default when absent.
    #[serde(default)]
    pub uri: Option<String>,
    /// Words that tell it from others, for definition files: `{{ 'ssd' in hypervisor.labels }}`.
    #[serde(default)]
    pub labels: BTreeSet<String>,
}

impl Hypervisor {
    pub(super) fn check(all: &[Self], source: &SourceFile, problems: &mut Vec<Problem>) {
        if all.len() > 1 {
            let place = yaml::find(source, &["hypervisors".into(), 1.into()]);
            let message = "this version of farmhand takes one hypervisor for a farm";
            let help = "leave one of them here; `--connect` takes another one for a single command";
            problems.push(source.problem(place, message).help(help));
        }
    }
}

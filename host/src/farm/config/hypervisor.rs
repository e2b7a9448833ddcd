use serde::Deserialize;

use crate::{
    base::{Problem, SourceFile},
    farm::yaml,
};

/// A libvirt connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypervisor {
    /// Its name in this farm.
    pub name: String,
    /// Its connection URI; libvirt's own default when absent.
    #[serde(default)]
    pub uri: Option<String>,
}

impl Hypervisor {
    pub(super) fn check(all: &[Self], source: &SourceFile, problems: &mut Vec<Problem>) {
        if all.len() > 1 {
            let place = yaml::find(source, &["hypervisors".into(), 1.into()]);
            problems.push(source.problem(place, "this version of farmhand takes one hypervisor for a farm"));
        }
    }
}

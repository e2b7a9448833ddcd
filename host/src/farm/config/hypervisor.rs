use std::{collections::BTreeSet, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::Deserialize;

use super::Size;
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
    /// What machines can ask for under `vm.metadata.hypervisor_labels`.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// How many machines it may run at once; no bound when absent.
    #[serde(default)]
    pub max_machines: Option<NonZeroUsize>,
    /// How much memory all machines that it runs at once may have; what it has when absent.
    #[serde(default)]
    pub max_memory: Option<Size>,
    /// How many virtual CPUs all machines that it runs at once may have; four for each of its own when absent.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_vcpus: Option<u32>,
}

impl Hypervisor {
    pub(super) fn check(all: &[Self], source: &SourceFile, problems: &mut Vec<Problem>) {
        for (index, hypervisor) in all.iter().enumerate() {
            let place = |key: &str| yaml::find(source, &["hypervisors".into(), index.into(), key.into()]);
            let before = &all[..index];
            if before.iter().any(|other| other.name == hypervisor.name) {
                let message = format!("two hypervisors are named `{}`", hypervisor.name);
                problems.push(source.problem(place("name"), message).help("give each a name of its own"));
            }
            if let Some(other) = before.iter().find(|other| other.uri == hypervisor.uri) {
                let message = format!("`{}` is the same connection as `{}`", hypervisor.name, other.name);
                let key = if hypervisor.uri.is_some() { "uri" } else { "name" };
                problems.push(source.problem(place(key), message).help("name each hypervisor once"));
            }
            if hypervisor.max_vcpus == Some(0) {
                let problem = source.problem(place("max_vcpus"), "0 virtual CPUs run no machine");
                problems.push(problem.help("write 1 or more, or leave it out"));
            }
        }
    }
}

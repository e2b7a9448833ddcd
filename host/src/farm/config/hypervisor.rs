use std::{collections::BTreeSet, num::NonZeroUsize};

use camino::Utf8PathBuf;
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
    /// How to get to its host by SSH, to reach machines through it: `[USER@]HOST[:PORT]`, several with commas between them, as
    /// `ProxyJump` of ssh_config(5) has it. Only where its URI does not say so (`qemu+ssh`).
    #[serde(default)]
    pub proxy_jump: Option<String>,
    /// Folder on its host for images and disks, if that is another host;
    /// `/var/lib/libvirt/images/farmhand` for `qemu+...://HOST/system` when absent.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub pool_dir: Option<Utf8PathBuf>,
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
            if let Some(hosts) = &hypervisor.proxy_jump
                && hosts.split(',').any(|host| {
                    host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace)
                })
            {
                let problem = source.problem(place("proxy_jump"), format!("`{hosts}` is no host for SSH"));
                problems
                    .push(problem.help("write it as [USER@]HOST[:PORT], several with commas between them"));
            }
            if let Some(folder) = &hypervisor.pool_dir
                && (!folder.is_absolute() || folder.as_str() == "/")
            {
                let problem =
                    source.problem(place("pool_dir"), format!("`{folder}` is no folder of farmhand's own"));
                problems
                    .push(problem.help("give an absolute path, such as /var/lib/libvirt/images/farmhand"));
            }
            if hypervisor.max_vcpus == Some(0) {
                let problem = source.problem(place("max_vcpus"), "0 virtual CPUs run no machine");
                problems.push(problem.help("write 1 or more, or leave it out"));
            }
        }
    }
}

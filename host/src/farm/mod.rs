//! From the user's files to machines: `farm.yaml`, definitions of targets and platforms, phase files, domain XML.
//!
//! Pure but for reading those files: nothing here knows what exists on a hypervisor. Every mistake that can be seen in the
//! files is found here, with its place, before any machine is touched.

mod auth;
mod bytes;
mod collision;
mod config;
mod definition;
mod disk_size;
mod domain_xml;
mod first_boot;
mod hardware;
mod lock;
mod machine;
mod phase_file;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod yaml;

use std::{collections::BTreeSet, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;

pub use config::{
    Config, Gate, Hypervisor, LimitsConfig, ModuleConfig, PhaseRule, PhaseRules, Project, SecretSource, Size,
    Timeouts, is_secret_name, json_schema,
};
pub use definition::{CLOUD_PLATFORMS, CloudPlatform, Explained};
pub use disk_size::DiskSize;
pub use domain_xml::{DomainInputs, DomainSchema, DomainTemplate, SchemaError};
pub use first_boot::{FirstBoot, FirstBootUser};
pub use hardware::{DiskBus, Firmware, Network, NetworkKind, PortForward, Protocol};
pub use lock::{LOCK_FILE, Lock, LockedImage, LockedModule};
pub use machine::{Disk, DomainType, Kernel, LOOPBACK, Machine, Transport, disk_name};
pub use phase_file::{Phases, Step, Uses};
pub use source::{ImageFormat, ImageSetup, PublicKey, Resource, ResourceStep};

use crate::base::{Problem, Problems, SourceFile};
use definition::{Definitions, HostFacts};
use phase_file::PhaseFiles;
use template::Templates;

/// The name of the file that makes a folder a farm.
pub const FARM_FILE: &str = "farm.yaml";

/// A farm: everything that its files say.
#[derive(Debug, Clone)]
pub struct Farm {
    /// The folder of `farm.yaml`.
    pub root: Utf8PathBuf,
    /// `farm.yaml` itself.
    pub config: Config,
    /// Its machines by name, in the order of the definitions.
    pub machines: IndexMap<String, Machine>,
}

impl Farm {
    /// Loads the farm in a folder (or the one whose `farm.yaml` is named) with all its machines and their phase files.
    pub fn load(path: &Utf8Path) -> Result<Self, Problems> {
        let (farm, problems) = Self::survey(path)?;
        Problems::unless_empty(problems, farm)
    }

    /// Loads what can be loaded of a farm: the machines whose definitions are in order, with those of their steps that are, and
    /// all that is wrong. Fails when `farm.yaml` itself can't be used.
    pub fn survey(path: &Utf8Path) -> Result<(Self, Vec<Problem>), Problems> {
        let file = if path.is_dir() { path.join(FARM_FILE) } else { path.to_owned() };
        if !file.is_file() {
            let problem = Problem::new(format!("there is no farm at {path}: {file} does not exist"));
            let help = "name the folder of a farm.yaml with --farm, change into it, or make one with `farmhand init`";
            return Err(problem.help(help).into());
        }
        if file.file_name() != Some(FARM_FILE) {
            let problem = Problem::new(format!("{file} is no farm: a farm's file is named {FARM_FILE}"));
            let help = "name the folder of a farm.yaml with --farm; give each farm a folder of its own";
            return Err(problem.help(help).into());
        }
        let file =
            file.canonicalize_utf8().map_err(|error| Problem::new(format!("can't reach {file}: {error}")))?;
        let (source, config) = Config::read(&file)?;
        let root = source.folder().to_owned();

        let mut problems = Vec::new();
        let mut machines = IndexMap::new();
        let templates = Arc::new(Templates::new());
        let definitions = Definitions::new(&root, &config, &HostFacts::of_this_host(), &templates);
        let phase_files = PhaseFiles::new(&root, &config, &templates);
        for pair in config.pairs() {
            let merged = match definitions.merge(&source, &pair) {
                Ok(merged) => merged,
                Err(found) => {
                    problems.extend(found);
                    continue;
                }
            };
            let machine = definitions.machine(&source, &pair, &merged);
            // The phase files' mistakes are told beside the definitions'.
            let name = machine.as_ref().map_or("", |machine| machine.name.as_str());
            let (phases, found) = phase_files.load(&pair.platform, &pair.target, name, &merged);
            problems.extend(found);
            let machine = match machine {
                Ok(machine) => machine.with_phases(phases),
                Err(found) => {
                    problems.extend(found);
                    continue;
                }
            };
            if let Some(other) = machines.get(&machine.name) {
                problems.push(pair.place(&source, collision::same_name(other, &machine)));
                continue;
            }
            machines.insert(machine.name.clone(), machine);
        }
        collision::resolve(&mut machines, &mut problems);
        Problem::dedup(&mut problems);
        Ok((Self { root, config, machines }, problems))
    }

    /// Where each value of one of its machines comes from. Passwords, and what was made from them, are not told.
    pub fn explain(&self, machine: &Machine) -> Result<Vec<Explained>, Problems> {
        let source = SourceFile::read(&self.root.join(FARM_FILE))?;
        let templates = Arc::new(Templates::new());
        let definitions = Definitions::new(&self.root, &self.config, &HostFacts::of_this_host(), &templates);
        let own = |pair: &config::Pair| {
            let merged = definitions.merge(&source, pair).ok()?;
            let found = definitions.machine(&source, pair, &merged).ok()?;
            (found.name == machine.name).then_some(merged)
        };
        let pairs = self.config.pairs();
        let mut candidates = pairs
            .iter()
            .filter(|pair| pair.platform == machine.platform() && pair.target == machine.target())
            .filter_map(|pair| own(pair).map(|merged| (pair, merged)));
        match candidates.next() {
            Some((pair, merged)) => Ok(definitions.explain(&source, pair, &merged)),
            None => Err(Problem::new(format!("{} is no machine of this farm any more", machine.name)).into()),
        }
    }

    /// Checks the domain XML that the templates give for machines against libvirt's schema. What only a hypervisor can say
    /// (paths, the SSH port) is filled in. Of domains that differ in nothing that a schema sees, one is checked.
    pub fn check_domains<'a>(
        &self,
        machines: impl IntoIterator<Item = &'a Machine>,
        schema: &DomainSchema,
    ) -> Result<(), Problems> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for machine in machines {
            match machine.template().check(machine, schema, &mut seen) {
                Ok(found) => problems.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, ())
    }

    /// The ports of this host that its definitions forward: no machine may get one of them for SSH.
    pub fn forwarded_ports(&self) -> BTreeSet<u16> {
        let forwards = self.machines.values().flat_map(|machine| &machine.net.port_forwards);
        forwards.filter(|forward| forward.protocol == Protocol::Tcp).map(|forward| forward.host).collect()
    }
}

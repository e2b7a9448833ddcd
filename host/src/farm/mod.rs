//! From the user's files to machines: `farm.yaml`, definitions of targets and platforms, phase files, domain XML.
//!
//! Pure but for reading those files: nothing here knows what exists on a hypervisor. Every mistake that can be seen in the
//! files is found here, with its place, before any machine is touched.

mod config;
mod definition;
mod disk_size;
mod domain_xml;
mod first_boot;
mod lock;
mod machine;
mod phase_file;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod yaml;

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;

pub use config::{
    Config, Gate, Hypervisor, LimitsConfig, ModuleConfig, Project, SecretSource, Size, Timeouts,
    is_secret_name,
};
pub use definition::Explained;
pub use disk_size::DiskSize;
pub use domain_xml::{DomainInputs, DomainTemplate};
pub use first_boot::{FirstBoot, FirstBootUser};
pub use lock::{LOCK_FILE, Lock, LockedImage, LockedModule};
pub use machine::{
    Disk, DiskBus, DomainType, Kernel, LOOPBACK, Machine, Network, NetworkKind, Transport, disk_name,
};
pub use phase_file::{Phases, Step, Uses};
pub use source::{ImageFormat, ImageSetup, PublicKey, Resource, ResourceStep};

use crate::base::{Problem, Problems, SourceFile};
use definition::{Definitions, HostFacts};

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
        let file = if path.is_dir() { path.join(FARM_FILE) } else { path.to_owned() };
        if !file.is_file() {
            let problem = Problem::new(format!("there is no farm at {path}: {file} does not exist"));
            return Err(problem.help("name the folder of a farm.yaml with --farm, or change into it").into());
        }
        let file =
            file.canonicalize_utf8().map_err(|error| Problem::new(format!("can't reach {file}: {error}")))?;
        let (source, config) = Config::read(&file)?;
        let root = source.folder().to_owned();

        let mut problems = Vec::new();
        let mut machines = IndexMap::new();
        let definitions = Definitions::new(&root, &HostFacts::of_this_host());
        for pair in config.pairs() {
            let machine = definitions.machine(&source, &pair).and_then(|machine| {
                Phases::load(&root, &config, machine.platform(), machine.target())
                    .map(|phases| machine.with_phases(phases))
            });
            match machine {
                Ok(machine) => {
                    if let Some(other) = machines.insert(machine.name.clone(), machine) {
                        let message = format!(
                            "two machines are named `{}`: one is {} on {}, the other {} on {}",
                            other.name, other.platform, other.target, pair.platform, pair.target
                        );
                        problems.push(
                            pair.problem(&source, message).help("give one of them another vm.metadata.name"),
                        );
                    }
                }
                Err(found) => problems.extend(found),
            }
        }
        Problem::dedup(&mut problems);
        Problems::unless_empty(problems, Self { root, config, machines })
    }

    /// Where each value of one of its machines comes from. Passwords, and what was made from them, are not told.
    pub fn explain(&self, machine: &Machine) -> Result<Vec<Explained>, Problems> {
        let source = SourceFile::read(&self.root.join(FARM_FILE))?;
        let definitions = Definitions::new(&self.root, &HostFacts::of_this_host());
        let pairs = self.config.pairs();
        let own = |pair: &&config::Pair| {
            pair.platform == machine.platform()
                && pair.target == machine.target()
                && definitions.machine(&source, pair).is_ok_and(|found| found.name == machine.name)
        };
        match pairs.iter().find(own) {
            Some(pair) => definitions.explain(&source, pair),
            None => Err(Problem::new(format!("{} is no machine of this farm any more", machine.name)).into()),
        }
    }
}

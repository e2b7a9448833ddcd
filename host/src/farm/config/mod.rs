//! `farm.yaml`: a file an element.

mod gate;
mod hypervisor;
mod limits;
mod module;
mod phase_rules;
mod project;
mod schema;
mod secret;
mod selection;
mod timeouts;
mod variables;

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

pub use gate::Gate;
pub use hypervisor::Hypervisor;
pub use limits::{LimitsConfig, Size};
pub use module::ModuleConfig;
pub(in crate::farm) use phase_rules::span;
pub use phase_rules::{PhaseRule, PhaseRules};
pub use project::Project;
pub use schema::json_schema;
pub use secret::{SecretSource, is_secret_name};
pub(super) use selection::Pair;
pub use timeouts::Timeouts;

use self::selection::{ListItem, Permutations};
use super::yaml::{self, Node};
use crate::base::{Problems, SourceFile};

/// The version of `farm.yaml` that this farmhand reads.
const SCHEMA: u32 = 1;

/// What `farm.yaml` says: a farm of virtual machines.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = schema::add_older_names)]
pub struct Config {
    /// The version of this file's format. There is one so far: 1.
    #[serde(default = "current_schema")]
    #[schemars(range(min = 1, max = 1))]
    pub schema: u32,
    /// Whose checkpoints these are.
    pub project: Project,
    /// Where machines run.
    #[serde(default)]
    pub hypervisors: Vec<Hypervisor>,
    /// A machine for each platform on each target.
    #[serde(default)]
    permutations: Option<Permutations>,
    /// Single machines.
    #[serde(default, alias = "combinations", alias = "definitions")]
    list: Vec<ListItem>,
    /// Variables for definition files and for the settings of steps. Definition files and `list` can set others in their place.
    #[serde(default)]
    pub variables: IndexMap<String, Value>,
    /// The folder of the phase files, relative to `farm.yaml`.
    #[serde(default = "default_phases")]
    #[schemars(with = "String")]
    pub phases: Utf8PathBuf,
    /// How many machines are worked on at once; all of them when absent.
    #[serde(default, alias = "jobs")]
    pub serial: Option<NonZeroUsize>,
    /// Which operations may be done; all of them when absent.
    #[serde(default)]
    pub allowed_phases: Option<BTreeSet<Gate>>,
    /// What holds for each phase: how old its checkpoint may get, how long it may take, how often it is tried again.
    #[serde(default)]
    pub per_phase: PhaseRules,
    /// After how many machines have failed no further one is begun; all are when absent.
    #[serde(default)]
    pub max_failures: Option<NonZeroUsize>,
    /// Seconds until a started machine must answer.
    #[serde(default = "timeouts::default_connection_timeout")]
    connection_timeout: u64,
    /// How often `retry_delay` is waited for a machine to shut down before it is forced to.
    #[serde(default = "timeouts::default_retry_count")]
    retry_count: u32,
    /// Seconds.
    #[serde(default = "timeouts::default_retry_delay")]
    retry_delay: u64,
    /// Seconds that a step may take, unless it says otherwise.
    #[serde(default = "timeouts::default_step_timeout")]
    step_timeout: u64,
    /// How many records of the project's runs are kept, the one at hand included.
    #[serde(default = "default_keep_runs")]
    pub keep_runs: NonZeroUsize,
    /// Phase modules: where they are and what they may do.
    #[serde(default)]
    pub modules: IndexMap<String, ModuleConfig>,
    /// What phase modules may use up.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Secrets that steps can hand to phase modules (`{ secret: NAME }`), and where their values come from.
    #[serde(default)]
    pub secrets: IndexMap<String, SecretSource>,
    /// Packages that machines without a `dependencies` phase file get through the platform's package module.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// The file's values, which know where they stand.
    #[serde(skip)]
    tree: Option<Arc<Node>>,
}

fn current_schema() -> u32 {
    SCHEMA
}

fn default_keep_runs() -> NonZeroUsize {
    const { NonZeroUsize::new(50).unwrap() }
}

fn default_phases() -> Utf8PathBuf {
    "provisioning_phases".into()
}

impl Config {
    /// Reads and checks a `farm.yaml`.
    pub(super) fn read(path: &Utf8Path) -> Result<(SourceFile, Self), Problems> {
        let source = SourceFile::read(path)?;
        let tree = yaml::load(&Arc::new(source.clone()))?;
        let decoded = yaml::decode::<Self>(&source, tree.to_value(), &[]);
        let config = match decoded {
            Ok(config) => Self { tree: Some(tree), ..config },
            Err(problems) => return Err(problems.into()),
        };
        let mut problems = Vec::new();
        if config.schema != SCHEMA {
            let message = format!("this farmhand reads version {SCHEMA} of farm.yaml, not {}", config.schema);
            let place = yaml::find(&source, &["schema".into()]);
            problems.push(source.problem(place, message).help(format!("write `schema: {SCHEMA}`")));
        }
        config.project.check(&source, &mut problems);
        Hypervisor::check(&config.hypervisors, &source, &mut problems);
        secret::check(&config.secrets, &source, &mut problems);
        config.per_phase.check(&source, &mut problems);
        ModuleConfig::check(&config.modules, &source, &mut problems);
        variables::check(&config, &source, &mut problems);
        if config.pairs().is_empty() {
            let help = "name targets and platforms under `permutations`, or single machines under `list`";
            problems.push(source.problem(0..0, "the farm has no machines").help(help));
        }
        Problems::unless_empty(problems, (source, config))
    }

    /// All pairs of platform and target without doubles: the permutations first, then the list.
    pub(super) fn pairs(&self) -> Vec<Pair> {
        selection::pairs(self.permutations.as_ref(), &self.list, self.tree.as_deref())
    }

    /// The farm's variables.
    pub(super) fn variables(&self) -> Option<&Arc<Node>> {
        self.tree.as_ref()?.get("variables")
    }

    /// How long things may take.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            connection: Duration::from_secs(self.connection_timeout),
            shutdown: Duration::from_secs(self.retry_delay.saturating_mul(self.retry_count.into())),
            step: Duration::from_secs(self.step_timeout),
        }
    }

    /// The operations that may be done.
    pub fn allowed(&self) -> BTreeSet<Gate> {
        self.allowed_phases.clone().unwrap_or_else(|| Gate::all().collect())
    }
}

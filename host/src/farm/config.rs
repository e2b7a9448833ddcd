use std::{collections::BTreeSet, num::NonZeroUsize, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::yaml::{self, Key};
use crate::base::{Checkpoint, Grants, Phase, Problem, Problems, SourceFile};

/// What `farm.yaml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose checkpoints these are.
    pub project: Project,
    /// Where machines run. This version takes one.
    #[serde(default)]
    pub hypervisors: Vec<Hypervisor>,
    /// A machine for each platform on each target.
    #[serde(default)]
    permutations: Option<Permutations>,
    /// Single machines.
    #[serde(default, alias = "combinations", alias = "definitions")]
    list: Vec<ListItem>,
    /// The folder of the phase files, relative to `farm.yaml`.
    #[serde(default = "default_phases")]
    pub phases: Utf8PathBuf,
    /// How many machines are worked on at once; all of them when absent.
    #[serde(default, alias = "jobs")]
    pub serial: Option<NonZeroUsize>,
    /// Which operations may be done; all of them when absent.
    #[serde(default)]
    pub allowed_phases: Option<BTreeSet<Gate>>,
    /// Seconds until a started machine must answer.
    #[serde(default = "default_connection_timeout")]
    connection_timeout: u64,
    /// How often `retry_delay` is waited for a machine to shut down before it is forced to.
    #[serde(default = "default_retry_count")]
    retry_count: u32,
    /// Seconds.
    #[serde(default = "default_retry_delay")]
    retry_delay: u64,
    /// Seconds that a step may take, unless it says otherwise.
    #[serde(default = "default_step_timeout")]
    step_timeout: u64,
    /// Phase modules: where they are and what they may do.
    #[serde(default)]
    pub modules: IndexMap<String, ModuleConfig>,
    /// Packages that machines without a `dependencies` phase file get through the platform's package module.
    #[serde(default)]
    pub dependencies: Vec<String>,
}

/// The project that a farm's checkpoints belong to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Stands in the names of its snapshots: letters, digits, `_` and `-`.
    pub id: String,
    /// Bump it to have all checkpoints made anew.
    #[serde(default)]
    pub revision: u32,
}

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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permutations {
    targets: Vec<String>,
    platforms: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListItem {
    platform: String,
    target: String,
    #[serde(default)]
    template: Option<String>,
}

/// Where a phase module is and what it may do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// Its file, relative to `farm.yaml`; looked up by name when absent.
    #[serde(default)]
    pub path: Option<Utf8PathBuf>,
    /// What it may do: nothing, unless it stands here.
    #[serde(default)]
    pub grants: Grants,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a started machine must answer.
    pub connection: Duration,
    /// Until a machine that was asked to shut down is forced to.
    pub shutdown: Duration,
    /// A step, unless it says otherwise.
    pub step: Duration,
}

fn default_phases() -> Utf8PathBuf {
    "provisioning_phases".into()
}

fn default_connection_timeout() -> u64 {
    120
}

fn default_retry_count() -> u32 {
    10
}

fn default_retry_delay() -> u64 {
    5
}

fn default_step_timeout() -> u64 {
    3600
}

/// An operation that `allowed_phases` can allow or leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Gate {
    /// Boot the machine.
    Startup,
    /// Go back to a checkpoint.
    Restore(Checkpoint),
    /// Make a checkpoint.
    Create(Checkpoint),
    /// Carry out a phase.
    Phase(Phase),
    /// Shut the machine down.
    Shutdown,
}

impl Gate {
    /// All gates, in the order in which a machine passes them.
    pub fn all() -> impl Iterator<Item = Self> {
        use Checkpoint::{Clean, Dependencies, Init};
        [
            Self::Startup,
            Self::Restore(Init),
            Self::Restore(Dependencies),
            Self::Restore(Clean),
            Self::Create(Clean),
            Self::Phase(Phase::Dependencies),
            Self::Create(Dependencies),
            Self::Phase(Phase::Init),
            Self::Create(Init),
            Self::Phase(Phase::Main),
            Self::Phase(Phase::Terminate),
            Self::Shutdown,
        ]
        .into_iter()
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Startup => f.write_str("startup"),
            Self::Restore(checkpoint) => write!(f, "restore {checkpoint}"),
            Self::Create(checkpoint) => write!(f, "create {checkpoint}"),
            Self::Phase(phase) => write!(f, "{phase}"),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

impl TryFrom<String> for Gate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::all().find(|gate| gate.to_string() == text).ok_or_else(|| {
            let known: Vec<_> = Self::all().map(|gate| format!("`{gate}`")).collect();
            format!("unknown operation `{text}`, expected one of {}", known.join(", "))
        })
    }
}

impl From<Gate> for String {
    fn from(gate: Gate) -> Self {
        gate.to_string()
    }
}

impl Config {
    /// Reads and checks a `farm.yaml`.
    pub(super) fn read(path: &Utf8Path) -> Result<(SourceFile, Self), Problems> {
        let source = SourceFile::read(path)?;
        let config: Self = yaml::read_as(&source)?;
        let mut problems = Vec::new();
        let id = &config.project.id;
        if id.is_empty()
            || id.len() > 64
            || !id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
        {
            let message =
                format!("`{id}` is no project id: it needs 1 to 64 ASCII letters, digits, `_` or `-`");
            problems.push(source.problem(yaml::find(&source, &["project".into(), "id".into()]), message));
        }
        if config.hypervisors.len() > 1 {
            let place = yaml::find(&source, &["hypervisors".into(), 1.into()]);
            problems.push(source.problem(place, "this version of farmhand takes one hypervisor for a farm"));
        }
        if config.pairs().is_empty() {
            let help = "name targets and platforms under `permutations`, or single machines under `list`";
            problems.push(source.problem(0..0, "the farm has no machines").help(help));
        }
        Problems::unless_empty(problems, (source, config))
    }

    /// All pairs of platform and target without doubles: the permutations first, then the list.
    pub(super) fn pairs(&self) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        if let Some(Permutations { targets, platforms }) = &self.permutations {
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
        for (index, item) in self.list.iter().enumerate() {
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

    /// The connection URI of the farm's hypervisor, if it names one.
    pub fn hypervisor_uri(&self) -> Option<&str> {
        self.hypervisors.first()?.uri.as_deref()
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

/// A platform on a target, and where `farm.yaml` says so.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) platform: String,
    pub(super) target: String,
    pub(super) template: Option<String>,
    pub(super) platform_place: Vec<Key>,
    pub(super) target_place: Vec<Key>,
}

impl Pair {
    /// A problem with this pair.
    pub(super) fn problem(&self, farm: &SourceFile, message: impl Into<String>) -> Problem {
        farm.problem(yaml::find(farm, &self.platform_place), message)
    }
}

/// Definitions are named by their files, sometimes with the extension.
fn definition_name(name: &str) -> String {
    name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name).to_owned()
}

use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Existing;
use crate::{
    base::{Checkpoint, Digest, Phase, counted},
    module::{ModuleIdentity, ResolvedStep, ResolvedSteps},
};

/// What a machine is installed from: the content of its `clean` checkpoint's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Digest of its hardware: its domain's XML without paths, ports and keys.
    pub shape: Digest,
    /// Digests of its images, kernel and initrd. `None` while one has not been fetched.
    pub resources: IndexMap<String, Option<Digest>>,
    /// Digests of what is done to them, and at its first boot; see [`Machine::preparation`](crate::farm::Machine::preparation).
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub preparation: IndexMap<String, Digest>,
}

impl Origin {
    /// What `wanted` has otherwise, for people; nothing when it is the same.
    pub(super) fn difference(&self, wanted: &Self) -> Option<String> {
        if self.shape != wanted.shape {
            return Some("its hardware changed (the domain XML that its definition gives)".to_owned());
        }
        let names = self.preparation.keys().chain(wanted.preparation.keys());
        let prepared: IndexSet<_> =
            names.filter(|name| self.preparation.get(*name) != wanted.preparation.get(*name)).collect();
        if !prepared.is_empty() {
            let changed = prepared.iter().map(|name| match name.as_str() {
                "first boot" => "what it is told at its first boot changed".to_owned(),
                name => format!("how its {name} is prepared changed"),
            });
            return Some(changed.collect::<Vec<_>>().join(", "));
        }
        let changed: Vec<_> = wanted
            .resources
            .iter()
            .filter(|(name, digest)| self.resources.get(*name) != Some(digest))
            .map(|(name, digest)| {
                let short = |digest: Option<&Digest>| digest.map_or_else(|| "none".to_owned(), Digest::short);
                let old = self.resources.get(name).and_then(Option::as_ref);
                format!("its {name} changed ({} -> {})", short(old), short(digest.as_ref()))
            })
            .collect();
        if changed.is_empty() && self.resources.len() == wanted.resources.len() {
            return None;
        }
        Some(if changed.is_empty() { "its disks changed".to_owned() } else { changed.join(", ") })
    }
}

/// What one step hands to its module: together with the state before it, this says all about what it will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInputs {
    /// The module's name.
    pub module: String,
    /// The module's version: for people, the digest decides.
    pub version: String,
    /// The module's digest.
    pub digest: Digest,
    /// The module's settings.
    pub settings: Value,
    /// Whether it may act as root.
    pub r#become: bool,
}

/// What a checkpoint adds to the one that it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    /// For `clean`.
    Origin(Origin),
    /// For the checkpoint of a phase.
    Steps(Vec<StepInputs>),
}

/// What stands in a snapshot's description, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// The checkpoint's key: the digest of `parent` and `inputs`.
    pub key: Digest,
    /// The key of the checkpoint that it stands on.
    pub parent: Option<Digest>,
    /// What it was made from.
    pub inputs: Inputs,
}

impl CheckpointRecord {
    fn new(parent: Option<Digest>, inputs: Inputs) -> Self {
        // Values without maps of non-text keys always have a JSON form.
        let text = serde_json::to_string(&(parent, &inputs)).unwrap_or_default();
        Self { key: Digest::of(text), parent, inputs }
    }

    /// The checkpoint whose snapshot has that description; `None` when it is none that this version of farmhand can read.
    pub fn of(description: &str) -> Option<Self> {
        serde_json::from_str(description).ok()
    }

    /// As it stands in a snapshot's description.
    pub fn to_description(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the farm wants of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it is installed from.
    pub origin: Origin,
    /// The steps of its phases, by [`Phase::ALL`].
    pub phases: [Vec<StepInputs>; 4],
}

impl Wanted {
    /// What the farm wants of a machine that is installed from `origin` and goes through `steps`.
    pub fn new(origin: Origin, steps: &ResolvedSteps) -> Self {
        let inputs = |step: &ResolvedStep| {
            let ModuleIdentity { name: module, version, digest } = step.module.identity();
            StepInputs {
                module,
                version,
                digest,
                settings: step.step.with.clone(),
                r#become: step.step.r#become,
            }
        };
        Self { origin, phases: Phase::ALL.map(|phase| steps.of(phase).iter().map(inputs).collect()) }
    }

    /// Whether a phase has anything to do.
    pub fn has_steps(&self, phase: Phase) -> bool {
        !self.phases[phase as usize].is_empty()
    }

    /// Takes for what is not fetched what the machine was installed from. By that a machine is planned, and its checkpoints are
    /// recorded.
    pub fn assuming(&self, existing: Option<&Existing>) -> Self {
        let stored = existing.and_then(Existing::origin);
        let mut assumed = self.clone();
        for (name, digest) in &mut assumed.origin.resources {
            *digest = digest.or_else(|| *stored.as_ref()?.resources.get(name)?);
        }
        assumed
    }

    /// What a checkpoint made now would be recorded as. Each key is over its parent's and so over all before it.
    pub fn record(&self, checkpoint: Checkpoint) -> CheckpointRecord {
        let clean = CheckpointRecord::new(None, Inputs::Origin(self.origin.clone()));
        Checkpoint::ALL[1..].iter().take_while(|&&above| above <= checkpoint).fold(clean, |below, above| {
            let steps = above.phase().map(|phase| self.phases[phase as usize].clone()).unwrap_or_default();
            CheckpointRecord::new(Some(below.key), Inputs::Steps(steps))
        })
    }

    /// Why a snapshot with that description is not the checkpoint that would be made now; nothing when it is.
    pub(super) fn difference(&self, checkpoint: Checkpoint, description: &str) -> Option<String> {
        let wanted = self.record(checkpoint);
        let Some(stored) = CheckpointRecord::of(description) else {
            return Some("its description holds no key that this version of farmhand can read".to_owned());
        };
        if stored.key == wanted.key {
            return None;
        }
        let subject = checkpoint.phase().map_or("machine", Phase::name);
        match (&stored.inputs, &wanted.inputs) {
            (old, new) if old == new => Some("what it stands on changed".to_owned()),
            (Inputs::Steps(old), Inputs::Steps(new)) => {
                Some(format!("{subject}: {}", steps_difference(old, new)))
            }
            (Inputs::Origin(old), Inputs::Origin(new)) => old.difference(new),
            _ => Some("it is another kind of checkpoint".to_owned()),
        }
    }
}

/// What differs between two lists of steps, for people.
fn steps_difference(old: &[StepInputs], new: &[StepInputs]) -> String {
    let mut differences: Vec<String> = old
        .iter()
        .zip(new)
        .enumerate()
        .filter(|(_, (old, new))| old != new)
        .map(|(index, (old, new))| {
            format!("step {} ({}) changed: {}", index + 1, new.module, step_difference(old, new))
        })
        .collect();
    match old.len().cmp(&new.len()) {
        std::cmp::Ordering::Less => differences.push(counted(new.len() - old.len(), "more step")),
        std::cmp::Ordering::Greater => differences.push(counted(old.len() - new.len(), "step") + " fewer"),
        std::cmp::Ordering::Equal => {}
    }
    differences.join("; ")
}

fn step_difference(old: &StepInputs, new: &StepInputs) -> String {
    if old.module != new.module {
        return format!("module {} instead of {}", new.module, old.module);
    }
    let mut differences = Vec::new();
    if old.digest != new.digest {
        differences.push(if old.version == new.version {
            format!("module {} -> {}", old.digest.short(), new.digest.short())
        } else {
            format!("module {} -> {}", old.version, new.version)
        });
    }
    if old.r#become != new.r#become {
        differences.push(format!("become {} -> {}", old.r#become, new.r#become));
    }
    if let (Value::Object(old), Value::Object(new)) = (&old.settings, &new.settings) {
        let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
        differences.extend(
            keys.filter(|key| old.get(*key) != new.get(*key))
                .map(|key| setting_difference(key, old.get(key), new.get(key))),
        );
    }
    if differences.is_empty() { "settings in another order".to_owned() } else { differences.join(", ") }
}

fn setting_difference(key: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    match (old, new) {
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let added = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+{}", plain(item)));
            let removed =
                old.iter().filter(|item| !new.contains(item)).map(|item| format!("-{}", plain(item)));
            let changes: Vec<_> = added.chain(removed).collect();
            let changes = if changes.is_empty() { "another order".to_owned() } else { changes.join(" ") };
            format!("{key} {changes}")
        }
        (None, Some(_)) => format!("{key} added"),
        (Some(_), None) => format!("{key} removed"),
        (Some(Value::String(old)), Some(Value::String(new))) if old.len() + new.len() > 60 => {
            format!("{key} edited")
        }
        (old, new) => format!("{key} {} -> {}", old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null)),
    }
}

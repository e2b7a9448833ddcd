use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KnownAs, descriptor::Descriptor};
use crate::base::{Grants, PathGlob};

/// Something that a module may only do when the operator granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Run commands in the guest as the login user.
    Exec,
    /// Become root in the guest.
    Become,
    /// Read and write files in the guest.
    Files,
    /// Have the host put secrets into commands and files.
    Secrets,
    /// Keep files in the run's folder.
    Artifacts,
    /// See what is known of the guest's operating system.
    Facts,
}

impl Capability {
    /// Its name in farm files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Become => "become",
            Self::Files => "files",
            Self::Secrets => "secrets",
            Self::Artifacts => "artifacts",
            Self::Facts => "facts",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that a call needs: a capability, and of `files` the path, of `secrets` the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    /// The capability.
    pub capability: Capability,
    /// The path or the name.
    pub value: Option<String>,
}

impl Denial {
    /// Nothing when it is granted, else what is not.
    pub fn unless_granted(grants: &Grants, capability: Capability, value: Option<&str>) -> Result<(), Self> {
        let granted = match (capability, value) {
            (Capability::Exec, _) => grants.exec,
            (Capability::Become, _) => grants.r#become,
            (Capability::Artifacts, _) => grants.artifacts,
            (Capability::Facts, _) => grants.facts,
            (Capability::Files, Some(path)) => grants.file(path),
            (Capability::Files, None) => !grants.files.is_empty(),
            (Capability::Secrets, Some(name)) => grants.secrets.contains(name),
            (Capability::Secrets, None) => !grants.secrets.is_empty(),
        };
        if granted { Ok(()) } else { Err(Self { capability, value: value.map(str::to_owned) }) }
    }

    /// The grants with this one among them.
    fn add_to(&self, grants: &mut Grants) {
        match (self.capability, &self.value) {
            (Capability::Exec, _) => grants.exec = true,
            (Capability::Become, _) => grants.r#become = true,
            (Capability::Artifacts, _) => grants.artifacts = true,
            (Capability::Facts, _) => grants.facts = true,
            (Capability::Files, Some(path)) => {
                // What a module asks for is a glob already; anything else stands for itself.
                let glob = PathGlob::try_from(path.clone()).or_else(|_| PathGlob::of_path(path));
                grants.files.extend(glob.ok().filter(|glob| !grants.files.contains(glob)));
            }
            (Capability::Secrets, Some(name)) => drop(grants.secrets.insert(name.clone())),
            // Which ones is for the operator to say.
            (Capability::Files | Capability::Secrets, None) => {}
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} {value}", self.capability),
            None => write!(f, "{}", self.capability),
        }
    }
}

/// A module asks for more than it was granted. Its text has the lines to add to the farm file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGranted {
    /// By what the farm knows the module; its own name as long as nobody said otherwise.
    pub known_as: KnownAs,
    /// What is missing, and why the module wants it.
    pub missing: Vec<(Denial, String)>,
    /// All that must stand in the farm file then.
    grants: Box<Grants>,
}

impl NotGranted {
    /// Compares what a module asks for, in general and with these settings, with what it was granted.
    pub fn check(descriptor: &Descriptor, settings: &Value, grants: &Grants) -> Result<(), Self> {
        let mut missing = Vec::new();
        for request in &descriptor.capabilities {
            let mut values: Vec<Option<&str>> = request.values.iter().map(|value| Some(&**value)).collect();
            let named = match request.capability {
                Capability::Files => descriptor.paths_in(settings),
                _ => Vec::new(),
            };
            values.extend(named.into_iter().map(Some));
            if values.is_empty() && !matches!(request.capability, Capability::Files | Capability::Secrets) {
                values.push(None);
            }
            let denied = |value| Denial::unless_granted(grants, request.capability, value).err();
            missing
                .extend(values.into_iter().filter_map(denied).map(|denial| (denial, request.reason.clone())));
        }
        let secrets = secrets_in(settings);
        let denied = |name: &&str| Denial::unless_granted(grants, Capability::Secrets, Some(name)).err();
        let reason = "the step hands it over".to_owned();
        missing.extend(secrets.iter().filter_map(denied).map(|denial| (denial, reason.clone())));
        Self::unless_empty(&descriptor.name, missing, grants)
    }

    /// A call was denied, for which the module had not asked.
    pub(super) fn of_call(module: &str, denial: Denial, grants: &Grants) -> Self {
        let (missing, reason) = (denial, "one of its calls needs it".to_owned());
        let mut wanted = grants.clone();
        missing.add_to(&mut wanted);
        Self {
            known_as: KnownAs::by_name(module),
            missing: vec![(missing, reason)],
            grants: Box::new(wanted),
        }
    }

    fn unless_empty(module: &str, missing: Vec<(Denial, String)>, grants: &Grants) -> Result<(), Self> {
        if missing.is_empty() {
            return Ok(());
        }
        let mut wanted = grants.clone();
        for (denial, _) in &missing {
            denial.add_to(&mut wanted);
        }
        Err(Self { known_as: KnownAs::by_name(module), missing, grants: Box::new(wanted) })
    }

    /// The same of a module that the farm knows by this.
    pub(super) fn known_as(self, known_as: &KnownAs) -> Self {
        Self { known_as: known_as.clone(), ..self }
    }
}

/// The names of the secrets that settings hand over: each `{ secret: NAME }` in them.
pub(super) fn secrets_in(settings: &Value) -> Vec<&str> {
    match settings {
        Value::Object(map) => match map.get("secret") {
            Some(Value::String(name)) if map.len() == 1 => vec![name],
            _ => map.values().flat_map(secrets_in).collect(),
        },
        Value::Array(items) => items.iter().flat_map(secrets_in).collect(),
        _ => Vec::new(),
    }
}

impl fmt::Display for NotGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module {} asks for what it was not granted:", self.known_as.name)?;
        for (denial, reason) in &self.missing {
            writeln!(f, "  {denial}: {reason}")?;
        }
        write!(f, "if you trust it, add to farm.yaml:\n{}", self.known_as.lines(&self.grants))
    }
}

impl std::error::Error for NotGranted {}

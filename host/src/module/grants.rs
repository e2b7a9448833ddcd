use std::fmt;

use serde::{Deserialize, Serialize};

use super::descriptor::Descriptor;
use crate::base::Grants;

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
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Self; 3] = [Self::Exec, Self::Become, Self::Files];

    /// Its name in farm files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Become => "become",
            Self::Files => "files",
        }
    }

    /// Whether it is among the grants.
    pub fn is_granted(self, grants: &Grants) -> bool {
        match self {
            Self::Exec => grants.exec,
            Self::Become => grants.r#become,
            Self::Files => grants.files,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A module asks for more than it was granted. Its text has the lines to add to the farm file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGranted {
    /// The module's name.
    pub module: String,
    /// What is missing, and why the module wants it.
    pub missing: Vec<(Capability, String)>,
    /// All that must stand in the farm file then.
    grants: Vec<Capability>,
}

impl NotGranted {
    /// Compares what a module asks for with what it was granted.
    pub fn check(descriptor: &Descriptor, grants: &Grants) -> Result<(), Self> {
        let missing: Vec<(Capability, String)> = descriptor
            .capabilities
            .iter()
            .filter(|request| !request.capability.is_granted(grants))
            .map(|request| (request.capability, request.reason.clone()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let asked = |capability: Capability| missing.iter().any(|(missing, _)| *missing == capability);
        let grants = Capability::ALL
            .into_iter()
            .filter(|capability| capability.is_granted(grants) || asked(*capability));
        Err(Self { module: descriptor.name.clone(), grants: grants.collect(), missing })
    }

    /// The lines to add to the farm file.
    pub fn lines(&self) -> String {
        let grants: Vec<String> =
            self.grants.iter().map(|capability| format!("{capability}: true")).collect();
        format!("modules:\n  {}:\n    grants: {{ {} }}", self.module, grants.join(", "))
    }
}

impl fmt::Display for NotGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module {} asks for what it was not granted:", self.module)?;
        for (capability, reason) in &self.missing {
            writeln!(f, "  {capability}: {reason}")?;
        }
        write!(f, "if you trust it, add to farm.yaml:\n{}", self.lines())
    }
}

impl std::error::Error for NotGranted {}

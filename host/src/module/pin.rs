//! What `farmhand.lock` says of a module, compared with the module that was found.

use std::fmt;

use super::{Module, grants::Denial};
use crate::{base::Grants, farm::LockedModule};

/// A module, or what it was granted, is not what the lock file pins. Its text is the difference and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMismatch {
    /// The name under which the farm knows the module.
    pub name: String,
    lines: Vec<String>,
    /// Whether the module asks for more, or was granted more, than was accepted.
    pub more: bool,
}

impl PinMismatch {
    /// Compares a module and its grants with what was pinned.
    pub fn check(name: &str, locked: &LockedModule, module: &Module, grants: &Grants) -> Result<(), Self> {
        let now = pin(module, grants);
        if *locked == now {
            return Ok(());
        }
        let mut lines = Vec::new();
        let mut changed = |what: &str, old: &str, new: &str| {
            if old != new {
                lines.push(format!("{what} {old} -> {new}"));
            }
        };
        changed("version", &locked.version, &now.version);
        changed("digest", &locked.digest.short(), &now.digest.short());
        changed("grants", &locked.grants.to_string(), &now.grants.to_string());
        let asked: Vec<_> = now.asks.iter().filter(|ask| !locked.asks.contains(ask)).collect();
        lines.extend(asked.iter().map(|ask| format!("asks for {ask}, too{}", reason(module, ask))));
        let given_up = locked.asks.iter().filter(|ask| !now.asks.contains(ask));
        lines.extend(given_up.map(|ask| format!("no longer asks for {ask}")));
        let more = !asked.is_empty() || !is_within(&now.grants, &locked.grants);
        Err(Self { name: name.to_owned(), lines, more })
    }
}

/// A module as it would be pinned now.
pub fn pin(module: &Module, grants: &Grants) -> LockedModule {
    let descriptor = module.descriptor();
    LockedModule {
        version: descriptor.version.clone(),
        digest: module.digest(),
        asks: descriptor.asks().into_iter().map(|(ask, _)| ask.to_string()).collect(),
        grants: grants.clone(),
    }
}

fn reason(module: &Module, ask: &str) -> String {
    let asks = module.descriptor().asks();
    let found = asks.into_iter().find(|(denial, _)| denial.to_string() == *ask);
    found.map(|(_, reason)| format!(": {reason}")).unwrap_or_default()
}

/// Whether all of `grants` stands in `others`. A glob is within another only when it is the same.
fn is_within(grants: &Grants, others: &Grants) -> bool {
    let switches = |of: &Grants| [of.exec, of.r#become, of.artifacts, of.facts];
    switches(grants).into_iter().zip(switches(others)).all(|(now, then)| !now || then)
        && grants.files.iter().all(|glob| others.files.contains(glob))
        && grants.secrets.is_subset(&others.secrets)
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        write!(f, "module {name} is not as farmhand.lock pins it:")?;
        for line in &self.lines {
            write!(f, "\n  {line}")?;
        }
        if self.more {
            write!(f, "\nif you trust it with that: farmhand module accept {name}")
        } else {
            write!(f, "\nif that is the module that you want: farmhand module lock")
        }
    }
}

impl std::error::Error for PinMismatch {}

impl super::Descriptor {
    /// What it asks for, one by one, and why.
    pub fn asks(&self) -> Vec<(Denial, &str)> {
        let of = |request: &super::CapabilityRequest| {
            let values = request.values.iter().cloned().map(Some).collect::<Vec<_>>();
            let values = if values.is_empty() { vec![None] } else { values };
            values
                .into_iter()
                .map(|value| Denial { capability: request.capability, value })
                .collect::<Vec<_>>()
        };
        let all = self.capabilities.iter();
        all.flat_map(|request| of(request).into_iter().map(|ask| (ask, &*request.reason))).collect()
    }
}

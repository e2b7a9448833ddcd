use globset::GlobBuilder;
use serde::{Deserialize, Serialize};

use super::{bindings::farmhand::phase::types as wit, grants::Capability, schema::Schema, text};
use crate::{
    base::{PathGlob, Phase},
    farm::is_secret_name,
};

/// What a module is, in its own words; checked and bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its name: lower-case letters, digits and `-`, at most 64 characters.
    pub name: String,
    /// Its version, by semantic versioning.
    pub version: String,
    /// One line on what it does, at most 200 characters.
    pub summary: String,
    /// Who wrote it; at most 16, of at most 200 characters each.
    pub authors: Vec<String>,
    /// Its licence as an SPDX expression, as the module says; empty when it does not.
    pub license: String,
    /// Names under which steps can use it, beside its own; at most 16.
    pub provides: Vec<String>,
    /// Platforms that it claims: exact names or globs, at most 64; any platform when empty.
    pub platforms: Vec<String>,
    /// Phases that it can carry out; any phase when empty.
    pub phases: Vec<Phase>,
    /// Capabilities without which it can't work.
    pub capabilities: Vec<CapabilityRequest>,
    /// JSON Schema of its settings, at most 256 KiB.
    pub settings_schema: serde_json::Value,
}

/// A capability that a module asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityRequest {
    /// The capability.
    pub capability: Capability,
    /// Of `files` globs of paths, of `secrets` names; empty when they follow from the settings, and for the others.
    pub values: Vec<String>,
    /// Why the module needs it: one line, at most 300 characters.
    pub reason: String,
}

const MAX_NAME: usize = 64;
const MAX_SUMMARY: usize = 200;
const MAX_REASON: usize = 300;
const MAX_PROVIDES: usize = 16;
const MAX_PLATFORMS: usize = 64;
const MAX_PLATFORM: usize = 128;
const MAX_CAPABILITIES: usize = 16;
const MAX_AUTHORS: usize = 16;
const MAX_VALUES: usize = 64;
const MAX_VALUE: usize = 1024;
const MAX_SCHEMA: usize = 256 << 10;

/// The `format` of a setting that holds the path of a file in the guest.
const GUEST_PATH: &str = "guest-path";

impl Descriptor {
    /// Whether it can carry out a phase.
    pub fn can_carry_out(&self, phase: Phase) -> bool {
        self.phases.is_empty() || self.phases.contains(&phase)
    }

    /// The paths of files in the guest that these settings name: the values of top-level settings whose schema says
    /// `"format": "guest-path"`.
    pub(super) fn paths_in<'a>(&self, settings: &'a serde_json::Value) -> Vec<&'a str> {
        let properties = self.settings_schema.get("properties").and_then(serde_json::Value::as_object);
        let is_path =
            |schema: &serde_json::Value| schema.get("format").is_some_and(|format| format == GUEST_PATH);
        let names = properties.into_iter().flatten().filter(|(_, schema)| is_path(schema));
        names.filter_map(|(name, _)| settings.get(name)?.as_str()).collect()
    }

    /// Reads what `describe` gave. The error says what is wrong with it.
    pub(super) fn from_module(descriptor: wit::Descriptor) -> Result<Self, String> {
        if descriptor.settings_schema.len() > MAX_SCHEMA {
            return Err(format!("its settings' schema is larger than {MAX_SCHEMA} bytes"));
        }
        let settings_schema = serde_json::from_str(&descriptor.settings_schema)
            .map_err(|error| format!("its settings' schema is not JSON: {error}"))?;
        let this = Self {
            name: descriptor.name,
            version: descriptor.version,
            summary: text::one_line(&descriptor.summary, MAX_SUMMARY),
            authors: descriptor
                .authors
                .iter()
                .take(MAX_AUTHORS + 1)
                .map(|author| text::one_line(author, MAX_SUMMARY))
                .collect(),
            license: text::one_line(&descriptor.license, MAX_SUMMARY),
            provides: descriptor.provides,
            platforms: descriptor.platforms,
            phases: descriptor.phases.into_iter().map(Phase::from).collect(),
            capabilities: descriptor
                .capabilities
                .into_iter()
                .take(MAX_CAPABILITIES + 1)
                .map(|request| CapabilityRequest {
                    capability: request.capability.into(),
                    values: request.values,
                    reason: text::one_line(&request.reason, MAX_REASON),
                })
                .collect(),
            settings_schema,
        };
        this.check()?;
        Ok(this)
    }

    /// Checks every bound. Also for what was read from the cache.
    pub(super) fn check(&self) -> Result<(), String> {
        check_name(&self.name).map_err(|why| format!("its name {why}"))?;
        check_version(&self.version)?;
        at_most("authors", self.authors.len(), MAX_AUTHORS)?;
        at_most("names that it provides", self.provides.len(), MAX_PROVIDES)?;
        for name in &self.provides {
            check_name(name).map_err(|why| format!("a name that it provides {why}"))?;
        }
        at_most("platforms that it claims", self.platforms.len(), MAX_PLATFORMS)?;
        for platform in &self.platforms {
            let shown = text::one_line(platform, MAX_PLATFORM);
            if platform.is_empty() || platform.len() > MAX_PLATFORM || shown != *platform {
                return Err(format!("it claims a platform that can't be one: `{shown}`"));
            }
            GlobBuilder::new(platform)
                .build()
                .map_err(|error| format!("it claims platform `{shown}`: {error}"))?;
        }
        at_most("phases", self.phases.len(), Phase::ALL.len())?;
        at_most("capabilities that it asks for", self.capabilities.len(), MAX_CAPABILITIES)?;
        self.capabilities.iter().try_for_each(CapabilityRequest::check)?;
        Schema::compile(&self.settings_schema).map(drop)
    }
}

impl CapabilityRequest {
    fn check(&self) -> Result<(), String> {
        at_most("values of a capability that it asks for", self.values.len(), MAX_VALUES)?;
        for value in &self.values {
            let shown = text::one_line(value, MAX_NAME);
            // It is shown as it is, where an operator decides what to grant.
            let fits = value.len() <= MAX_VALUE && text::plain(value) == *value;
            let names_one = match self.capability {
                Capability::Files => PathGlob::try_from(value.clone()).is_ok(),
                Capability::Secrets => is_secret_name(value),
                _ => false,
            };
            if !fits || !names_one {
                return Err(format!("it asks for {} `{shown}`, which can't be one", self.capability));
            }
        }
        Ok(())
    }
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), String> {
    if count > limit { Err(format!("it has {count} {what}, more than {limit}")) } else { Ok(()) }
}

/// A name stands in farm files, messages and file names.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let shown = text::one_line(name, MAX_NAME);
    if name.is_empty() || name.len() > MAX_NAME {
        Err(format!("must have 1 to {MAX_NAME} characters: `{shown}`"))
    } else if !name.bytes().all(allowed) || name.starts_with('-') || name.ends_with('-') {
        Err(format!("must be lower-case letters, digits and inner `-`: `{shown}`"))
    } else {
        Ok(())
    }
}

fn check_version(version: &str) -> Result<(), String> {
    let shown = text::one_line(version, MAX_NAME);
    if version.len() > MAX_NAME {
        return Err(format!("its version is longer than {MAX_NAME} characters: `{shown}`"));
    }
    match semver::Version::parse(version) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("its version `{shown}` is not a semantic version: {error}")),
    }
}

impl From<wit::Phase> for Phase {
    fn from(phase: wit::Phase) -> Self {
        match phase {
            wit::Phase::Dependencies => Self::Dependencies,
            wit::Phase::Init => Self::Init,
            wit::Phase::Main => Self::Main,
            wit::Phase::Terminate => Self::Terminate,
        }
    }
}

impl From<Phase> for wit::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Dependencies => Self::Dependencies,
            Phase::Init => Self::Init,
            Phase::Main => Self::Main,
            Phase::Terminate => Self::Terminate,
        }
    }
}

impl From<wit::Capability> for Capability {
    fn from(capability: wit::Capability) -> Self {
        match capability {
            wit::Capability::Exec => Self::Exec,
            wit::Capability::Become => Self::Become,
            wit::Capability::Files => Self::Files,
            wit::Capability::Secrets => Self::Secrets,
            wit::Capability::Artifacts => Self::Artifacts,
            wit::Capability::Facts => Self::Facts,
        }
    }
}

impl From<Capability> for wit::Capability {
    fn from(capability: Capability) -> Self {
        match capability {
            Capability::Exec => Self::Exec,
            Capability::Become => Self::Become,
            Capability::Files => Self::Files,
            Capability::Secrets => Self::Secrets,
            Capability::Artifacts => Self::Artifacts,
            Capability::Facts => Self::Facts,
        }
    }
}

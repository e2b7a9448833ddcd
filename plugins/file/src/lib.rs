//! Sees to it that a file or folder of the guest is there, with this content, mode and owner, or is not there.
//!
//! Content is read and written through the capability `files`, so that a farm says which paths it may touch; mode, owner,
//! folders and removal are commands.
//!
//! A link stands for what it leads to, until other content takes its place: the host replaces links, and so what they lead to is
//! left alone. Removal takes the link only.

use std::collections::BTreeMap;

use farmhand_sdk::{Content, TextOrSecret, prelude::*, serde_json::Value};

mod stat;

use stat::Stat;

/// The module.
pub struct File;

/// The settings of a `file` step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
pub struct Settings {
    /// The absolute path. A link stands for what it leads to; other content takes the link's place, and `absent` removes
    /// the link only.
    #[schemars(regex(pattern = r"^/"), length(max = 4096), extend("format" = "guest-path"))]
    path: String,
    /// What is wanted.
    #[serde(default)]
    state: State,
    /// The whole content: a text, or a secret. A secret can't be compared with what is there, so it is always written.
    content: Option<TextOrSecret>,
    /// The whole content as a Jinja template, in which `vars` stand.
    template: Option<String>,
    /// Variables of the template.
    #[serde(default)]
    vars: BTreeMap<String, Value>,
    /// Permission bits in octal, e.g. `"0644"`. A new file has 0644 and a new folder 0755; of what is there they stay.
    #[schemars(regex(pattern = r"^[0-7]{3,4}$"))]
    mode: Option<String>,
    /// The owner; left as it is when absent.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$"))]
    owner: Option<String>,
    /// The group; left as it is when absent.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$"))]
    group: Option<String>,
}

/// What is wanted at a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
enum State {
    /// A file. Without content, one that is there is left as it is, and a new one is empty.
    #[default]
    File,
    /// A folder, with those above it.
    Directory,
    /// Nothing. A folder goes with all that is in it.
    Absent,
}

/// Larger files are not compared: they are written.
const MAX_COMPARED: u32 = 4 << 20;

/// The bits of a mode without set-user-ID, set-group-ID and the sticky one.
const PERMISSIONS: u32 = 0o777;

impl PhaseModule for File {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Writes and removes files: content or template, mode, owner")
            .asks_for(Capability::Files, "reads and writes the file")
            .asks_for(Capability::Exec, "runs stat, chmod, chown, mkdir and rm")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let path = settings.path.as_str();
        let content = settings.content()?;
        let stat = Stat::query(path, settings.state != State::Absent, guest)?;
        let mut done = Vec::new();
        match settings.state {
            State::Absent => {
                if stat.is_none() {
                    return Ok(Outcome::unchanged(format!("{path} is not there")));
                }
                if path.trim_matches('/').is_empty() {
                    return Err(Failure::InvalidSettings("`/` can't be removed".to_owned()));
                }
                guest.run(["rm", "--recursive", "--force", "--one-file-system", "--", path])?;
                return Ok(Outcome::changed(format!("removed {path}")));
            }
            State::Directory => match &stat {
                Some(stat) if stat.is_directory => {}
                Some(_) => return Err(other_kind(path, "a folder")),
                None => {
                    guest.run(["mkdir", "--parents", "--", path])?;
                    done.push("made");
                }
            },
            State::File => {
                if stat.as_ref().is_some_and(|stat| stat.is_directory) {
                    return Err(other_kind(path, "a file"));
                }
                let content = content.or_else(|| stat.is_none().then(|| Content::Bytes(Vec::new())));
                if let Some(content) = content.filter(|content| differs(path, stat.as_ref(), content, guest))
                {
                    let mode = settings.mode().or(stat.as_ref().map(|stat| stat.mode)).unwrap_or(0o644);
                    // Set-user-ID and the like come last: until then the file is its writer's.
                    guest.write_file(path, content, mode & PERMISSIONS)?;
                    done.push("wrote");
                }
            }
        }
        done.extend(settings.set_attributes(stat.as_ref(), &done, guest)?);
        if done.is_empty() {
            return Ok(Outcome::unchanged(format!("{path} is as it should be")));
        }
        Ok(Outcome::changed(format!("{} {path}", done.join(" and "))))
    }
}

farmhand_sdk::phase_module!(File);

fn other_kind(path: &str, wanted: &str) -> Failure {
    Failure::UnsupportedGuest(format!(
        "{path} is there and is not {wanted}: remove it first (`state: absent`)"
    ))
}

/// Whether the file has another content. What can't be compared counts as different.
fn differs(path: &str, stat: Option<&Stat>, content: &Content, guest: &Guest) -> bool {
    let Content::Bytes(bytes) = content else { return true };
    if stat.is_none_or(|stat| stat.size != bytes.len() as u64 || stat.size > u64::from(MAX_COMPARED)) {
        return true;
    }
    guest.read_file(path, MAX_COMPARED).map_or(true, |now| now != *bytes)
}

impl Settings {
    /// The content that the settings ask for, if any.
    fn content(&self) -> Result<Option<Content>, Failure> {
        let invalid = |text: &str| Err(Failure::InvalidSettings(text.to_owned()));
        if self.state != State::File && (self.content.is_some() || self.template.is_some()) {
            return invalid("only a file has `content` or a `template`");
        }
        match (&self.content, &self.template) {
            (Some(_), Some(_)) => invalid("a file has either `content` or a `template`"),
            (None, None) => Ok(None),
            (Some(content), None) => Ok(Some(content.clone().into())),
            (None, Some(template)) => {
                let mut jinja = minijinja::Environment::new();
                jinja.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
                // Jinja drops one newline at the end.
                let rendered =
                    jinja.render_str(&format!("{template}\n"), minijinja::value::Serde(&self.vars));
                let rendered = rendered.map_err(|error| {
                    Failure::InvalidSettings(format!("the template can't be rendered: {error}"))
                })?;
                Ok(Some(rendered.into()))
            }
        }
    }

    fn mode(&self) -> Option<u32> {
        self.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok())
    }

    /// Sets owner and mode where they are not as they should be.
    fn set_attributes(
        &self,
        stat: Option<&Stat>,
        done: &[&str],
        guest: &Guest,
    ) -> Result<Option<&'static str>, Failure> {
        let path = self.path.as_str();
        // A written file is a new one: it belongs to who wrote it.
        let written = done.contains(&"wrote");
        let old = stat.filter(|_| !written);
        let owner = self.owner.as_ref().filter(|owner| old.is_none_or(|stat| stat.owner != **owner));
        let group = self.group.as_ref().filter(|group| old.is_none_or(|stat| stat.group != **group));
        let kept = stat.filter(|_| written).map(|stat| (&stat.owner, &stat.group));
        let owner = owner.or(kept.map(|(owner, _)| owner));
        let group = group.or(kept.map(|(_, group)| group));
        let chowned = owner.is_some() || group.is_some();
        if chowned {
            let word = |name: Option<&String>| name.cloned().unwrap_or_default();
            let both = match (owner, group) {
                (owner, Some(group)) => format!("{}:{group}", word(owner)),
                (owner, None) => word(owner),
            };
            // What was just written is no link.
            let links = if written { "--no-dereference" } else { "--dereference" };
            guest.run(["chown", links, &both, "--", path])?;
        }
        let mode = self.mode().or(stat.map(|stat| stat.mode));
        // Writing has given a file its permissions; chown takes away what goes beyond them.
        let given = if written { mode } else { stat.map(|stat| stat.mode) };
        let given = given.map(|mode| if written || chowned { mode & PERMISSIONS } else { mode });
        let mode = mode.filter(|mode| given != Some(*mode));
        if let Some(mode) = mode {
            guest.run(["chmod", &format!("{mode:04o}"), "--", path])?;
        }
        let set = (chowned || mode.is_some()) && done.is_empty();
        Ok(set.then_some("set mode or owner of"))
    }
}

#[cfg(test)]
mod tests;

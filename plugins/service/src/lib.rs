//! Sees to it that a systemd unit runs or not, and starts at boot or not.
//!
//! What systemctl(1) shows of the unit decides: what is as it should be is left alone. `restarted` and `reloaded` are asked
//! for each time.

use std::collections::BTreeMap;

use farmhand_sdk::prelude::*;

/// The module.
pub struct Service;

/// The settings of a `service` step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
pub struct Settings {
    /// The unit: `ssh`, `ssh.service`, `fstrim.timer`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9:_.\\@-]*$"), length(max = 255))]
    name: String,
    /// Whether it runs; left as it is when absent.
    state: Option<State>,
    /// Whether it starts at boot; left as it is when absent.
    enabled: Option<bool>,
    /// Have systemd read its unit files anew first.
    #[serde(default)]
    daemon_reload: bool,
}

/// What is wanted of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
enum State {
    /// It runs.
    Started,
    /// It does not run.
    Stopped,
    /// It is started anew.
    Restarted,
    /// It reads its configuration anew, or is started anew if it can't; started if it did not run.
    Reloaded,
}

impl PhaseModule for Service {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Starts, stops and enables systemd units")
            .asks_for(Capability::Exec, "runs systemctl")
            .asks_for(Capability::Become, "only root may start and enable units")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let name = settings.name.as_str();
        let mut done = Vec::new();
        if settings.daemon_reload {
            guest.run(["systemctl", "daemon-reload"])?;
        }
        let unit = Unit::query(name, guest)?;
        let enable = settings.enabled.filter(|enabled| *enabled != unit.is_enabled());
        if let Some(enable) = enable {
            if unit.is("UnitFileState", &["static", "generated", "transient", "indirect"]) {
                let text =
                    format!("{name} has nothing that would make it start at boot, or keep it from that");
                return Err(Failure::InvalidSettings(text));
            }
            let verb = if enable { "enable" } else { "disable" };
            guest.run(["systemctl", verb, "--", name])?;
            done.push(if enable { "enabled" } else { "disabled" });
        }
        let action = match settings.state {
            Some(State::Started) if !unit.is_active() => Some(("start", "started")),
            Some(State::Stopped) if unit.is_active() => Some(("stop", "stopped")),
            Some(State::Restarted) => Some(("restart", "restarted")),
            Some(State::Reloaded) => Some(("reload-or-restart", "reloaded")),
            _ => None,
        };
        if let Some((verb, word)) = action {
            start(verb, name, guest)?;
            done.push(word);
        }
        if done.is_empty() {
            return Ok(Outcome::unchanged(format!("{name} is as it should be")));
        }
        Ok(Outcome::changed(format!("{} {name}", done.join(" and "))))
    }
}

farmhand_sdk::phase_module!(Service);

/// Starts or stops. When that fails, the unit's own last words say why.
fn start(verb: &str, name: &str, guest: &Guest) -> Result<(), Failure> {
    let output = guest.command(["systemctl", verb, "--", name]).any_status().run()?;
    if output.success() {
        return Ok(());
    }
    let journal = ["journalctl", "--no-pager", "--lines=20", "--output=cat", "--unit", name];
    let words = guest.command(journal).read_only().any_status().run()?;
    let mut text = format!("systemctl {verb} {name} failed");
    for line in output.last_lines().into_iter().chain(words.last_lines()) {
        text.push('\n');
        text.push_str(&line);
    }
    Err(Failure::CommandFailed(text))
}

/// What systemd knows of a unit.
struct Unit(BTreeMap<String, String>);

impl Unit {
    fn query(name: &str, guest: &Guest) -> Result<Self, Failure> {
        let text = guest.read([
            "systemctl",
            "show",
            "--property=LoadState,ActiveState,UnitFileState",
            "--",
            name,
        ])?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let unit = Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        if unit.is("LoadState", &["not-found", "bad-setting", "error"]) {
            return Err(Failure::UnsupportedGuest(format!("systemd can't load a unit {name}")));
        }
        Ok(unit)
    }

    fn is(&self, property: &str, values: &[&str]) -> bool {
        self.0.get(property).is_some_and(|value| values.contains(&value.as_str()))
    }

    fn is_active(&self) -> bool {
        self.is("ActiveState", &["active", "activating", "reloading"])
    }

    fn is_enabled(&self) -> bool {
        self.is("UnitFileState", &["enabled", "enabled-runtime", "alias"])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use farmhand_sdk::testing::{Script, context};
    use serde_json::json;

    use super::*;

    const SHOW: [&str; 5] =
        ["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", "nginx"];

    fn unit(load: &str, active: &str, file: &str) -> String {
        format!("LoadState={load}\nActiveState={active}\nUnitFileState={file}\n")
    }

    fn run(guest: &Script, settings: serde_json::Value) -> Result<Outcome, Failure> {
        guest.run_module::<Service>(&context().as_root(), settings)
    }

    #[test]
    fn a_unit_is_started_and_enabled_once() {
        let settings = || json!({ "name": "nginx", "state": "started", "enabled": true });
        let guest = Script::new();
        guest.expect(SHOW).as_root().stdout(unit("loaded", "inactive", "disabled"));
        guest.expect(["systemctl", "enable", "--", "nginx"]).as_root();
        guest.expect(["systemctl", "start", "--", "nginx"]).as_root();
        assert_eq!(run(&guest, settings()).unwrap(), Outcome::changed("enabled and started nginx"));

        let guest = Script::new();
        guest.expect(SHOW).as_root().stdout(unit("loaded", "active", "enabled"));
        assert_eq!(run(&guest, settings()).unwrap(), Outcome::unchanged("nginx is as it should be"));
    }

    #[test]
    fn a_unit_is_stopped_once_and_restarted_each_time() {
        for (state, active, verb) in [
            ("stopped", "active", Some("stop")),
            ("stopped", "failed", None),
            ("restarted", "active", Some("restart")),
            ("reloaded", "inactive", Some("reload-or-restart")),
        ] {
            let guest = Script::new();
            guest.expect(SHOW).as_root().stdout(unit("loaded", active, "enabled"));
            if let Some(verb) = verb {
                guest.expect(["systemctl", verb, "--", "nginx"]).as_root();
            }
            let outcome = run(&guest, json!({ "name": "nginx", "state": state })).unwrap();
            assert_eq!(outcome.changed, verb.is_some(), "{state}");
        }
    }

    #[test]
    fn a_failure_has_the_units_last_words() {
        let guest = Script::new();
        guest.expect(SHOW).as_root().stdout(unit("loaded", "inactive", "enabled"));
        guest
            .expect(["systemctl", "start", "…"])
            .as_root()
            .exits(1)
            .stderr("Job for nginx.service failed.\n");
        guest.expect(["journalctl", "…"]).as_root().stdout("bind() to 0.0.0.0:80 failed\n");
        let failure = run(&guest, json!({ "name": "nginx", "state": "started" })).unwrap_err();
        let expected =
            "systemctl start nginx failed\nJob for nginx.service failed.\nbind() to 0.0.0.0:80 failed";
        assert_eq!(failure, Failure::CommandFailed(expected.to_owned()));
    }

    #[test]
    fn what_can_not_be_is_told() {
        let guest = Script::new();
        guest.expect(SHOW).as_root().stdout(unit("not-found", "inactive", ""));
        let failure = run(&guest, json!({ "name": "nginx", "state": "started" })).unwrap_err();
        assert!(matches!(failure, Failure::UnsupportedGuest(_)), "{failure:?}");

        let guest = Script::new();
        guest.expect(SHOW).as_root().stdout(unit("loaded", "active", "static"));
        let failure = run(&guest, json!({ "name": "nginx", "enabled": true })).unwrap_err();
        assert!(matches!(failure, Failure::InvalidSettings(_)), "{failure:?}");
    }
}

//! Sets the guest's clock from its hardware clock, and its time zone.
//!
//! A machine that was restored from a checkpoint has the time of that checkpoint, while its hardware clock goes right.

use farmhand_sdk::prelude::*;

/// The module.
pub struct Clock;

/// The settings of a `clock` step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
pub struct Settings {
    /// Set the clock from the hardware clock.
    #[serde(default = "yes")]
    synchronize: bool,
    /// So many seconds the two may differ.
    #[serde(default = "two")]
    tolerance: u32,
    /// The time zone, as a name of tzdata's, e.g. `Europe/Berlin`; left as it is when absent.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"), length(max = 64))]
    timezone: Option<String>,
}

fn yes() -> bool {
    true
}

fn two() -> u32 {
    2
}

impl PhaseModule for Clock {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Sets the clock from the hardware clock, and the time zone")
            .asks_for(Capability::Exec, "runs date and ln")
            .asks_for(Capability::Become, "only root may set the clock")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        let mut done = Vec::new();
        if settings.synchronize {
            done.extend(synchronize(settings.tolerance, guest)?);
        }
        if let Some(zone) = &settings.timezone {
            done.extend(set_zone(zone, guest)?);
        }
        if done.is_empty() {
            return Ok(Outcome::unchanged("the clock is right"));
        }
        Ok(Outcome::changed(done.join(", ")))
    }
}

farmhand_sdk::phase_module!(Clock);

/// Both clocks in one command: seconds since 1970, the hardware clock's first. It holds UTC, as libvirt gives it to guests.
const CLOCKS: &str = "cat /sys/class/rtc/rtc0/since_epoch && date +%s";

/// Sets the clock if it differs, and says by how much it did. The second command reads the hardware clock itself, so that no
/// time passes between reading and setting.
fn synchronize(tolerance: u32, guest: &Guest) -> Result<Option<String>, Failure> {
    let output = guest.command(["sh", "-c", CLOCKS]).read_only().any_status().run()?;
    let text = output.text();
    let mut lines = text.lines().map(|line| line.trim().parse::<i64>());
    let (Some(Ok(hardware)), Some(Ok(now))) = (lines.next(), lines.next()) else {
        let words = output.last_lines().join(" ");
        return Err(Failure::UnsupportedGuest(format!("it has no hardware clock that can be read: {words}")));
    };
    let behind = hardware.saturating_sub(now);
    if behind.unsigned_abs() <= u64::from(tolerance) {
        return Ok(None);
    }
    guest.run(["sh", "-c", "date -s @\"$(cat /sys/class/rtc/rtc0/since_epoch)\""])?;
    Ok(Some(format!("set the clock by {behind:+} s")))
}

/// Sets the time zone if it is another one.
fn set_zone(zone: &str, guest: &Guest) -> Result<Option<String>, Failure> {
    let file = format!("/usr/share/zoneinfo/{zone}");
    if !guest.check(["test", "-f", &file])? {
        let text = format!("there is no time zone {zone}: {file} is not there (package tzdata)");
        return Err(Failure::UnsupportedGuest(text));
    }
    let now =
        guest.command(["readlink", "--canonicalize", "/etc/localtime"]).read_only().any_status().run()?;
    let wanted = guest.read(["readlink", "--canonicalize", &file])?;
    if now.text().trim() == wanted {
        return Ok(None);
    }
    guest.run(["ln", "--symbolic", "--force", "--no-dereference", &file, "/etc/localtime"])?;
    Ok(Some(format!("set the time zone to {zone}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use farmhand_sdk::testing::{Script, context};
    use serde_json::json;

    use super::*;

    fn run(guest: &Script, settings: serde_json::Value) -> Result<Outcome, Failure> {
        guest.run_module::<Clock>(&context().as_root(), settings)
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone() {
        let guest = Script::new();
        guest.expect(["sh", "-c", CLOCKS]).as_root().stdout("1000\n998\n");
        assert_eq!(run(&guest, json!({})).unwrap(), Outcome::unchanged("the clock is right"));
    }

    #[test]
    fn a_clock_that_is_wrong_is_set() {
        for (clocks, said) in [("1000\n900\n", "+100"), ("900\n1000\n", "-100")] {
            let guest = Script::new();
            guest.expect(["sh", "-c", CLOCKS]).as_root().stdout(clocks);
            guest.expect(["sh", "…"]).as_root();
            let outcome = run(&guest, json!({ "tolerance": 50 })).unwrap();
            assert_eq!(outcome, Outcome::changed(format!("set the clock by {said} s")));
        }
    }

    #[test]
    fn the_zone_is_set_once() {
        let file = "/usr/share/zoneinfo/Europe/Berlin";
        for now in ["/usr/share/zoneinfo/Etc/UTC\n", "/usr/share/zoneinfo/Europe/Berlin\n"] {
            let guest = Script::new();
            guest.expect(["test", "-f", file]).as_root();
            guest.expect(["readlink", "--canonicalize", "/etc/localtime"]).as_root().stdout(now);
            guest.expect(["readlink", "--canonicalize", file]).as_root().stdout(format!("{file}\n"));
            let differs = now.trim() != file;
            if differs {
                guest.expect(["ln", "…", file, "/etc/localtime"]).as_root();
            }
            let settings = json!({ "synchronize": false, "timezone": "Europe/Berlin" });
            assert_eq!(run(&guest, settings).unwrap().changed, differs);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let guest = Script::new();
        guest.expect(["sh", "-c", CLOCKS]).as_root().exits(1).stderr("cat: since_epoch: No such file\n");
        let failure = run(&guest, json!({})).unwrap_err();
        assert!(
            matches!(&failure, Failure::UnsupportedGuest(text) if text.contains("No such file")),
            "{failure:?}"
        );
        let guest = Script::new();
        guest.expect(["test", "…"]).as_root().exits(1);
        let failure = run(&guest, json!({ "synchronize": false, "timezone": "Mars/Base" })).unwrap_err();
        assert!(
            matches!(&failure, Failure::UnsupportedGuest(text) if text.contains("tzdata")),
            "{failure:?}"
        );
    }
}

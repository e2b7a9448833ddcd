use farmhand_sdk::prelude::*;

/// The clock first: the guest's own is compared with its own files.
pub(crate) const QUERY: &str = "date +%s; find /var/lib/apt/lists -maxdepth 1 -printf '%T@ %f\\n'";

/// Whether the package lists were brought up to date in the last `seconds`.
///
/// `apt-get update` puts new files into `partial` on every run, also when the mirror has nothing new, so that folder's time
/// is the time of the last run. The lists' own times are the mirror's. An image that is delivered without lists has
/// folders but no `Packages`.
pub(crate) fn are_younger_than(seconds: u32, guest: &Guest) -> Result<bool, Failure> {
    if seconds == 0 {
        return Ok(false);
    }
    let text = guest.command(["sh", "-c", QUERY]).read_only().any_status().run()?.text();
    let mut lines = text.lines();
    let Some(now) = lines.next().and_then(|line| line.trim().parse::<i64>().ok()) else {
        return Ok(false);
    };
    let mut updated = None;
    let mut has_lists = false;
    for (time, name) in lines.filter_map(|line| line.split_once(' ')) {
        has_lists |= name.contains("_Packages");
        if name == "partial" {
            updated = time.split('.').next().and_then(|time| time.parse::<i64>().ok());
        }
    }
    // A clock that went backwards says nothing.
    let age = updated.map(|updated| now.saturating_sub(updated));
    Ok(has_lists && age.is_some_and(|age| (0..i64::from(seconds)).contains(&age)))
}

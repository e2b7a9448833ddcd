use farmhand_sdk::prelude::*;

/// Touched after an update that went well, and by nothing else.
///
/// What apt itself leaves behind does not tell: an update of which a part failed changes the same files, also the stamps of
/// its hooks, and one that finds nothing new may change none.
pub(crate) const STAMP: &str = "/var/lib/apt/farmhand-updated";

const LISTS: &str = "/var/lib/apt/lists";
const SOURCES: &str = "/etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/keyrings";

/// The clock first: the guest's own is compared with its own files.
pub(crate) fn query() -> String {
    format!("date +%s.%N; find {STAMP} {SOURCES} {LISTS} -maxdepth 1 -printf '%T@ %p\\n'")
}

/// Whether the package lists are known to have been brought up to date in the last `seconds`, from the sources that are there
/// now.
pub(crate) fn are_younger_than(seconds: u32, guest: &Guest) -> Result<bool, Failure> {
    if seconds == 0 {
        return Ok(false);
    }
    let seen = guest.command(["sh", "-c", &query()]).read_only().any_status().run()?.text();
    // A clock that went backwards says nothing.
    Ok(age(&seen).is_some_and(|age| (0.0..f64::from(seconds)).contains(&age)))
}

/// Notes that an update went well.
pub(crate) fn stamp(guest: &Guest) -> Result<(), Failure> {
    guest.run(["touch", "--", STAMP])?;
    Ok(())
}

/// How many seconds ago the lists were brought up to date, if that is known.
fn age(seen: &str) -> Option<f64> {
    let mut lines = seen.lines();
    let now: f64 = lines.next()?.trim().parse().ok()?;
    let times: Vec<(f64, &str)> = lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(time, path)| Some((time.parse().ok()?, path)))
        .collect();
    let (updated, _) = times.iter().find(|(_, path)| *path == STAMP)?;
    // An image that is delivered without lists has folders but no `Packages`.
    let has_lists = times.iter().any(|(_, path)| path.starts_with(LISTS) && path.contains("_Packages"));
    let has_newer_sources = times.iter().any(|(time, path)| path.starts_with("/etc/apt/") && time > updated);
    (has_lists && !has_newer_sources).then_some(now - updated)
}

use farmhand_sdk::prelude::*;

/// What stat(1) says of a path.
pub(crate) struct Stat {
    pub(crate) is_directory: bool,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) owner: String,
    pub(crate) group: String,
    /// In bytes.
    pub(crate) size: u64,
}

impl Stat {
    /// Asks the guest. `None` when there is nothing at the path, or it can't be seen.
    pub(crate) fn query(path: &str, guest: &Guest) -> Result<Option<Self>, Failure> {
        let command = guest.command(["stat", "--format=%f %U %G %s", "--", path]).env("LC_ALL", "C");
        let output = command.read_only().expect_status([0, 1]).run()?;
        if !output.success() {
            return Ok(None);
        }
        let text = output.text();
        let unreadable =
            || Failure::UnsupportedGuest(format!("stat gives what can't be read: {}", text.trim()));
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [mode, owner, group, size] = fields[..] else { return Err(unreadable()) };
        // `st_mode` of stat(2): the kind of file above the permission bits.
        let mode = u32::from_str_radix(mode, 16).map_err(|_| unreadable())?;
        Ok(Some(Self {
            is_directory: mode & 0o170_000 == 0o040_000,
            mode: mode & 0o7777,
            owner: owner.to_owned(),
            group: group.to_owned(),
            size: size.parse().map_err(|_| unreadable())?,
        }))
    }
}

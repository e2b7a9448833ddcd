use farmhand_sdk::prelude::*;

/// How stat(1) says that there is nothing, in the locale `C`.
const ABSENT: [&str; 2] = [": No such file or directory", ": Not a directory"];

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
    /// Asks the guest: of a link itself, or, when it is followed, of what it leads to. `None` when there is nothing.
    pub(crate) fn query(path: &str, follow: bool, guest: &Guest) -> Result<Option<Self>, Failure> {
        let command = guest.command(["stat", "--format=%f %U %G %s"]).env("LC_ALL", "C");
        let command = command.args(follow.then_some("--dereference")).args(["--", path]);
        let output = command.read_only().expect_status([0, 1]).run()?;
        if !output.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            if ABSENT.iter().any(|absent| words.trim_end().ends_with(absent)) {
                return Ok(None);
            }
            let words = output.last_lines().join("\n");
            return Err(Failure::CommandFailed(format!("{path} can't be looked at\n{words}")));
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

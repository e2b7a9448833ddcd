//! Files in a guest, by commands. One way serves the login user and root alike: SFTP would only serve the former, and not
//! every guest has it.

use std::time::Duration;

use super::{Captured, Command, Guest, GuestError, capture};

/// How long reading or writing a file may take.
const LIMIT: Duration = Duration::from_secs(600);
/// So much is read of a file at most, whatever the caller allows.
const LARGEST: u64 = 1 << 30;
/// As much is kept of what a failing command says.
const WORDS: usize = 4096;

/// `$1` is the path, `$2` the mode, `$3` the size. What did not arrive whole, because the connection broke, is not put in place.
const WRITE: &str = r#"
if [ -d "$1" ]; then echo "$1: Is a directory" >&2; exit 1; fi
new=$(mktemp "${1%/*}/.farmhand.XXXXXXXXXX") || exit 1
if cat >"$new" && [ "$(wc -c <"$new")" -eq "$3" ] && chmod "$2" "$new" && mv -f "$new" "$1"; then exit 0; fi
rm -f "$new"
exit 1
"#;

/// See [`Guest::read_file`].
pub(super) async fn read(
    guest: &dyn Guest,
    path: &str,
    max_size: u64,
    r#become: bool,
) -> Result<Vec<u8>, GuestError> {
    let max_size = max_size.min(LARGEST);
    let count = (max_size + 1).to_string();
    let command =
        Command { r#become, timeout: Some(LIMIT), ..Command::new(["head", "-c", &count, &checked(path)?]) };
    let limit = usize::try_from(max_size + 1).unwrap_or(usize::MAX);
    let output = succeeded(path, capture(guest, &command, limit.max(WORDS)).await?)?;
    if output.stdout.len() as u64 > max_size {
        return Err(GuestError::TooLarge { path: path.to_owned(), max_size });
    }
    Ok(output.stdout)
}

/// See [`Guest::write_file`]. A symbolic link is replaced, not followed.
pub(super) async fn write(
    guest: &dyn Guest,
    path: &str,
    content: &[u8],
    mode: u32,
    r#become: bool,
) -> Result<(), GuestError> {
    let (path_argument, mode, size) =
        (checked(path)?, format!("{:o}", mode & 0o7777), content.len().to_string());
    let command = Command {
        stdin: content.to_vec(),
        r#become,
        timeout: Some(LIMIT),
        ..Command::new(["sh", "-c", WRITE, "sh", &path_argument, &mode, &size])
    };
    succeeded(path, capture(guest, &command, WORDS).await?).map(drop)
}

/// A path that no program takes for an option or for its standard input.
pub(super) fn as_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("./{path}") }
}

fn checked(path: &str) -> Result<String, GuestError> {
    if path.is_empty() { Err(GuestError::Invalid("an empty path".into())) } else { Ok(as_path(path)) }
}

fn succeeded(path: &str, output: Captured) -> Result<Captured, GuestError> {
    if output.exit.success() {
        return Ok(output);
    }
    Err(GuestError::File { path: path.to_owned(), message: output.words() })
}

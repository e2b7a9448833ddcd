//! Files in a guest, by commands. One way serves the login user and root alike: SFTP would only serve the former, and not
//! every guest has it.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use uuid::Uuid;

use super::{Captured, Command, Exit, FileContent, FileSink, Guest, GuestError, OutputSink, Stream};

/// How long reading or writing a whole file may take.
const LIMIT: Duration = Duration::from_secs(600);
/// As much is kept of what a failing command says.
const WORDS: usize = 4096;

/// `$1` is the path, `$2` the mode, `$3` the token that ends the content. What did not arrive whole, because the connection
/// broke or nobody wants it any more, has no token at its end, and is not put in place. dd cuts the token off: `truncate` is
/// not in POSIX.
const WRITE: &str = r#"
if [ -d "$1" ]; then echo "$1: Is a directory" >&2; exit 1; fi
new=
trap 'rm -f "$new"; exit 1' HUP INT TERM
new=$(mktemp "${1%/*}/.farmhand.XXXXXXXXXX") || exit 1
if cat >"$new" && [ "$(tail -c 32 "$new")" = "$3" ] &&
    dd of="$new" bs=1 seek=$(($(wc -c <"$new") - 32)) count=0 </dev/null 2>/dev/null &&
    chmod "$2" "$new" && mv -f "$new" "$1"; then exit 0; fi
rm -f "$new"
exit 1
"#;

/// A guest whose commands can be fed while they run.
#[async_trait]
pub(super) trait Feed: Guest {
    /// Runs a command as [`Guest::exec`] does. After `command.stdin` it reads what comes from `input`, until that ends.
    async fn feed(
        &self,
        command: &Command,
        input: FileContent<'_>,
        output: &mut dyn OutputSink,
    ) -> Result<Exit, GuestError>;
}

/// See [`Guest::stream_from_file`].
pub(super) async fn read(
    guest: &dyn Guest,
    path: &str,
    max_size: u64,
    r#become: bool,
    sink: &mut FileSink<'_>,
) -> Result<(), GuestError> {
    let count = max_size.saturating_add(1).to_string();
    let command = Command { r#become, ..Command::new(["head", "-c", &count, &checked(path)?]) };
    let mut output = Output { left: max_size, too_large: false, sink, words: Vec::new() };
    let exit = guest.exec(&command, &mut output).await?;
    let Output { too_large, words, .. } = output;
    succeeded(path, exit, words)?;
    if too_large {
        return Err(GuestError::TooLarge { path: path.to_owned(), max_size });
    }
    Ok(())
}

/// See [`Guest::stream_to_file`]. A symbolic link is replaced, not followed.
pub(super) async fn write(
    guest: &dyn Feed,
    path: &str,
    content: FileContent<'_>,
    mode: u32,
    r#become: bool,
) -> Result<(), GuestError> {
    let token = Uuid::new_v4().simple().to_string();
    let (path_argument, mode) = (checked(path)?, format!("{:o}", mode & 0o7777));
    let command =
        Command { r#become, ..Command::new(["sh", "-c", WRITE, "sh", &path_argument, &mode, &token]) };
    let mut input = content.chain(stream::iter([Bytes::from(token)]));
    let mut output = Output { left: 0, too_large: false, sink: &mut |_| {}, words: Vec::new() };
    let exit = guest.feed(&command, &mut input, &mut output).await?;
    succeeded(path, exit, output.words)
}

/// Ends what takes longer than a whole file may.
pub(super) async fn in_time(work: impl Future<Output = Result<(), GuestError>>) -> Result<(), GuestError> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(GuestError::TimedOut(LIMIT)))
}

/// A path that no program takes for an option or for its standard input.
pub(super) fn as_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("./{path}") }
}

fn checked(path: &str) -> Result<String, GuestError> {
    if path.is_empty() { Err(GuestError::Invalid("an empty path".into())) } else { Ok(as_path(path)) }
}

fn succeeded(path: &str, exit: Exit, words: Vec<u8>) -> Result<(), GuestError> {
    if exit.success() {
        return Ok(());
    }
    let ended = Captured { exit, stdout: Vec::new(), stderr: words, truncated: false };
    Err(GuestError::File { path: path.to_owned(), message: ended.words() })
}

/// Standard output is the file's content, standard error why there is none.
struct Output<'a, 'b> {
    /// Bytes that may still be given.
    left: u64,
    too_large: bool,
    sink: &'a mut FileSink<'b>,
    words: Vec<u8>,
}

impl OutputSink for Output<'_, '_> {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        match stream {
            Stream::Stdout => {
                let fits = chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= fits as u64;
                self.too_large |= fits < chunk.len();
                if fits > 0 {
                    (self.sink)(&chunk[..fits]);
                }
            }
            Stream::Stderr => {
                let fits = chunk.len().min(WORDS - self.words.len());
                self.words.extend_from_slice(&chunk[..fits]);
            }
        }
    }
}

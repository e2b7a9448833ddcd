use super::{Command, Exit, Guest, GuestError, OutputSink, Stream};

/// What a command left behind: the first part of each stream, up to a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether output was left out because of the bound.
    pub truncated: bool,
}

impl Captured {
    /// The command's own words on why it failed: its standard error in one line, or else how it ended.
    pub fn words(&self) -> String {
        let words = one_line(&self.stderr);
        if words.is_empty() { self.exit.to_string() } else { words }
    }
}

/// Runs a command and keeps the first `limit` bytes of each of its streams.
pub async fn capture(guest: &dyn Guest, command: &Command, limit: usize) -> Result<Captured, GuestError> {
    let mut kept = Kept { limit, stdout: Vec::new(), stderr: Vec::new(), truncated: false };
    let exit = guest.exec(command, &mut kept).await?;
    Ok(Captured { exit, stdout: kept.stdout, stderr: kept.stderr, truncated: kept.truncated })
}

struct Kept {
    limit: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl OutputSink for Kept {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        let kept = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let fits = chunk.len().min(self.limit.saturating_sub(kept.len()));
        kept.extend_from_slice(&chunk[..fits]);
        self.truncated |= fits < chunk.len();
    }
}

/// The guest's words made fit for an error message: one line, no control codes, at most about 1 KiB.
pub fn one_line(words: &[u8]) -> String {
    const LONGEST: usize = 1024;
    let text = String::from_utf8_lossy(words);
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if line.len() + word.len() > LONGEST {
            line.push_str(" …");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_fit_into_one_line() {
        assert_eq!(one_line(b"cat: /x:\r\n\x1b[31mNo such\tfile\n"), "cat: /x: [31mNo such file");
        assert_eq!(one_line(b" \n"), "");
        assert!(one_line(&b"word ".repeat(1000)).len() < 1100);
        assert!(one_line(&b"w".repeat(10_000)).len() < 1100);
    }
}

//! Text from modules and guests, made safe to show.

pub(super) use crate::base::{MAX_LINE, plain};

/// The first [`MAX_LINE`] bytes, or a few less: what comes from a module may be as large as a call.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=MAX_LINE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// The first line, plain, of at most `length` characters.
pub(super) fn one_line(text: &str, length: usize) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let plain = plain(line);
    match plain.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

/// At most `count` plain lines.
pub(super) fn some_lines(text: &str, count: usize) -> String {
    let mut lines: Vec<String> = text.lines().take(count).map(plain).collect();
    if text.lines().nth(count).is_some() {
        lines.push("…".to_owned());
    }
    lines.join("\n")
}

/// Cuts a stream of bytes into lines. A line that is longer than [`MAX_LINE`] is given in pieces.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Takes a chunk and gives each line that is now complete, plain. Of a line that overwrites itself (`\r`), the last
    /// state is given.
    pub(super) fn push(&mut self, chunk: &[u8], mut line: impl FnMut(&str)) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while self.0.len() + piece.len() > MAX_LINE && !piece.is_empty() {
                let (now, later) = piece.split_at((MAX_LINE - self.0.len()).min(piece.len()));
                self.0.extend_from_slice(now);
                piece = later;
                if self.0.len() == MAX_LINE {
                    self.finish(&mut line);
                }
            }
            self.0.extend_from_slice(piece);
            if self.0.ends_with(b"\n") {
                self.finish(&mut line);
            }
        }
    }

    /// Gives what came after the last newline, if anything.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&str)) {
        if self.0.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.0);
        let text = text.trim_end_matches(['\n', '\r']);
        let visible = text.rsplit('\r').next().unwrap_or_default();
        line(&plain(visible));
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_have_nothing_to_act_on() {
        for (raw, expected) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("a\u{9b}2Jb", "ab"),
            ("a\x08\x00\x7fb\tc", "ab c"),
            ("\u{202e}evil", "evil"),
            ("\x1b(Btext", "text"),
            ("cut \x1b[", "cut "),
        ] {
            assert_eq!(plain(raw), expected, "{raw:?}");
        }
        assert_eq!(plain(&"ä".repeat(MAX_LINE)).len(), MAX_LINE);
    }

    #[test]
    fn lines_are_cut_out_of_chunks() {
        let mut given = Vec::new();
        let mut lines = Lines::default();
        for chunk in [&b"on"[..], b"e\ntw", b"o\n\n10%\r50%\r100%\nthr\xc3", b"\xa9e"] {
            lines.push(chunk, |line| given.push(line.to_owned()));
        }
        lines.finish(|line| given.push(line.to_owned()));
        assert_eq!(given, ["one", "two", "", "100%", "thrée"]);
    }

    #[test]
    fn an_endless_line_is_given_in_pieces() {
        let mut lengths = Vec::new();
        let mut lines = Lines::default();
        for _ in 0..3 {
            lines.push(&[b'x'; 7000], |line| lengths.push(line.len()));
        }
        lines.finish(|line| lengths.push(line.len()));
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 21000 - 2 * MAX_LINE]);
    }
}

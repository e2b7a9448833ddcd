//! Tells what comes before a command's own output (see [`super::script`]) from the output itself.

use bytes::Bytes;

use super::script::Invocation;
use crate::guest::{GuestError, Stream, capture::one_line};

/// As much of what comes before the marker is kept for each stream: the last of it.
const KEPT: usize = 64 << 10;
/// The longest rest of the marker's line: the process group's number.
const REST: usize = 64;

/// What came on the two streams of a command up to the marker.
pub(super) struct Preface {
    marker: String,
    prompt: String,
    before: [Vec<u8>; 2],
    seen: [bool; 2],
    group: Option<u32>,
}

impl Preface {
    pub(super) fn new(invocation: &Invocation) -> Self {
        Self {
            marker: invocation.marker.clone(),
            prompt: invocation.prompt.clone(),
            before: Default::default(),
            seen: [false; 2],
            group: None,
        }
    }

    /// Takes the next chunk of a stream, and gives back what of it is the command's own output. The marker's line is written
    /// at once by a shell, so one that does not end is a guest's that plays with farmhand.
    pub(super) fn push(&mut self, stream: Stream, chunk: Bytes) -> Result<Bytes, GuestError> {
        let index = stream as usize;
        if self.seen[index] {
            return Ok(chunk);
        }
        let before = &mut self.before[index];
        // Further back it was looked for already.
        let new = before.len().saturating_sub(self.marker.len() + REST);
        before.extend_from_slice(&chunk);
        let Some(start) = find(&before[new..], self.marker.as_bytes()) else {
            if before.len() > 2 * KEPT {
                before.drain(..before.len() - KEPT);
            }
            return Ok(Bytes::new());
        };
        let trailer = new + start + self.marker.len();
        let rest = &before[trailer..];
        let Some(length) = rest.iter().take(REST + 1).position(|byte| *byte == b'\n') else {
            if rest.len() > REST {
                before.clear();
                let message = "a command's output began otherwise than its shell begins it";
                return Err(GuestError::Disconnected(message.into()));
            }
            return Ok(Bytes::new());
        };
        if stream == Stream::Stderr {
            let group = std::str::from_utf8(&before[trailer..trailer + length]).ok();
            self.group = group.and_then(|group| group.trim().parse().ok()).filter(|group| *group > 1);
        }
        self.seen[index] = true;
        let rest = before.split_off(trailer + length + 1);
        before.truncate(new + start);
        Ok(rest.into())
    }

    /// Whether the shell has started: the marker came on both streams.
    pub(super) fn is_over(&self) -> bool {
        self.seen == [true; 2]
    }

    /// The command's process group, once the marker has brought it.
    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    /// How often `sudo` has asked for the password.
    pub(super) fn prompts(&self) -> usize {
        let text = String::from_utf8_lossy(&self.before[Stream::Stderr as usize]);
        text.matches(&self.prompt).count()
    }

    /// Takes out what came on a stream on which the marker never came.
    pub(super) fn take_unmarked(&mut self, stream: Stream) -> Vec<u8> {
        let index = stream as usize;
        if self.seen[index] { Vec::new() } else { std::mem::take(&mut self.before[index]) }
    }

    /// The refusing program's own words: what it said after it asked for the password, in one line.
    pub(super) fn words(&self) -> String {
        let [stdout, stderr] = self.before.each_ref().map(|bytes| String::from_utf8_lossy(bytes));
        let stderr = match stderr.split_once(&self.prompt) {
            Some((_lecture, words)) => words.replace(&self.prompt, "\n"),
            None => stderr.into_owned(),
        };
        // su's prompt, in whatever language, is on the line on which its words begin.
        let stderr = stderr.find("su: ").map_or(stderr.as_str(), |start| &stderr[start..]);
        let words = one_line(stderr.as_bytes());
        if words.is_empty() { one_line(stdout.as_bytes()) } else { words }
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guest::Stream::{Stderr, Stdout};

    fn preface() -> Preface {
        Preface {
            marker: "MARK".into(),
            prompt: "PROMPT:".into(),
            before: Default::default(),
            seen: [false; 2],
            group: None,
        }
    }

    proptest! {
        #[test]
        fn the_marker_is_found_however_the_stream_is_cut(cuts in proptest::collection::vec(1usize..9, 1..40)) {
            let mut bytes: &[u8] = b"Password: lecture\nMARK 4711\nthe command's MARK 1\n";
            let (mut preface, mut own) = (preface(), Vec::new());
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let (chunk, rest) = bytes.split_at(cut.min(bytes.len()));
                own.extend(preface.push(Stderr, Bytes::copy_from_slice(chunk)).unwrap());
                bytes = rest;
            }
            own.extend(preface.push(Stderr, Bytes::copy_from_slice(bytes)).unwrap());
            prop_assert_eq!(own, b"the command's MARK 1\n");
            prop_assert_eq!(preface.group(), Some(4711));
            prop_assert!(!preface.is_over());
            prop_assert_eq!(preface.push(Stdout, Bytes::from_static(b"MARK\n")).unwrap(), Bytes::new());
            prop_assert!(preface.is_over());
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut preface = preface();
        for _ in 0..100 {
            preface.push(Stdout, vec![b'x'; KEPT / 3].into()).unwrap();
        }
        assert!(preface.take_unmarked(Stdout).len() <= 2 * KEPT);
    }

    /// A hostile guest may have learnt the marker, and then never ends its line.
    #[test]
    fn a_marker_whose_line_does_not_end_is_an_error() {
        for size in [1, 7, 1000] {
            let mut preface = preface();
            preface.push(Stdout, Bytes::from_static(b"lectureMARK")).unwrap();
            let pushed = (0..100).map(|_| preface.push(Stdout, vec![b'x'; size].into()));
            let refused = pushed.take_while(Result::is_ok).count();
            assert!(refused <= REST, "{refused} chunks of {size} were taken");
            preface.push(Stdout, vec![b'x'; size].into()).unwrap();
            assert!(preface.take_unmarked(Stdout).len() <= size);
        }
    }

    #[test]
    fn words_are_the_programs_own() {
        for (stream, text, words) in [
            (Stderr, "Passwort: su: Authentication failure\n", "su: Authentication failure"),
            (
                Stderr,
                "A lecture.\n\nPROMPT:Sorry, try again.\nPROMPT:\nsudo: 1 wrong\n",
                "Sorry, try again. sudo: 1 wrong",
            ),
            (Stderr, "sudo: a password is required\n", "sudo: a password is required"),
            (
                Stdout,
                "This account is currently not available.\n",
                "This account is currently not available.",
            ),
        ] {
            let mut preface = preface();
            preface.push(stream, Bytes::from_static(text.as_bytes())).unwrap();
            assert_eq!(preface.words(), words);
        }
    }

    #[test]
    fn a_group_that_would_mean_everybody_is_not_taken() {
        for text in ["MARK 0\n", "MARK 1\n", "MARK -5\n", "MARK x\n", "MARK \n"] {
            let mut preface = preface();
            preface.push(Stderr, Bytes::from_static(text.as_bytes())).unwrap();
            assert_eq!(preface.group(), None, "{text}");
        }
    }
}

//! Files of the guest that are read and written piece by piece.

use std::io::{self, BufRead, Read, Write};

use crate::{Content, Failure, GuestError, Secret};

/// So much is gathered before the host is asked to write it.
const GATHERED: usize = 64 << 10;

/// The pieces of a file that is read. Dropped before its end, no more is read.
pub trait Pieces {
    /// Waits for the next piece; `None` at the end of the file.
    fn next(&self) -> Result<Option<Vec<u8>>, GuestError>;
}

/// A file that is being written. Dropped before its end, nothing is left of it.
pub trait Writing {
    /// Adds to the file.
    fn write(&self, content: &Content) -> Result<(), GuestError>;
    /// Puts it in its place.
    fn finish(self: Box<Self>) -> Result<(), GuestError>;
}

/// A file of the guest, read piece by piece: of any size, and never in memory as a whole. What goes wrong is an
/// [`io::Error`] around a [`GuestError`], and `?` makes a [`Failure`] of it.
pub struct FileReader<'a> {
    pieces: Box<dyn Pieces + 'a>,
    /// What came last, and how much of it was read.
    piece: Vec<u8>,
    read: usize,
}

impl<'a> FileReader<'a> {
    pub(crate) fn new(pieces: Box<dyn Pieces + 'a>) -> Self {
        Self { pieces, piece: Vec::new(), read: 0 }
    }
}

impl BufRead for FileReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.piece.len() {
            self.piece = self.pieces.next().map_err(io::Error::other)?.unwrap_or_default();
            self.read = 0;
        }
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read = self.piece.len().min(self.read + amount);
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// A file of the guest, written piece by piece: a temporary one, which takes the file's place by [`finish`](Self::finish).
/// Dropped before that, nothing is left of it, and the file stays as it was.
#[must_use = "nothing is written before `finish`"]
pub struct FileWriter<'a> {
    writing: Box<dyn Writing + 'a>,
    gathered: Vec<u8>,
}

impl<'a> FileWriter<'a> {
    pub(crate) fn new(writing: Box<dyn Writing + 'a>) -> Self {
        Self { writing, gathered: Vec::new() }
    }

    /// Adds a secret, which the host puts in.
    pub fn write_secret(&mut self, secret: &Secret) -> Result<(), GuestError> {
        self.send()?;
        self.writing.write(&secret.into())
    }

    /// Puts the file in its place. What the guest has to say of it comes here.
    pub fn finish(mut self) -> Result<(), GuestError> {
        self.send()?;
        self.writing.finish()
    }

    fn send(&mut self) -> Result<(), GuestError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.writing.write(&Content::Bytes(std::mem::take(&mut self.gathered)))
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(GATHERED - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() == GATHERED {
            self.send().map_err(io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send().map_err(io::Error::other)
    }
}

/// What a file's reader or writer has to say is the guest's error again.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.downcast::<GuestError>() {
            Ok(error) => Self::Guest(error),
            Err(error) => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Descriptor, Guest, Outcome, PhaseModule, testing};

    /// Copies a file, line by line, with a secret at its end.
    struct Copy;

    impl PhaseModule for Copy {
        type Settings = serde_json::Value;

        fn describe() -> Descriptor {
            crate::descriptor!("Copies a file")
        }

        fn run(_: &Context, _: Self::Settings, guest: &Guest) -> Result<Outcome, Failure> {
            let from = guest.open_file("/from")?;
            let mut to = guest.create_file("/to", 0o600)?;
            for line in from.lines() {
                writeln!(to, "{}", line?)?;
            }
            to.write_secret(&Secret::named("TOKEN"))?;
            to.finish()?;
            Ok(Outcome::changed("copied"))
        }
    }

    #[test]
    fn files_are_read_and_written_as_ever() {
        let guest = testing::Script::new();
        let large = "a line of many\n".repeat(100_000);
        guest.add_file("/from", large.as_str());
        guest.run_module::<Copy>(&testing::context(), serde_json::json!({})).unwrap();
        assert_eq!(guest.file("/to").unwrap(), (large + "<secret TOKEN>").as_bytes());
    }

    #[test]
    fn the_guests_error_comes_through() {
        let guest = testing::Script::new();
        let failure = guest.run_module::<Copy>(&testing::context(), serde_json::json!({})).unwrap_err();
        assert!(matches!(failure, Failure::Guest(GuestError::NotFound(_))), "{failure:?}");
        assert!(matches!(
            Failure::from(io::Error::other(GuestError::TimedOut)),
            Failure::Guest(GuestError::TimedOut)
        ));
        assert!(matches!(Failure::from(io::Error::other("x")), Failure::Other(_)));
    }

    #[test]
    fn what_is_not_finished_is_not_there() {
        let guest = testing::Script::new();
        let script = Guest::new(&guest, false);
        let mut file = script.create_file("/to", 0o600).unwrap();
        file.write_all(b"half of").unwrap();
        drop(file);
        assert_eq!(guest.file("/to"), None);
    }

    #[test]
    fn it_is_played_back_as_it_was_recorded() {
        let recorded = |content: &str| {
            format!(
                r#"{{ "version": 1, "context": {{ "phase": "main", "platform": "p", "target": "t", "machine": "m",
                    "settings": {{}}, "become": false }},
                  "facts": {{ "os_id": "debian", "os_id_like": [], "os_version_id": null, "os_pretty_name": "", "kernel": "",
                    "architecture": "", "package_manager": null }},
                  "calls": [
                    {{ "call": {{ "read-file": {{ "path": "/from" }} }}, "answer": {{ "content": "one\ntwo\n" }} }},
                    {{ "call": {{ "write-file": {{ "path": "/to", "content": [{content}, {{ "secret": "TOKEN" }}], "mode": 384 }} }},
                      "answer": "done" }} ] }}"#
            )
        };
        let recording = testing::Recording::parse(&recorded(r#""one\ntwo\n""#)).unwrap();
        assert_eq!(recording.replay::<Copy>().unwrap().unwrap(), Outcome::changed("copied"));
        let recording = testing::Recording::parse(&recorded(r#""one\n""#)).unwrap();
        assert!(recording.replay::<Copy>().unwrap_err().contains("call 2 differs"));
    }
}

//! Writes a part of a file, and drops it.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let content = |text: &str| Content::Bytes(text.as_bytes().to_vec());
        guest.write_file("/srv/file", &[content("as it was")], 0o600, false).map_err(fail)?;
        let writer = guest.create_file("/srv/file", 0o600, false).map_err(fail)?;
        writer.write(&content("half of it")).map_err(fail)?;
        drop(writer);
        let read = guest.read_file("/srv/file", 100, false).map_err(fail)?;
        done(String::from_utf8_lossy(&read))
    }
}

bad!(Module);

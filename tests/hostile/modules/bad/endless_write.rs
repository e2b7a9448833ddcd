//! Writes a file that has no end, and would have it all the same when it is told that it is too large.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let writer = guest.create_file("/srv/endless", 0o600, false).map_err(fail)?;
        let piece = Content::Bytes(vec![b'x'; 1 << 20]);
        while writer.write(&piece).is_ok() {}
        FileWriter::finish(writer).map_err(fail)?;
        done("it was put in its place")
    }
}

bad!(Module);

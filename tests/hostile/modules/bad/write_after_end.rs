//! Goes on with a file that it has finished.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let writer = guest.create_file("/srv/file", 0o600, false).map_err(fail)?;
        writer.write(&Content::Bytes(b"whole".to_vec())).map_err(fail)?;
        let handle = writer.handle();
        FileWriter::finish(writer).map_err(fail)?;
        // SAFETY: there is none; what becomes of it is the host's affair.
        let again = unsafe { FileWriter::from_handle(handle) };
        again.write(&Content::Bytes(b" and more".to_vec())).map_err(fail)?;
        done("more was written")
    }
}

bad!(Module);

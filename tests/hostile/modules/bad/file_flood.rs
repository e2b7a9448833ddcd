//! Opens and creates files without end.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        guest.write_file("/srv/large", &[Content::Bytes(vec![b'x'; 1 << 20])], 0o600, false).map_err(fail)?;
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for number in 0u64.. {
            readers.push(guest.open_file("/srv/large", false).map_err(fail)?);
            writers.push(guest.create_file(&format!("/srv/{number}"), 0o600, false).map_err(fail)?);
        }
        done("")
    }
}

bad!(Module);

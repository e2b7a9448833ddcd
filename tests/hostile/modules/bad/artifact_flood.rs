//! Keeps artifacts without end.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        for number in 0u64.. {
            guest.save_artifact(&format!("artifact-{number}"), &[0; 1024]).map_err(fail)?;
        }
        done("")
    }
}

bad!(Module);

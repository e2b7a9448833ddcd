//! Calls the host for ever, so that it is hardly ever seen to compute.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        loop {
            log::progress("still working", None);
        }
    }
}

bad!(Module);

//! Says that it was written by a million people.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        Descriptor { authors: vec![String::new(); 1_000_000], ..descriptor("bad") }
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);

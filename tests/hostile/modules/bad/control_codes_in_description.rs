//! Has a name that terminals act on.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        descriptor("\x1b[31mbad\x1b[0m")
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);

//! Ends with words of megabytes.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        Err(Failure::Other("x\n".repeat(1 << 20)))
    }
}

bad!(Module);

//! Logs one message of more than a call may carry.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        log::write(Level::Info, &"x".repeat(12 << 20), &[]);
        done("it was taken")
    }
}

bad!(Module);

//! Waits for a command that never ends.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        guest.exec(&command(["sleep", "infinity"])).map_err(fail)?;
        done("it ended")
    }
}

bad!(Module);

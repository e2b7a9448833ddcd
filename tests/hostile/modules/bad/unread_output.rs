//! Starts a command that writes without end, and never reads.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let process = guest.start(&command(["yes"])).map_err(fail)?;
        std::mem::forget(process);
        guest.exec(&command(["sleep", "infinity"])).map_err(fail)?;
        done("it ended")
    }
}

bad!(Module);

//! Starts commands without end.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let mut started = Vec::new();
        loop {
            started.push(guest.start(&command(["sleep", "infinity"])).map_err(fail)?);
        }
    }
}

bad!(Module);

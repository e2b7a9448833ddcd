//! Runs a command with a million arguments.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        guest.exec(&command(vec![String::new(); 1_000_000])).map_err(fail)?;
        done("it was taken")
    }
}

bad!(Module);

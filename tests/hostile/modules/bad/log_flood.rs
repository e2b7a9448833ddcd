//! Writes thousands of messages.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        for number in 0..5000 {
            log::write(Level::Info, &format!("message {number}"), &[]);
        }
        done("all written")
    }
}

bad!(Module);

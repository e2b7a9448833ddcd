//! Runs a command that writes far more than is kept.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let output = guest.exec(&Command { log_output: true, ..command(["yes"]) }).map_err(fail)?;
        done(format!("kept {} bytes, left some out: {}", output.stdout.len(), output.truncated))
    }
}

bad!(Module);

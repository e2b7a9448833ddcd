//! Not a bad one: what the other machines of a run have to do while a bad one is at work.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(context: Context, guest: &Guest) -> Result<Outcome, Failure> {
        for number in 0..50 {
            let output = guest.exec(&command(["echo", &number.to_string()])).map_err(fail)?;
            if !matches!(output.exit, Exit::Status(0)) || output.stdout != format!("{number}\n").as_bytes() {
                return Err(Failure::CommandFailed(format!("echo {number}: {:?}", output.stdout)));
            }
            guest.write_file("/srv/number", &[Content::Bytes(output.stdout)], 0o644, false).map_err(fail)?;
            log::write(Level::Info, &format!("{} is at {number}", context.machine), &[]);
        }
        let content = guest.read_file("/srv/number", 100, false).map_err(fail)?;
        done(format!("counted to {}", String::from_utf8_lossy(&content).trim()))
    }
}

bad!(Module);

//! Writes what terminals act on: into the log, its fields, its progress, and its last words.

use hostile::*;

const CODES: &str = "a\x1b]0;title\x07b\x1b[2Jc\u{9b}31md\re\u{202e}f\x08\x7f";

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        log::write(Level::Warn, CODES, &[log::Field { name: CODES.to_owned(), value: CODES.to_owned() }]);
        log::progress(CODES, Some(200));
        guest.exec(&Command { log_output: true, ..command(["codes"]) }).map_err(fail)?;
        Err(Failure::Other(CODES.to_owned()))
    }
}

bad!(Module);

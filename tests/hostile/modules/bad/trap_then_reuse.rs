//! Crashes in the middle of its work, and hopes that its memory is still there the next time.

use std::sync::atomic::{AtomicBool, Ordering};

use hostile::*;

static CRASHED: AtomicBool = AtomicBool::new(false);

struct Module;

impl Bad for Module {
    fn run(context: Context, _: &Guest) -> Result<Outcome, Failure> {
        if CRASHED.swap(true, Ordering::Relaxed) {
            return done("its memory was still there");
        }
        if context.settings.contains("crash") {
            std::process::abort();
        }
        done("it began afresh")
    }
}

bad!(Module);

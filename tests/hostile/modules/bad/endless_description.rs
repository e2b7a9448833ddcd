//! Never says what it is.

use std::hint::black_box;

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        let mut turns = 0u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);

//! Computes for ever.

use std::hint::black_box;

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        let mut turns = 0u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }
}

bad!(Module);

//! Calls itself for ever.

use std::sync::atomic::{AtomicU64, Ordering};

use hostile::*;

static NEVER: AtomicU64 = AtomicU64::new(u64::MAX);

#[inline(never)]
fn deeper(depth: u64) -> u64 {
    if depth == NEVER.load(Ordering::Relaxed) {
        return depth;
    }
    depth.wrapping_mul(3) ^ deeper(depth + 1).rotate_left(1)
}

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done(deeper(0).to_string())
    }
}

bad!(Module);

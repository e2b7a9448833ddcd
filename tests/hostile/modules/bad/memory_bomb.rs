//! Fills all memory that it can get.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        let mut kept = Vec::new();
        loop {
            kept.push(std::hint::black_box(vec![0xa5u8; 1 << 20]));
        }
    }
}

bad!(Module);

//! Takes resources of the host's and never gives one back.

use hostile::*;

wit_bindgen::generate!({
    inline: "
        package farmhand:hostile;

        world flood {
            import wasi:clocks/monotonic-clock@0.2.0;
        }

        package wasi:io@0.2.0 {
            interface poll {
                resource pollable;
            }
        }

        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }
    ",
    world: "farmhand:hostile/flood",
    generate_all,
});

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        loop {
            std::mem::forget(wasi::clocks::monotonic_clock::subscribe_duration(u64::MAX / 2));
        }
    }
}

bad!(Module);

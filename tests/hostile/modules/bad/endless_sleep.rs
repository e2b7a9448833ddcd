//! Sleeps in a call to the host, by WASI's clock.

use hostile::*;

wit_bindgen::generate!({
    inline: "
        package farmhand:hostile;

        world sleeper {
            import wasi:clocks/monotonic-clock@0.2.0;
        }

        package wasi:io@0.2.0 {
            interface poll {
                resource pollable {
                    block: func();
                }
            }
        }

        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }
    ",
    world: "farmhand:hostile/sleeper",
    generate_all,
});

struct Module;

impl Bad for Module {
    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        wasi::clocks::monotonic_clock::subscribe_duration(u64::MAX / 2).block();
        done("it woke up")
    }
}

bad!(Module);

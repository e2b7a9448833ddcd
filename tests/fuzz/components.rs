//! Phase modules under libFuzzer: whatever bytes a file has, it is refused, or it is a module that stays within its limits and
//! its grants; and what is said of it is free of what terminals act on. `make fuzz` runs it.

#![cfg_attr(fuzzing, no_main)]
#![allow(clippy::unwrap_used)]

#[path = "../hostile/encode.rs"]
mod encode;
#[allow(dead_code)]
#[path = "../hostile/machine.rs"]
mod machine;
mod seeds;

use std::{cell::LazyCell, fs, time::Duration};

use farmhand::module::{Engine, Limits, ModuleError};
use libfuzzer_sys::fuzz_target;
use machine::Machine;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static HOST: LazyCell<(Runtime, Engine)> = LazyCell::new(|| {
        (Builder::new_current_thread().enable_all().build().unwrap(), Engine::new(None, limits()).unwrap())
    });
}

fuzz_target!(init: seeds::write(&seeds()), |input: &[u8]| drop(load_and_run(input)));

/// Tight, so that many inputs can be tried.
fn limits() -> Limits {
    // What is whole has to get through on a busy machine, too.
    if cfg!(not(fuzzing)) {
        return Limits::default();
    }
    Limits {
        cpu_time: Duration::from_millis(100),
        wall_time: Duration::from_secs(2),
        memory: 16 << 20,
        ..Limits::default()
    }
}

/// All that is done with a module's file.
fn load_and_run(bytes: &[u8]) -> Result<(), ModuleError> {
    let machine = Machine::new("machine");
    let ended = HOST.with(|host| {
        let (runtime, engine) = &**host;
        runtime.block_on(async {
            let module = engine.load_bytes("any.wasm", bytes.to_vec()).await?;
            module.run(machine.call(json!({}), "{ exec: true, files: ['/srv/*'] }", limits()).await).await
        })
    });
    assert!(machine.guest.files().keys().all(|path| path.starts_with("/srv/")));
    if let Err(error) = &ended {
        let text = error.to_string();
        assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
        assert!(text.len() < 64 << 10, "{} bytes", text.len());
    }
    ended.map(drop)
}

/// Modules that are whole: the smallest that can be, and such as compilers make.
fn seeds() -> Vec<Vec<u8>> {
    let built =
        encode::build("wasm32-unknown-unknown", &["--example", "neighbour", "--example", "secret_fisher"]);
    let built =
        ["neighbour", "secret_fisher"].map(|name| fs::read(built.join(format!("{name}.wasm"))).unwrap());
    let tiny = encode::encode_text(include_str!("component.wat"));
    [tiny].into_iter().chain(built.map(|core| encode::encode(&core))).collect()
}

/// Without libFuzzer's coverage, as an ordinary test: what fuzzing begins with.
#[cfg(not(fuzzing))]
fn main() {
    let seeds = seeds();
    load_and_run(&seeds[0]).unwrap();
    load_and_run(&seeds[1]).unwrap();
    // It was not granted what it fishes for.
    load_and_run(&seeds[2]).unwrap_err();
}

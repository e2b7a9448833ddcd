//! A module's file may hold any bytes: it is refused, or it is a module that is stopped within its limits; and what is said of
//! it is free of what terminals act on. `PROPTEST_CASES=100000` looks for longer.

use std::{sync::OnceLock, time::Duration};

use farmhand::module::{Engine, Limits, ModuleError};
use proptest::prelude::*;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{built, machine::Machine};

/// A change to a file. Places and lengths are parts of the file's length, in 1/65536.
#[derive(Debug, Clone)]
enum Change {
    Flip(u16, u8),
    Set(u16, u8),
    Remove(u16, u8),
    Repeat(u16, u8),
    Insert(u16, Vec<u8>),
    /// Puts a part of the file elsewhere in it.
    Move(u16, u16, u8),
    /// A number as WebAssembly has it (LEB128) that is as large as can be.
    Huge(u16),
    Cut(u16),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => any::<(u16, u8)>().prop_map(|(at, bit)| Change::Flip(at, bit)),
        4 => any::<(u16, u8)>().prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => any::<(u16, u8)>().prop_map(|(at, length)| Change::Remove(at, length)),
        1 => any::<(u16, u8)>().prop_map(|(at, length)| Change::Repeat(at, length)),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => any::<(u16, u16, u8)>().prop_map(|(from, to, length)| Change::Move(from, to, length)),
        2 => any::<u16>().prop_map(Change::Huge),
        1 => any::<u16>().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    let place = |at: u16| (usize::from(at) * length) >> 16;
    let range = |at: u16, count: u8| place(at)..(place(at) + usize::from(count)).min(length);
    if length == 0 {
        return;
    }
    match change {
        Change::Flip(at, bit) => bytes[place(*at)] ^= 1 << (bit % 8),
        Change::Set(at, byte) => bytes[place(*at)] = *byte,
        Change::Remove(at, count) => drop(bytes.drain(range(*at, *count))),
        Change::Repeat(at, count) => {
            let range = range(*at, *count);
            let copy = bytes[range.clone()].to_vec();
            drop(bytes.splice(range.start..range.start, copy));
        }
        Change::Insert(at, more) => drop(bytes.splice(place(*at)..place(*at), more.iter().copied())),
        Change::Move(from, to, count) => {
            let part: Vec<u8> = bytes[range(*from, *count)].to_vec();
            let end = (place(*to) + part.len()).min(length);
            bytes[place(*to)..end].copy_from_slice(&part[..end - place(*to)]);
        }
        Change::Huge(at) => {
            drop(bytes.splice(place(*at)..place(*at), [0xff, 0xff, 0xff, 0xff, 0x0f]));
        }
        Change::Cut(at) => bytes.truncate(place(*at)),
    }
}

fn host() -> &'static (Runtime, Engine) {
    static HOST: OnceLock<(Runtime, Engine)> = OnceLock::new();
    HOST.get_or_init(|| {
        let limits = limits();
        (Runtime::new().unwrap(), Engine::new(None, limits).unwrap())
    })
}

fn limits() -> Limits {
    Limits {
        cpu_time: Duration::from_millis(100),
        wall_time: Duration::from_secs(2),
        memory: 16 << 20,
        ..Limits::default()
    }
}

fn shown(error: &ModuleError) -> Result<(), TestCaseError> {
    let text = error.to_string();
    prop_assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    prop_assert!(text.len() < 64 << 10, "{} bytes", text.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_file_is_refused_or_stopped(
        seed in prop::sample::select(vec!["neighbour", "secret_fisher", "any_call", "wasi_fisher", "released_0_1_0"]),
        changes in prop::collection::vec(change(), 1..8),
    ) {
        let (runtime, engine) = host();
        let mut bytes = built::component(seed);
        for change in &changes {
            apply(&mut bytes, change);
        }
        match runtime.block_on(engine.load_bytes("any.wasm", bytes)) {
            Err(error) => shown(&error)?,
            Ok(module) => {
                let machine = Machine::new("machine");
                let ended = runtime.block_on(async {
                    let call = machine.call(json!({}), "{ exec: true, files: ['/srv/*'] }", limits()).await;
                    module.run(call).await
                });
                if let Err(error) = ended {
                    shown(&error)?;
                }
                prop_assert!(machine.guest.files().keys().all(|path| path.starts_with("/srv/")));
            }
        }
    }
}

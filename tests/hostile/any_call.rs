//! Calls to the host with arguments that nobody thought of: whatever they are, only what was granted reaches the guest, the
//! folder of the artifacts, and people's terminals.

use std::sync::OnceLock;

use farmhand::module::{Engine, Limits, Module};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    built,
    machine::{Machine, TOKEN},
};

const GRANTS: &str = "{ exec: true, files: ['/srv/*'], secrets: [TOKEN], artifacts: true, facts: true }";

/// Texts that are meant to be something else than they seem.
const ODD: &[&str] = &[
    "",
    "/",
    "..",
    ".",
    "-",
    "--",
    "~",
    "$(id)",
    "`id`",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\u{202e}",
    "TOKEN",
    "TOKEN\0",
    "/srv/x",
    "/srv/../etc/shadow",
    "/srv/x/y",
    "//srv/x",
    "/srv/x/",
    "/srv/x\0",
    "/etc/shadow",
    "srv/x",
    "sh",
    "env",
    "=",
    "A=B",
    "1A",
    "LD_PRELOAD",
    "*",
    "{}",
];

/// Texts of any characters, and odd ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(ODD).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => "[a-z./]{0,40}",
        1 => (1usize..200_000).prop_map(|length| "x".repeat(length)),
    ]
}

fn content() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(Value::from),
        Just(json!({ "hidden": "TOKEN" })),
        text().prop_map(|name| json!({ "hidden": name })),
    ]
}

fn few<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 0..4)
}

fn call() -> impl Strategy<Value = Value> {
    let kinds =
        ["exec", "start", "read", "write", "artifact", "file", "facts", "progress", "log"].map(str::to_owned);
    let command = (
        few(text()),
        few((text(), content())),
        prop::option::of(text()),
        few(content()),
        prop::option::of(any::<u32>()),
        any::<[bool; 3]>(),
    );
    let rest = (text(), text(), any::<u32>(), any::<u32>(), any::<u8>(), few((text(), text())), 0u32..3);
    (prop::sample::select(kinds.to_vec()), command, rest).prop_map(
        |(kind, (argv, env, cwd, stdin, timeout, [r#become, log, read_only]), rest)| {
            let (path, name, size, mode, percent, fields, events) = rest;
            json!({
                "call": kind, "argv": argv, "env": env, "cwd": cwd, "stdin": stdin, "become": r#become,
                "timeout": timeout, "log": log, "read_only": read_only, "path": path, "name": name, "size": size,
                "mode": mode, "percent": percent, "fields": fields, "events": events, "content": stdin,
            })
        },
    )
}

fn module() -> &'static (Runtime, Module) {
    static MODULE: OnceLock<(Runtime, Module)> = OnceLock::new();
    MODULE.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let engine = Engine::new(None, Limits::default()).unwrap();
        let module =
            runtime.block_on(engine.load_bytes("any_call.wasm", built::component("any_call"))).unwrap();
        (runtime, module)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_what_was_granted_gets_through(calls in prop::collection::vec(call(), 1..6)) {
        let (runtime, module) = module();
        let machine = Machine::new("machine");
        let limits = Limits { log_burst: 100_000, ..Limits::default() };
        let settings = json!({ "calls": calls });
        let ended = runtime.block_on(async { module.run(machine.call(settings, GRANTS, limits).await).await });
        prop_assert!(ended.is_ok(), "{ended:?}");
        for command in machine.guest.calls() {
            prop_assert!(!command.r#become, "{command:?}");
            prop_assert!(command.check().is_ok(), "{command:?}");
            // A secret stands where it was put, and nowhere that others could see it.
            prop_assert!(!command.argv.iter().chain(&command.cwd).any(|text| text.contains(TOKEN)));
        }
        for (path, file) in machine.guest.files() {
            let name = path.strip_prefix("/srv/");
            prop_assert!(name.is_some_and(|name| !name.contains('/') && !name.is_empty()), "{path:?}");
            prop_assert!(file.mode <= 0o7777);
        }
        for (path, content) in machine.kept() {
            let name = path.strip_prefix("kept/");
            prop_assert!(name.is_some_and(|name| !name.contains('/') && !name.starts_with('.')), "{path:?}");
            prop_assert!(!String::from_utf8_lossy(&content).contains(TOKEN), "{path:?}");
        }
        for line in machine.log.lines() {
            prop_assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            prop_assert!(!line.contains(TOKEN), "{line:?}");
            prop_assert!(line.len() < 16 << 10, "{} bytes", line.len());
        }
    }
}

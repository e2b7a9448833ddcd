//! The table: a row a bad module.

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use farmhand::module::{Engine, Limits, Module, ModuleError};
use serde_json::{Value, json};

use crate::{
    built,
    machine::{Machine, TOKEN},
};

/// A module is given so much more than its limits before it is taken not to have been stopped at all. Generous: tests run on
/// busy machines.
const SLACK: Duration = Duration::from_secs(60);

/// Stands before the end of a module that did what it should not.
const WRONG: &str = "something else is wrong (see above)";

/// How many other machines there are in the run.
const NEIGHBOURS: usize = 3;

/// Tight limits, so that the table is quick.
fn limits() -> Limits {
    Limits {
        cpu_time: Duration::from_millis(300),
        wall_time: Duration::from_secs(30),
        memory: 32 << 20,
        host_call_data: 8 << 20,
        log_burst: 10,
        log_rate: 0,
        artifacts: 5,
        commands: 8,
        ..Limits::default()
    }
}

/// One bad module and what it is given.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    settings: Value,
    grants: &'static str,
    limits: Limits,
    /// How the call has to end: a part of the error's text, or of the outcome's summary.
    expected: &'static str,
    /// What else has to be so.
    check: fn(&Machine),
}

impl Row {
    fn new(name: &'static str, expected: &'static str) -> Self {
        Self::of(name, built::component(name), expected)
    }

    fn of(name: &'static str, bytes: Vec<u8>, expected: &'static str) -> Self {
        Self { name, bytes, settings: json!({}), grants: "{}", limits: limits(), expected, check: |_| {} }
    }

    fn granted(self, grants: &'static str) -> Self {
        Self { grants, ..self }
    }

    fn within(mut self, milliseconds: u64) -> Self {
        self.limits.wall_time = Duration::from_millis(milliseconds);
        self
    }

    fn check(self, check: fn(&Machine)) -> Self {
        Self { check, ..self }
    }
}

const ALL: &str = "{ exec: true, become: true, files: ['/srv/**'], artifacts: true, facts: true }";

/// For those that wait: how long they may.
const WAITS: &str = "was stopped: it took longer than 0.6 s (limit: time-out of the step)";

fn rows() -> Vec<Row> {
    vec![
        Row::new("endless_loop", "was stopped: it computed for longer than 0.3 s (limit: CPU time)"),
        Row::new("endless_description", "was stopped: it computed for longer than 0.3 s (limit: CPU time)"),
        Row::new("endless_calls", "was stopped: it computed for longer than 0.3 s (limit: CPU time)"),
        Row::new("endless_command", WAITS)
            .within(600)
            .granted(ALL)
            .check(|machine| assert_eq!(machine.guest.ended().len(), 1, "the command goes on in the guest")),
        Row::new("endless_sleep", WAITS).within(600),
        Row::new("memory_bomb", "was stopped: it needs more than 32 MiB of memory (limit: memory)"),
        Row::of(
            "table_bomb",
            built::table_bomb(),
            "was stopped: it needs more than 100000 table elements (limit: table elements)",
        ),
        Row::new(
            "stack_overflow",
            "was stopped: its calls nest deeper than 1024 KiB of stack (limit: stack)",
        ),
        Row::new(
            "huge_text",
            "was stopped: one of its calls carried more than 8 MiB (limit: data of a call to the host)",
        ),
        Row::new(
            "huge_list",
            "was stopped: one of its calls carried more than 8 MiB (limit: data of a call to the host)",
        )
        .granted(ALL)
        .check(nothing_was_run),
        Row::new(
            "huge_description",
            "was stopped: one of its calls carried more than 1 MiB (limit: data of a call to the host)",
        ),
        Row::new("huge_summary", "x\nx\nx"),
        Row::new("handle_flood", "was stopped: it holds more than 1000 resources at once (limit: handles)"),
        Row::new("log_flood", "all written").check(|machine| {
            let lines = machine.log.lines();
            assert_eq!(lines.len(), 11, "{lines:#?}");
            assert_eq!(lines[10], "Warn: 4990 lines were dropped (limit: 10 lines at once, 0 a second)");
        }),
        Row {
            limits: Limits { logged_output: 1000, ..limits() },
            ..Row::new("output_flood", "kept 1048576 bytes, left some out: true")
        }
        .granted(ALL)
        .check(|machine| {
            let lines = machine.log.lines();
            assert_eq!(lines.len(), 8, "a line of `y` counts for 129 bytes");
            assert_eq!(lines[7], "Warn: further output is not shown (limit: 1000 bytes in a step)");
        }),
        Row::new("unread_output", WAITS).within(600).granted(ALL),
        Row::new(
            "command_flood",
            "module bad went over a limit: more than 8 commands at once (limit: commands)",
        )
        .granted(ALL)
        .check(|machine| assert_eq!(machine.guest.calls().len(), machine.guest.ended().len())),
        Row::new(
            "artifact_flood",
            "module bad went over a limit: more than 5 artifacts in a step (limit: artifacts)",
        )
        .granted(ALL)
        .check(|machine| assert_eq!(machine.kept().len(), 5)),
        Row::new(
            "file_flood",
            "module bad went over a limit: more than 4 open files at once (limit: open files)",
        )
        .granted(ALL)
        .check(|machine| assert_eq!(machine.guest.files().len(), 1, "what was begun is put in its place")),
        Row {
            limits: Limits { streamed_file_size: 8 << 20, ..limits() },
            ..Row::new(
                "endless_write",
                "/srv/endless would be larger than 8388608 bytes (limit: streamed file size)",
            )
        }
        .granted(ALL)
        .check(nothing_was_run),
        Row::new("unfinished_write", "as it was")
            .granted(ALL)
            .check(|machine| assert_eq!(machine.guest.files()["/srv/file"].content, b"as it was")),
        Row::new("write_after_end", "crashed: unknown handle index")
            .granted(ALL)
            .check(|machine| assert_eq!(machine.guest.files()["/srv/file"].content, b"whole")),
        Row::new("path_escapes", "got through: []").granted(ALL).check(|machine| {
            assert!(machine.kept().is_empty() && machine.guest.files().is_empty());
        }),
        Row::new("control_codes", "abcd").granted(ALL).check(|machine| {
            for line in machine.log.lines() {
                assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            }
        }),
        Row::new("control_codes_in_description", "describes itself wrongly: its name must be"),
        Row::new("control_codes_in_request", "describes itself wrongly: it asks for files `/x"),
        Row::new("secret_fisher", "TOKEN=*** ***")
            .granted("{ exec: true, files: ['/srv/*'], secrets: [TOKEN], artifacts: true }")
            .check(|machine| {
                assert_eq!(machine.guest.files()["/srv/token"].content, TOKEN.as_bytes(), "it arrived");
                let seen = machine.log.lines().join("\n");
                assert!(!seen.contains(TOKEN), "{seen}");
                let kept = machine.kept();
                assert_eq!(kept.len(), 2);
                for (name, content) in kept {
                    assert!(!String::from_utf8_lossy(&content).contains(TOKEN), "{name}");
                }
            }),
        Row::new("secret_finder", "it was TOKEN=*** *** ")
            .granted("{ exec: true, files: ['/srv/*'], artifacts: true }")
            .check(|machine| {
                let seen = machine.log.lines().join("\n");
                assert_eq!(seen, "Stdout: TOKEN=***\nInfo: TOKEN=*** *** \nProgress: TOKEN=*** ***  None");
                let kept = machine.kept();
                assert_eq!(kept.len(), 2);
                for (name, content) in kept {
                    assert!(!String::from_utf8_lossy(&content).contains(TOKEN), "{name}");
                }
            }),
        Row::new("wasi_fisher", "found: []").granted(ALL).check(|machine| {
            assert!(nothing_was_run_on(machine), "{:?}", machine.guest.calls());
            let lines = machine.log.lines();
            assert_eq!(lines.len(), 11, "{lines:#?}");
            assert_eq!(lines[9], "Info: line 9 on standard output");
            // The last words came after the log was full: they are among those that were dropped.
            assert_eq!(lines[10], "Warn: 991 lines were dropped (limit: 10 lines at once, 0 a second)");
        }),
        Row::new("trap_then_reuse", "it began afresh"),
        Row {
            settings: json!({ "crash": true }),
            ..Row::new("trap_then_reuse", "crashed: wasm trap: wasm `unreachable` instruction executed")
        },
        Row::new("forged_name", "module debian-apt asks for what it was not granted").check(nothing_was_run),
        Row::new("endless_schema", "describes itself wrongly: its settings' schema is not valid"),
        Row::new("explosive_schema", "describes itself wrongly: its settings' schema is not valid"),
        Row::of("core module", wat::parse_str("(module)").unwrap(), "is a core WebAssembly module"),
        Row::of("text", b"#!/bin/sh\nrm -rf /\n".to_vec(), "is not valid"),
        Row::of("empty file", Vec::new(), "is not valid"),
        Row::of("deep nesting", built::nesting_bomb(), "is not valid"),
        Row::of("deep types", built::deep_types(), "is not valid"),
        Row {
            limits: Limits { compile_time: Duration::from_millis(1), ..limits() },
            ..Row::of(
                "compile_bomb",
                built::compile_bomb(),
                "was stopped: compiling it took longer than 0.001 s (limit: compile time)",
            )
        },
        Row {
            limits: Limits { compile_memory: 16 << 20, ..limits() },
            ..Row::of(
                "compile_bomb",
                built::compile_bomb(),
                "was stopped: compiling it takes more than 16 MiB (limit: compile memory)",
            )
        },
        Row {
            limits: Limits { module_size: 10_000, ..limits() },
            ..Row::of(
                "large file",
                built::component("neighbour"),
                "its file is larger than 10000 bytes (limit: module size)",
            )
        },
        Row {
            limits: Limits { function_size: 1000, ..limits() },
            ..Row::of(
                "large function",
                built::component("neighbour"),
                "one of its functions is larger than 1000 bytes (limit: function size)",
            )
        },
        Row {
            limits: Limits { instances: 1, ..limits() },
            ..Row::of(
                "many instances",
                built::component("neighbour"),
                "it has more than 1 core instances, tables or memories (limit: instances)",
            )
        },
    ]
}

fn nothing_was_run_on(machine: &Machine) -> bool {
    machine.guest.calls().is_empty() && machine.guest.files().is_empty()
}

fn nothing_was_run(machine: &Machine) {
    assert!(nothing_was_run_on(machine), "{:?}", machine.guest.calls());
}

/// A run's runtime is like the program's.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .event_interval(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn each_is_stopped_and_its_neighbours_go_on() {
    let runtime = runtime();
    let engine = Engine::new(None, Limits::default()).unwrap();
    let neighbour = runtime.block_on(engine.load_bytes("neighbour.wasm", built::component("neighbour")));
    let neighbour = Arc::new(neighbour.unwrap());
    let mut table = format!(
        "{:<30} {:>10} {:>10} {:>10}  {}\n",
        "module", "stopped", "neighbours", "slowest", "as expected"
    );
    let mut wrong = Vec::new();
    for row in rows() {
        let (ended, took, neighbours) = runtime.block_on(with_neighbours(&row, &neighbour));
        let is_plain = !ended.contains(|c: char| c.is_control() && c != '\n');
        let is_right = ended.contains(row.expected) && !ended.starts_with(WRONG) && is_plain;
        let well = neighbours.iter().filter(|(outcome, _)| outcome == "counted to 49").count();
        let slowest = neighbours.iter().map(|(_, took)| *took).max().unwrap_or_default();
        let first: String = ended.lines().next().unwrap_or_default().chars().take(110).collect();
        let _ = writeln!(
            table,
            "{:<30} {:>7} ms {:>7}/{} {:>7} ms  {} {first}",
            row.name,
            took.as_millis(),
            well,
            neighbours.len(),
            slowest.as_millis(),
            if is_right { "yes:" } else { "NO:" },
        );
        if !is_right {
            wrong.push(format!("{}: expected `{}`, was `{ended}`", row.name, row.expected));
        }
        if well < neighbours.len() || neighbours.len() < NEIGHBOURS {
            wrong.push(format!("{}: its neighbours were harmed: {neighbours:?}", row.name));
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
}

/// Runs a bad module on its machine while good ones are run on others, again and again until the bad one has ended. Gives how
/// it ended, after which time, and how the neighbours' calls ended and how long each took.
async fn with_neighbours(row: &Row, neighbour: &Arc<Module>) -> (String, Duration, Vec<(String, Duration)>) {
    let ended = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(tokio::sync::Barrier::new(NEIGHBOURS + 1));
    let neighbours: Vec<_> = (0..NEIGHBOURS)
        .map(|number| {
            let (neighbour, ended, begun) = (neighbour.clone(), ended.clone(), begun.clone());
            tokio::spawn(async move {
                let machine = Machine::new(&format!("neighbour-{number}"));
                let grants = "{ exec: true, files: ['/srv/*'] }";
                begun.wait().await;
                let mut calls = Vec::new();
                // At least one after the bad one's end.
                loop {
                    let last = ended.load(Ordering::Relaxed);
                    let call = machine.call(json!({}), grants, Limits::default()).await;
                    let since = Instant::now();
                    calls.push((in_words(neighbour.run(call).await), since.elapsed()));
                    if last {
                        return calls;
                    }
                }
            })
        })
        .collect();
    begun.wait().await;
    let machine = Machine::new("bad");
    let since = Instant::now();
    let program = env!("CARGO_BIN_EXE_farmhand").into();
    let engine = Engine::with_compiler(None, row.limits.clone(), program).unwrap();
    let work = async {
        let module = engine.load_bytes("bad.wasm", row.bytes.clone()).await?;
        if row.name == "trap_then_reuse" {
            // Once before, so that there would be something to find.
            let crash = machine.call(json!({ "crash": true }), row.grants, row.limits.clone()).await;
            let crashed = module.run(crash).await;
            assert!(matches!(crashed, Err(ModuleError::Trapped { .. })), "{crashed:?}");
        }
        module.run(machine.call(row.settings.clone(), row.grants, row.limits.clone()).await).await
    };
    let limit = row.limits.wall_time + row.limits.cpu_time + SLACK;
    let result = tokio::time::timeout(limit, work).await;
    let took = since.elapsed();
    ended.store(true, Ordering::Relaxed);
    let mut calls = Vec::new();
    for neighbour in neighbours {
        calls.extend(neighbour.await.unwrap());
    }
    let text = match result {
        Err(_) => format!("was not stopped within {} s", limit.as_secs()),
        Ok(result) => in_words(result),
    };
    // A command that is ended by being dropped is told so a moment later.
    tokio::task::yield_now().await;
    let checked = std::panic::catch_unwind(AssertUnwindSafe(|| (row.check)(&machine)));
    let text = if checked.is_ok() { text } else { format!("{WRONG}, and {text}") };
    (text, took, calls)
}

fn in_words(result: Result<farmhand::module::Outcome, ModuleError>) -> String {
    match result {
        Ok(outcome) => outcome.summary,
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_bad_module_has_a_row() {
    let rows = rows();
    for name in built::names() {
        let is_known = ["neighbour", "any_call"].contains(&name.as_str()) || name.starts_with("released_");
        assert!(is_known || rows.iter().any(|row| row.name == name), "{name} has no row in the table");
    }
}

/// Whatever is in a file: it is refused, or it is a module that can be called.
#[test]
fn damaged_files_are_refused_or_stopped() {
    let runtime = runtime();
    let limits = Limits { log_burst: 1000, ..limits() };
    let engine = Engine::new(None, limits.clone()).unwrap();
    let (mut refused, mut called) = (0, 0);
    for bytes in built::truncated().into_iter().chain(built::corrupted()) {
        runtime.block_on(async {
            match engine.load_bytes("damaged.wasm", bytes).await {
                Err(_) => refused += 1,
                Ok(module) => {
                    let machine = Machine::new("damaged");
                    let call = machine.call(json!({}), ALL, limits.clone()).await;
                    let _either = module.run(call).await;
                    called += 1;
                }
            }
        });
    }
    println!("{refused} damaged files were refused, {called} were called");
    assert!(refused >= 100, "cut files are never modules");
}

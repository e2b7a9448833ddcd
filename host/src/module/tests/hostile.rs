//! Modules that want what they should not have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::support::*;
use crate::module::*;

fn is_limit(error: &ModuleError, limit: LimitHit) -> bool {
    matches!(error, ModuleError::Limit { limit: hit, .. } if *hit == limit)
}

fn short() -> Limits {
    Limits { cpu_time: Duration::from_millis(50), ..Limits::default() }
}

#[tokio::test]
async fn an_endless_loop_is_stopped_and_others_go_on() {
    let module = wat("(loop $l br $l) unreachable").load().await.unwrap();
    // One thread for both: the loop must give way for the other task to see its end.
    let ended = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let ended = ended.clone();
        async move {
            let mut turns = 0u32;
            while !ended.load(Ordering::Relaxed) {
                turns += 1;
                tokio::task::yield_now().await;
            }
            turns
        }
    });
    let error = module.run(Call { limits: short(), ..call() }).await.unwrap_err();
    ended.store(true, Ordering::Relaxed);
    assert!(is_limit(&error, LimitHit::CpuTime(short().cpu_time)), "{error}");
    assert_eq!(
        error.to_string(),
        "module test was stopped: it computed for longer than 0.05 s (limit: CPU time)"
    );
    assert_eq!(error.blame(), Blame::Module);
    assert!(other.await.unwrap() > 1, "the other task stood still");
}

#[tokio::test]
async fn an_endless_description_is_stopped() {
    let module = Wat { describe: "(loop $l br $l)".to_owned(), ..wat("i32.const 64") };
    let engine = Engine::new(None, short()).unwrap();
    let error = engine.load_bytes("test.wasm", module.component()).await.unwrap_err();
    assert!(is_limit(&error, LimitHit::CpuTime(short().cpu_time)), "{error}");
}

#[tokio::test]
async fn memory_is_limited() {
    let module = wat("(loop $l i32.const 16 memory.grow drop br $l) unreachable").load().await.unwrap();
    let limits = Limits { memory: 8 << 20, ..Limits::default() };
    let error = module.run(Call { limits, ..call() }).await.unwrap_err();
    assert!(is_limit(&error, LimitHit::Memory(8 << 20)), "{error}");
}

#[tokio::test]
async fn tables_are_limited() {
    let module = Wat {
        more: "(table $t 1 funcref)".to_owned(),
        ..wat("ref.null func i32.const 1000000 table.grow $t drop unreachable")
    };
    let error = module.load().await.unwrap().run(call()).await.unwrap_err();
    assert!(is_limit(&error, LimitHit::TableElements(Limits::default().table_elements)), "{error}");
}

#[tokio::test]
async fn the_stack_is_limited() {
    let module = Wat { more: "(func $f call $f)".to_owned(), ..wat("call $f unreachable") };
    let error = module.load().await.unwrap().run(call()).await.unwrap_err();
    assert!(is_limit(&error, LimitHit::Stack(1 << 20)), "{error}");
}

#[tokio::test]
async fn data_of_a_call_is_limited() {
    let grow = "i32.const 1024 memory.grow drop";
    let module = wat(&format!("{grow} i32.const 1 i32.const 0 i32.const 50000000 call $log unreachable"));
    let error = module.load().await.unwrap().run(call()).await.unwrap_err();
    assert!(is_limit(&error, LimitHit::HostCallData(Limits::default().host_call_data)), "{error}");
}

#[tokio::test]
async fn a_crash_tells_the_last_words() {
    let module = Wat {
        more: r#"(data (i32.const 200) "panicked: no such thing\1b[2J")"#.to_owned(),
        ..wat("i32.const 3 i32.const 200 i32.const 27 call $log unreachable")
    };
    let error = module.load().await.unwrap().run(call()).await.unwrap_err();
    assert!(matches!(&error, ModuleError::Trapped { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "module test crashed: wasm trap: wasm `unreachable` instruction executed; its last words: panicked: no such thing"
    );
}

#[tokio::test]
async fn other_imports_are_refused_by_name() {
    let wasi = wat::parse_str(r#"(component (import "wasi:http/types@0.2.0" (instance)))"#).unwrap();
    let error = engine().load_bytes("x.wasm", wasi).await.unwrap_err();
    assert!(
        matches!(&error, ModuleError::WrongImports { imports, .. } if imports == "`wasi:http/types@0.2.0`")
    );

    let newer = wat::parse_str(r#"(component (import "farmhand:phase/log@0.2.0" (instance)))"#).unwrap();
    let error = engine().load_bytes("x.wasm", newer).await.unwrap_err();
    assert!(matches!(error, ModuleError::WrongImports { .. }));
}

#[tokio::test]
async fn what_is_no_phase_module_is_refused() {
    let core = wat::parse_str("(module)").unwrap();
    let error = engine().load_bytes("core.wasm", core).await.unwrap_err();
    assert!(matches!(error, ModuleError::NotAComponent { .. }), "{error}");

    let empty = wat::parse_str("(component)").unwrap();
    let error = engine().load_bytes("empty.wasm", empty).await.unwrap_err();
    assert!(matches!(error, ModuleError::NotAPhaseModule { .. }), "{error}");

    let error = engine().load_bytes("text.wasm", b"#!/bin/sh\n".to_vec()).await.unwrap_err();
    assert!(matches!(error, ModuleError::Invalid { .. }), "{error}");

    let error = engine().load("/nonexistent/x.wasm".into()).await.unwrap_err();
    assert!(matches!(&error, ModuleError::Read { .. }) && error.to_string().contains("/nonexistent/x.wasm"));
}

#[tokio::test]
async fn truncated_files_are_refused() {
    let whole = wat("i32.const 64").component();
    assert!(engine().load_bytes("whole.wasm", whole.clone()).await.is_ok());
    for length in (0..whole.len()).step_by(97) {
        let error = engine().load_bytes("cut.wasm", whole[..length].to_vec()).await.unwrap_err();
        let refused = matches!(error, ModuleError::Invalid { .. } | ModuleError::NotAPhaseModule { .. });
        assert!(refused, "{length}: {error}");
    }
}

/// wasmtime's decoder would take 25 s and 8 GB for this one.
#[tokio::test]
async fn a_deeply_nested_component_is_refused() {
    let mut bytes = wat::parse_str("(component)").unwrap();
    for _ in 0..20_000 {
        bytes = nest(4, &bytes);
    }
    let error = engine().load_bytes("bomb.wasm", bytes).await.unwrap_err();
    assert!(matches!(error, ModuleError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn large_files_and_functions_are_refused() {
    let nops = "nop ".repeat(10_000);
    let component = wat(&format!("{nops} i32.const 64")).component();
    let whats = |error| match error {
        ModuleError::TooLarge { what, .. } => what,
        other => panic!("{other}"),
    };
    let engine = Engine::new(None, Limits { module_size: 5000, ..Limits::default() }).unwrap();
    assert_eq!(whats(engine.load_bytes("large.wasm", component.clone()).await.unwrap_err()), "its file");
    let engine = Engine::new(None, Limits { function_size: 5000, ..Limits::default() }).unwrap();
    assert_eq!(
        whats(engine.load_bytes("large.wasm", component.clone()).await.unwrap_err()),
        "one of its functions"
    );
}

#[tokio::test]
async fn features_that_are_off_are_refused() {
    for more in ["(memory $second 1)", "(memory i64 1)", "(memory $shared 1 1 shared)"] {
        let core = wat::parse_str(format!("(module {more} (memory $m 1))")).unwrap();
        let error = engine().load_bytes("x.wasm", component_of(&core)).await.unwrap_err();
        assert!(matches!(error, ModuleError::Invalid { .. }), "{more}: {error}");
    }
}

/// A component that holds a core module and nothing else.
fn component_of(core: &[u8]) -> Vec<u8> {
    nest(1, core)
}

/// A component with one section.
fn nest(section: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0, section];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

#[tokio::test]
async fn false_descriptions_are_refused() {
    let whats = [
        Wat { name: "Test".to_owned(), ..wat("i32.const 64") },
        Wat { name: "a/../b".to_owned(), ..wat("i32.const 64") },
        Wat { name: "x".repeat(65), ..wat("i32.const 64") },
        Wat { version: "1".to_owned(), ..wat("i32.const 64") },
        Wat { provides: vec!["\x1b[31m".to_owned()], ..wat("i32.const 64") },
        Wat { provides: vec!["p".to_owned(); 17], ..wat("i32.const 64") },
        Wat { platforms: vec!["[".to_owned()], ..wat("i32.const 64") },
        Wat { platforms: vec![String::new()], ..wat("i32.const 64") },
        Wat { schema: "{".to_owned(), ..wat("i32.const 64") },
        Wat { schema: "true".to_owned(), ..wat("i32.const 64") },
        Wat { schema: r#"{"type": "text"}"#.to_owned(), ..wat("i32.const 64") },
        Wat { schema: r#"{"$ref": "http://example.com/schema"}"#.to_owned(), ..wat("i32.const 64") },
        Wat { schema: r#"{"$ref": "file:///etc/passwd"}"#.to_owned(), ..wat("i32.const 64") },
    ];
    for what in whats {
        let loaded = what.load().await;
        let error = loaded.map(|_| ()).expect_err(&format!("{} {}", what.name, what.schema));
        assert!(matches!(error, ModuleError::Descriptor { .. }), "{error}");
        assert!(!error.to_string().contains('\x1b'));
    }
}

//! What becomes of a compiler that does not do its work. That farmhand's own does it, within its bounds, is seen by
//! `tests/cli` and `tests/hostile`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::support::*;
use crate::module::*;

/// A program that does this instead of compiling. Written by another process: one that still had it open could not run it.
fn program(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("compiler");
    let write = r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod +x "$1""#;
    let status =
        std::process::Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(text).status().unwrap();
    assert!(status.success());
    path
}

async fn compile_with(text: &str, limits: Limits) -> ModuleError {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::with_compiler(None, limits, program(folder.path(), text)).unwrap();
    engine.load_bytes("x.wasm", wat("i32.const 64").component()).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_compiler_that_does_not_end_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process");
    let limit = Duration::from_secs(1);
    let text = format!("echo $$ >'{}'; exec sleep 1000", path.display());
    let error = compile_with(&text, Limits { compile_time: limit, ..Limits::default() }).await;
    assert!(
        matches!(error, ModuleError::Limit { limit: LimitHit::CompileTime(hit), .. } if hit == limit),
        "{error}"
    );
    let process = std::fs::read_to_string(path).unwrap();
    let status = format!("/proc/{}/status", process.trim());
    // It is killed by being dropped; the system takes a moment.
    let is_there =
        || std::fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ (zombie)"));
    for _ in 0..500 {
        if !is_there() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{process} is still there");
}

#[tokio::test]
async fn a_compiler_that_fails_is_told_of() {
    let error = compile_with("cat >/dev/null; kill -SEGV $$", Limits::default()).await;
    assert!(matches!(&error, ModuleError::Host { message, .. } if message.contains("signal: 11")), "{error}");
    let error = compile_with("cat >/dev/null; echo 'no good' >&2; exit 1", Limits::default()).await;
    assert!(matches!(&error, ModuleError::Invalid { message, .. } if message == "no good"), "{error}");
    // What is not wasmtime's own is not run.
    let error = compile_with("cat", Limits::default()).await;
    assert!(matches!(error, ModuleError::Invalid { .. }), "{error}");
    let missing = Engine::with_compiler(None, Limits::default(), "/nonexistent".into()).unwrap();
    let error = missing.load_bytes("x.wasm", wat("i32.const 64").component()).await.unwrap_err();
    assert!(matches!(error, ModuleError::Host { .. }), "{error}");
}

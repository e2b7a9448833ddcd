//! Compiles modules. Cranelift can be made to take minutes and gigabytes; so it runs in a process of its own, in which memory
//! is bounded, and which is killed when its time is over.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    engine,
    error::{LimitHit, ModuleError},
    limits::Limits,
    text,
};

/// Set for a process that is to compile: to [`Limits::stack`], the only limit that the code depends on.
const STACK: &str = "FARMHAND_COMPILE_WITH_STACK";

/// Compiles a module from standard input to standard output, if this process was started for that by an [`Engine`](super::Engine).
pub fn compile_as_child() -> Option<ExitCode> {
    let stack = std::env::var(STACK).ok()?.parse().ok()?;
    Some(match compile(&Limits { stack, ..Limits::default() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn compile(limits: &Limits) -> wasmtime::Result<()> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let code = wasmtime::Engine::new(&engine::config(limits))?.precompile_component(&bytes)?;
    Ok(io::stdout().write_all(&code)?)
}

/// Has a program compile, which is farmhand itself: its `main` begins with [`compile_as_child`]. Gives the code.
pub(super) async fn in_child(
    program: &Path,
    module: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, ModuleError> {
    let limit = |limit| ModuleError::Limit { module: module.to_owned(), limit };
    let failed = |error: io::Error| host(module, &format!("the compiler can't be run: {error}"));
    let mut command = Command::new(program);
    command.env(STACK, limits.stack.to_string()).kill_on_drop(true);
    // Where there is no memory left, there is none for a backtrace.
    command.env("RUST_BACKTRACE", "0");
    // Ctrl-C is for farmhand, which then lets go of it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    // It does nothing before it has read its input.
    bound(child.id(), limits).map_err(failed)?;
    let input = child.stdin.take();
    let write = async {
        if let Some(mut input) = input {
            // One that is gone says why in its end.
            let _ = input.write_all(bytes).await;
        }
    };
    let work = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(limits.compile_time, work).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => return Err(limit(LimitHit::CompileTime(limits.compile_time))),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if ["memory allocation of", "annot allocate memory"].iter().any(|text| said.contains(text)) {
        return Err(limit(LimitHit::CompileMemory(limits.compile_memory)));
    }
    let words = text::one_line(&said, 500);
    Err(match output.status.code() {
        Some(1) => ModuleError::Invalid { module: module.to_owned(), message: words },
        _ => host(module, &format!("the compiler crashed ({}): {words}", output.status)),
    })
}

/// Bounds a process that compiles: its memory; and its CPU time, should nobody be left to kill it.
fn bound(child: Option<u32>, limits: &Limits) -> io::Result<()> {
    let child = child.and_then(|id| Pid::from_raw(id.cast_signed()));
    // Without one, it would be this process that is bounded.
    let child = child.ok_or_else(|| io::Error::other("it has no process id"))?;
    let bound = |resource, value: u64| {
        // Who is bounded already can't be given more.
        let value = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
        prlimit(Some(child), resource, Rlimit { current: Some(value), maximum: Some(value) })
    };
    bound(Resource::Data, limits.compile_memory as u64)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds = limits.compile_time.max(Duration::from_secs(1)).as_secs();
    bound(Resource::Cpu, seconds.saturating_mul(threads as u64))?;
    Ok(())
}

fn host(module: &str, message: &str) -> ModuleError {
    ModuleError::Host { module: module.to_owned(), message: message.to_owned() }
}

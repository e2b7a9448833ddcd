//! WASI 0.2 for components that compilers tie to it: it is linked, and grants nothing. There are no files, arguments,
//! variables, sockets; the clock stands still and random numbers are always the same, so that they are no inputs either.
//! Lines of standard output and error go to the log.

use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    p2::pipe::MemoryOutputPipe, random::Deterministic,
};

use super::{call::Level, state::State};

/// What is kept of each of the two streams.
const MAX_OUTPUT: usize = 256 << 10;

/// The packages of WASI 0.2 that are linked.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Whether an import is one of WASI's that are linked.
pub(super) fn has(import: &str) -> bool {
    let of_version = import.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."));
    of_version && PACKAGES.iter().any(|package| import.starts_with(package))
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// WASI's side of a call.
pub(super) struct Wasi {
    context: WasiCtx,
    stdout: MemoryOutputPipe,
    stderr: MemoryOutputPipe,
}

impl Wasi {
    pub(super) fn new() -> Self {
        let (stdout, stderr) = (MemoryOutputPipe::new(MAX_OUTPUT), MemoryOutputPipe::new(MAX_OUTPUT));
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .secure_random(Deterministic::new(vec![0x5a]))
            .insecure_random(Deterministic::new(vec![0x5a]))
            .insecure_random_seed(0x5a)
            .wall_clock(Still)
            .monotonic_clock(Still);
        Self { context: builder.build(), stdout, stderr }
    }

    /// What was written since the last time, line by line.
    pub(super) fn take_lines(&mut self) -> Vec<(Level, String)> {
        let lines = |level, pipe: &MemoryOutputPipe| {
            let text = String::from_utf8_lossy(&pipe.contents()).into_owned();
            text.lines().map(|line| (level, line.to_owned())).collect::<Vec<_>>()
        };
        let mut taken = lines(Level::Info, &self.stdout);
        taken.extend(lines(Level::Warn, &self.stderr));
        taken
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi.context, table: &mut self.table }
    }
}

/// A clock that stands still.
struct Still;

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

//! WASI 0.2 for components that compilers tie to it: it is linked, and grants nothing. There are no files, arguments,
//! variables, sockets; the clock stands still and random numbers are always the same, so that they are no inputs either.
//! Lines of standard output and error go to the log.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::Linker;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
    random::Deterministic,
};

use super::{call::Level, capability::LogGate, state::State, text::Lines};

/// What is taken from a stream at once.
const MAX_WRITE: usize = 64 << 10;
/// The most random numbers that are given at once, in bytes.
const MAX_RANDOM: u64 = 1 << 20;

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
    streams: [LogStream; 2],
}

impl Wasi {
    /// Standard output and error go to `log`, line by line.
    pub(super) fn new(log: &LogGate) -> Self {
        let (stdout, stderr) = (LogStream::new(Level::Info, log), LogStream::new(Level::Warn, log));
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(MAX_RANDOM)
            .secure_random(Deterministic::new(vec![0x5a]))
            .insecure_random(Deterministic::new(vec![0x5a]))
            .insecure_random_seed(0x5a)
            .wall_clock(Still)
            .monotonic_clock(Still);
        Self { context: builder.build(), streams: [stdout, stderr] }
    }

    /// Gives what came after the last line ends.
    pub(super) fn finish(&self) {
        for stream in &self.streams {
            let Inner { lines, log } = &mut *stream.inner();
            lines.finish(|line| log.write(stream.level, line, &[]));
        }
    }
}

/// Lines of a stream, on their way to the log. Whatever is written is taken: the log has a limit of its own.
#[derive(Clone)]
struct LogStream {
    level: Level,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    lines: Lines,
    log: LogGate,
}

impl LogStream {
    fn new(level: Level, log: &LogGate) -> Self {
        Self { level, inner: Arc::new(Mutex::new(Inner { lines: Lines::default(), log: log.clone() })) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: &[u8]) {
        let Inner { lines, log } = &mut *self.inner();
        lines.push(bytes, |line| log.write(self.level, line, &[]));
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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

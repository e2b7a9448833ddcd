//! What an interruption does: the first ends a run gently, the second ends this process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a program that SIGINT ended, as shells have it: 128 + 2.
pub(super) const INTERRUPTED: u8 = 130;

/// Gives a token that is cancelled by the first SIGINT (Ctrl-C), SIGTERM or SIGHUP. The second one ends the process; what it
/// leaves behind is what the next run continues from.
pub(super) fn stop_at_signal() -> std::io::Result<CancellationToken> {
    let mut signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hang_up: signal(SignalKind::hangup())?,
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        token.cancel();
        signals.next().await;
        std::process::exit(INTERRUPTED.into());
    });
    Ok(stop)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

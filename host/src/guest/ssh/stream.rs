//! The stream of a connection: it tells when the first byte comes, and ends when its owner lets go of it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// What carries a connection: a TCP stream, or a client that forwards to one.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// See the module. russh reads and writes it in a task of its own, which otherwise would outlive an attempt that is given up.
pub(super) struct WatchedStream {
    stream: Box<dyn Carrier>,
    first_byte: Option<oneshot::Sender<()>>,
    owner: oneshot::Receiver<Infallible>,
}

/// Keeps a [`WatchedStream`] open. Dropping it ends the stream.
pub(super) struct KeepOpen(
    #[expect(dead_code, reason = "dropping it is what counts")] oneshot::Sender<Infallible>,
);

impl WatchedStream {
    /// Watches `stream`. The receiver gets a message when the first byte comes.
    pub(super) fn new(stream: Box<dyn Carrier>) -> (Self, oneshot::Receiver<()>, KeepOpen) {
        let (first_byte, watched) = oneshot::channel();
        let (keep, owner) = oneshot::channel();
        (Self { stream, first_byte: Some(first_byte), owner }, watched, KeepOpen(keep))
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.owner.is_terminated() || Pin::new(&mut self.owner).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before
            && let Some(first_byte) = self.first_byte.take()
        {
            // Nobody may be waiting for it any more.
            let _ = first_byte.send(());
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! A connection that another host forwards: the standard input and output of an OpenSSH client.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    process::{ExitStatus, Stdio},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Join, ReadBuf},
    process::{ChildStdin, ChildStdout, Command},
    sync::oneshot,
    time::timeout,
};

use crate::guest::{Jump, capture::one_line};

/// How much is kept of what the client says about its failure.
const WORDS: u64 = 4096;
/// How long its own end and its words are waited for when the connection has ended.
const WORDS_LIMIT: Duration = Duration::from_millis(500);

/// The client's ends of the connection. Dropping it ends the client.
pub(super) struct Through {
    _keep: oneshot::Sender<Infallible>,
    pipes: Join<ChildStdout, ChildStdin>,
}

/// What the client says when it fails.
pub(super) struct Complaint(oneshot::Receiver<(Option<ExitStatus>, Vec<u8>)>);

impl Complaint {
    /// The client's last line; `None` when it says nothing, or when it did what it was to do: then the guest ended the
    /// connection, and what was said on the way (banners, warnings) is not why.
    pub(super) async fn words(self) -> Option<String> {
        let (status, said) = timeout(2 * WORDS_LIMIT, self.0).await.ok()?.ok()?;
        if status.is_some_and(|status| status.success()) {
            return None;
        }
        let text = String::from_utf8_lossy(&said);
        let last = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(one_line(last.as_bytes()))
    }
}

/// Starts a client that connects to a port of a guest.
pub(super) fn connect(jump: &Jump, host: &str, port: u16) -> io::Result<(Through, Complaint)> {
    let words = jump.command_line(host, port);
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut client = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("can't start {}: {error}", program.display()))
        })?;
    let pipes = client.stdout.take().zip(client.stdin.take()).zip(client.stderr.take());
    let ((stdout, stdin), stderr) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
    let (said, complaint) = oneshot::channel();
    let (keep, owner) = oneshot::channel();
    tokio::spawn(async move {
        let mut words = Vec::new();
        let status = {
            let mut ended = pin!(async {
                // What can't be read of it is only less to tell.
                let _ = stderr.take(WORDS).read_to_end(&mut words).await;
                client.wait().await.ok()
            });
            tokio::select! {
                status = &mut ended => status,
                _ = owner => timeout(WORDS_LIMIT, ended).await.ok().flatten(),
            }
        };
        let _ = said.send((status, words));
    });
    let pipes = tokio::io::join(stdout, stdin);
    Ok((Through { _keep: keep, pipes }, Complaint(complaint)))
}

impl AsyncRead for Through {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Through {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_shutdown(cx)
    }
}

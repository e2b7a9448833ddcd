use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures::task::AtomicWaker;
use tokio::{sync::Notify, task::AbortHandle};

use super::{Told, exec, misfit, output::Capture};
use crate::{
    guest::{Exit, OutputSink, Stream},
    module::{
        bindings::farmhand::phase::guest as wit,
        state::{Lent, State},
        transcript::{Answer, CallError, GuestCall},
    },
};

/// While so many bytes wait for the module, the command is held up.
const WAITING: usize = 256 << 10;
/// The largest piece that is given at once.
const PIECE: usize = 64 << 10;

/// Starts a command for a module. Needs what `exec` needs.
pub(super) fn start(state: &mut State, lent: &Lent, command: wit::Command) -> Told<Process> {
    let admitted = exec::admit(state, &command)?;
    let open = Open::new(&state.commands, state.limits.commands)?;
    let queue = Arc::new(Queue::default());
    let (guest, noted) = match lent {
        Lent::Answered(answers) => {
            queue.play(answers.answer(&GuestCall::Exec((&command).into())));
            return Ok(Process { queue, task: None, _open: open });
        }
        Lent::Live { guest, notes } => (guest.clone(), notes.call(|| GuestCall::Exec((&command).into()))),
    };
    let mut sink = Sink { capture: Capture::new(state, command.log_output), queue: queue.clone() };
    let task = tokio::spawn({
        let queue = queue.clone();
        async move {
            let ended = {
                let work = pin!(guest.exec(&admitted, &mut sink));
                queue.hold_up(work).await
            };
            for (stream, rest) in sink.capture.finish() {
                queue.push(stream, &rest);
            }
            let end = ended.as_ref().map(Clone::clone).map_err(super::told);
            noted.answer(&exec::ended_with(ended, &mut sink.capture));
            queue.end(end);
        }
    });
    Ok(Process { queue, task: Some(task.abort_handle()), _open: open })
}

/// A command that runs while the module goes on. Dropped, it is ended.
#[allow(unreachable_pub)] // The bindings re-export it.
pub struct Process {
    queue: Arc<Queue>,
    task: Option<AbortHandle>,
    _open: Open,
}

impl Process {
    pub(super) async fn next(&mut self) -> Told<wit::Event> {
        loop {
            let came = self.queue.came.notified();
            if let Some(event) = self.queue.take() {
                return event;
            }
            came.await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Counts a command as open until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>, limit: usize) -> Told<Self> {
        let more = |open: usize| (open < limit).then_some(open + 1);
        match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self(count.clone())),
            Err(_) => Err(wit::GuestError::LimitExceeded(format!(
                "more than {limit} commands at once (limit: commands)"
            ))),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What came from a command and was not taken yet.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    came: Notify,
    taken: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
    end: Option<Result<Exit, CallError>>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        state.bytes += bytes.len();
        state.pieces.extend(bytes.chunks(PIECE).map(|piece| (stream, piece.to_vec())));
        drop(state);
        self.came.notify_one();
    }

    fn end(&self, end: Result<Exit, CallError>) {
        self.state().end = Some(end);
        self.came.notify_one();
    }

    fn play(&self, answer: Answer) {
        match answer {
            Answer::Ended { exit, stdout, stderr, .. } => {
                self.push(Stream::Stdout, &stdout.0);
                self.push(Stream::Stderr, &stderr.0);
                self.end(Ok(exit));
            }
            Answer::Failed(error) => self.end(Err(error)),
            Answer::Done | Answer::Content(_) => self.end(Err(CallError::Other(format!("{:?}", misfit())))),
        }
    }

    /// The next piece; the end when there is none; nothing yet.
    fn take(&self) -> Option<Told<wit::Event>> {
        let mut state = self.state();
        if let Some((stream, piece)) = state.pieces.pop_front() {
            state.bytes -= piece.len();
            drop(state);
            self.taken.wake();
            return Some(Ok(match stream {
                Stream::Stdout => wit::Event::Stdout(piece),
                Stream::Stderr => wit::Event::Stderr(piece),
            }));
        }
        let end = state.end.clone()?;
        Some(end.map(|exit| wit::Event::Exited(exit.into())).map_err(Into::into))
    }

    fn is_full(&self) -> bool {
        self.state().bytes >= WAITING
    }

    /// Goes on with a command's work only while the queue is not full. What is not read from the guest's connection is held
    /// up by its flow control.
    async fn hold_up<T>(&self, mut work: std::pin::Pin<&mut (impl Future<Output = T> + Send)>) -> T {
        poll_fn(|context| {
            if self.is_full() {
                self.taken.register(context.waker());
                if self.is_full() {
                    return Poll::Pending;
                }
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

struct Sink {
    capture: Capture,
    queue: Arc<Queue>,
}

impl OutputSink for Sink {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        let seen = self.capture.take(stream, chunk);
        if !seen.is_empty() {
            self.queue.push(stream, &seen);
        }
    }
}

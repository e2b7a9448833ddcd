use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures::task::AtomicWaker;
use tokio::sync::Notify;

use super::Told;
use crate::module::bindings::farmhand::phase::guest as wit;

/// While so many bytes wait for the module, the guest is held up.
const WAITING: usize = 256 << 10;
/// The largest piece that is given at once.
pub(super) const PIECE: usize = 64 << 10;

/// What came from the guest and was not taken yet: pieces, each with its tag, and then the end.
pub(super) struct Queue<T, E> {
    state: Mutex<Waiting<T, E>>,
    came: Notify,
    taken: AtomicWaker,
}

struct Waiting<T, E> {
    pieces: VecDeque<(T, Vec<u8>)>,
    bytes: usize,
    end: Option<E>,
}

/// What comes next.
pub(super) enum Next<T, E> {
    Piece(T, Vec<u8>),
    End(E),
}

impl<T, E> Default for Queue<T, E> {
    fn default() -> Self {
        let state = Waiting { pieces: VecDeque::new(), bytes: 0, end: None };
        Self { state: Mutex::new(state), came: Notify::new(), taken: AtomicWaker::new() }
    }
}

impl<T: Copy, E: Clone> Queue<T, E> {
    fn state(&self) -> MutexGuard<'_, Waiting<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes, in pieces of the size that is given at once.
    pub(super) fn push(&self, tag: T, bytes: &[u8]) {
        let mut state = self.state();
        state.bytes += bytes.len();
        state.pieces.extend(bytes.chunks(PIECE).map(|piece| (tag, piece.to_vec())));
        drop(state);
        self.came.notify_one();
    }

    /// Nothing comes after this.
    pub(super) fn end(&self, end: E) {
        self.state().end = Some(end);
        self.came.notify_one();
    }

    /// Waits for what comes next. After the end it gives the end again.
    pub(super) async fn next(&self) -> Next<T, E> {
        loop {
            let came = self.came.notified();
            if let Some(next) = self.take() {
                return next;
            }
            came.await;
        }
    }

    fn take(&self) -> Option<Next<T, E>> {
        let mut state = self.state();
        if let Some((tag, piece)) = state.pieces.pop_front() {
            state.bytes -= piece.len();
            drop(state);
            self.taken.wake();
            return Some(Next::Piece(tag, piece));
        }
        state.end.clone().map(Next::End)
    }

    /// Waits until there is something to take. Gives the end if nothing came before it.
    pub(super) async fn begun(&self) -> Option<E> {
        loop {
            let came = self.came.notified();
            {
                let state = self.state();
                if !state.pieces.is_empty() {
                    return None;
                }
                if state.end.is_some() {
                    return state.end.clone();
                }
            }
            came.await;
        }
    }

    fn is_full(&self) -> bool {
        self.state().bytes >= WAITING
    }

    /// Goes on with the guest's work only while the queue is not full. A connection that is not read is held up as a whole by
    /// its flow control, so the work has to be [apart](crate::guest::Guest::apart) from others.
    pub(super) async fn hold_up<R>(&self, mut work: Pin<&mut (impl Future<Output = R> + Send)>) -> R {
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

/// Counts something as open until it is dropped.
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    /// Counts one more, of at most `limit`. `what` is what is counted, and the limit's name.
    pub(super) fn new(count: &Arc<AtomicUsize>, limit: usize, what: &str) -> Told<Self> {
        let more = |open: usize| (open < limit).then_some(open + 1);
        match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self(count.clone())),
            Err(_) => {
                let text = format!("more than {limit} {what} at once (limit: {what})");
                Err(wit::GuestError::LimitExceeded(text))
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

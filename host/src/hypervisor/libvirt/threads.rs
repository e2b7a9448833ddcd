//! A connection and the few threads that make blocking calls through it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::{broadcast, oneshot},
    time::timeout,
};
use virt::{connect::Connect, error::Error};

use super::events::{Event, Registration, start_event_loop};

/// Calls that may run at once. libvirt's daemon stops reading from a client that has 5 calls open (`max_client_requests`),
/// and with that also the answers that keep the connection alive.
const ORDINARY_THREADS: usize = 4;

/// A thread for calls that are short and can't wait for long ones to end. While it makes one beside four others, the daemon
/// stops reading for that moment.
const URGENT_THREADS: usize = 1;

/// A dead peer is noticed after this many seconds, times [`KEEPALIVE_COUNT`].
const KEEPALIVE_INTERVAL: i32 = 5;
const KEEPALIVE_COUNT: u32 = 6;

/// Threads for calls that take as long as a file is large. Such a call is not open at the daemon meanwhile: it has returned, and
/// what follows is a stream.
const LONG_THREADS: usize = 2;

/// How long a call waits for one of the threads, if all the calls before it hang.
const WAIT_LIMIT: Duration = Duration::from_secs(15 * 60);

type Job = Box<dyn FnOnce(&Connect) + Send>;

/// A connection whose calls run on threads of its own. Not on the runtime's: a call that hangs would keep the process from
/// ending. The connection is closed, on one of these threads, when this is dropped and its last call has returned.
pub(super) struct Threads {
    jobs: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
    long: mpsc::Sender<Job>,
    registration: std::sync::Weak<Registration>,
}

/// Why a call has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoResult {
    /// The thread ended before it had one: a call panicked.
    Lost,
    /// It took longer than this.
    TimedOut(Duration),
}

impl Threads {
    /// Opens the connection. `Err` has libvirt's own words, or the system's where no thread can be started.
    pub(super) async fn open(uri: &str) -> Result<Self, String> {
        let (result, opened) = oneshot::channel();
        let uri = uri.to_owned();
        spawn("libvirt-connect", move || {
            let _ = result.send(connect(&uri));
        })?;
        let registration = Arc::new(
            opened
                .await
                .map_err(|_| "the connecting thread ended")?
                .map_err(|error| error.message().to_owned())?,
        );
        let start = |threads| {
            let (jobs, queue) = mpsc::channel();
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..threads {
                let (registration, queue) = (Arc::clone(&registration), Arc::clone(&queue));
                spawn("libvirt-call", move || work(&registration, &queue))?;
            }
            Ok::<_, String>(jobs)
        };
        let (jobs, urgent, long) = (start(ORDINARY_THREADS)?, start(URGENT_THREADS)?, start(LONG_THREADS)?);
        Ok(Self { jobs, urgent, long, registration: Arc::downgrade(&registration) })
    }

    /// Runs `call` on one of the threads and gives its result. `limit` counts from when it begins. A call whose caller has gone
    /// before its turn is not made.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        Self::run_on(&self.jobs, WAIT_LIMIT, limit, call).await
    }

    /// As [`Self::run`], for a short call that must not wait until long ones have ended.
    pub(super) async fn run_urgently<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        Self::run_on(&self.urgent, limit, limit, call).await
    }

    /// As [`Self::run`], for a call that may take hours, and keeps none but its like waiting.
    pub(super) async fn run_long<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        Self::run_on(&self.long, Duration::MAX, limit, call).await
    }

    async fn run_on<T: Send + 'static>(
        jobs: &mpsc::Sender<Job>,
        wait_limit: Duration,
        limit: Duration,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        let (begin, begun) = oneshot::channel();
        let (result, done) = oneshot::channel();
        let job: Job = Box::new(move |connect| {
            if !result.is_closed() {
                let _ = begin.send(());
                let _ = result.send(call(connect));
            }
        });
        jobs.send(job).map_err(|_| NoResult::Lost)?;
        within(wait_limit, begun).await?;
        within(limit, done).await
    }

    /// Events of this connection from now on; `None` when its threads have ended.
    pub(super) fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.registration.upgrade().map(|registration| registration.subscribe())
    }
}

async fn within<T>(limit: Duration, result: oneshot::Receiver<T>) -> Result<T, NoResult> {
    timeout(limit, result).await.map_err(|_| NoResult::TimedOut(limit))?.map_err(|_| NoResult::Lost)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map(drop).map_err(|error| format!("can't start a thread: {error}"))
}

fn connect(uri: &str) -> Result<Registration, Error> {
    start_event_loop()?;
    let connect = Connect::open(Some(uri))?;
    // Only drivers with a daemon have it.
    let _ = connect.set_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT);
    Registration::new(connect)
}

fn work(registration: &Registration, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The lock is held while waiting; the other threads wait for the lock instead.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The caller learns of a panic by its result being dropped; the thread lives on.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| job(registration.connect())));
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use futures::future::{join, join_all};

    use super::*;

    const WHILE: Duration = Duration::from_millis(400);

    /// A connection to libvirt's own driver for tests, which needs no daemon.
    async fn threads() -> Threads {
        Threads::open("test:///default").await.unwrap()
    }

    #[tokio::test]
    async fn long_calls_keep_none_but_their_like_waiting() {
        let threads = threads().await;
        let long = (0..8).map(|_| threads.run_long(2 * WHILE, |_| sleep(WHILE)));
        let short = async {
            tokio::time::sleep(WHILE / 4).await;
            let begun = std::time::Instant::now();
            threads.run(WHILE, |_| ()).await.unwrap();
            threads.run_urgently(WHILE, |_| ()).await.unwrap();
            assert!(begun.elapsed() < WHILE / 2);
        };
        let (long, ()) = join(join_all(long), short).await;
        assert_eq!(long, [const { Ok(()) }; 8]);
    }

    #[tokio::test]
    async fn waiting_for_a_thread_does_not_count() {
        let threads = threads().await;
        let calls = (0..3 * ORDINARY_THREADS).map(|_| threads.run(2 * WHILE, |_| sleep(WHILE)));
        assert!(join_all(calls).await.into_iter().all(|result| result == Ok(())));
        let slow = threads.run(WHILE / 4, |_| sleep(WHILE)).await;
        assert_eq!(slow, Err(NoResult::TimedOut(WHILE / 4)));
        assert_eq!(threads.run(WHILE, |_| panic!("it panics")).await, Err::<(), _>(NoResult::Lost));
    }
}

//! A connection and the few threads that make blocking calls through it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::{broadcast, oneshot};
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

type Job = Box<dyn FnOnce(&Connect) + Send>;

/// A connection whose calls run on threads of its own. Not on the runtime's: a call that hangs would keep the process from
/// ending. The connection is closed, on one of these threads, when this is dropped and its last call has returned.
pub(super) struct Threads {
    jobs: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
    registration: std::sync::Weak<Registration>,
}

/// The thread ended before it had a result: a call panicked.
#[derive(Debug)]
pub(super) struct Lost;

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
        let (jobs, urgent) = (start(ORDINARY_THREADS)?, start(URGENT_THREADS)?);
        Ok(Self { jobs, urgent, registration: Arc::downgrade(&registration) })
    }

    /// Runs `call` on one of the threads and gives its result. A call whose caller has gone before its turn is not made.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        Self::run_on(&self.jobs, call).await
    }

    /// As [`Self::run`], for a short call that must not wait until long ones have ended.
    pub(super) async fn run_urgently<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        Self::run_on(&self.urgent, call).await
    }

    async fn run_on<T: Send + 'static>(
        jobs: &mpsc::Sender<Job>,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (result, done) = oneshot::channel();
        let job: Job = Box::new(move |connect| {
            if !result.is_closed() {
                let _ = result.send(call(connect));
            }
        });
        jobs.send(job).map_err(|_| Lost)?;
        done.await.map_err(|_| Lost)
    }

    /// Events of this connection from now on; `None` when its threads have ended.
    pub(super) fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.registration.upgrade().map(|registration| registration.subscribe())
    }
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

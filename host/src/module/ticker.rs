use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long one epoch is: how soon a module that does not stop is looked at, and the unit of its CPU time.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Counts epochs in a thread of its own, as long as a module runs. (A task of the async runtime would not do: the modules
/// that it is to stop are what keeps the runtime busy.)
#[derive(Clone)]
pub(super) struct Ticker {
    engine: wasmtime::Engine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: usize,
    thread: bool,
}

impl Ticker {
    pub(super) fn new(engine: wasmtime::Engine) -> Self {
        Self { engine, state: Arc::default() }
    }

    /// Epochs pass until the guard is dropped.
    pub(super) fn start(&self) -> std::io::Result<Running> {
        let guard = Running(self.state.clone());
        let mut state = lock(&self.state);
        state.running += 1;
        if !state.thread {
            let this = self.clone();
            // Holds the lock, so the thread can't end in between. A failed start drops `guard` after the lock.
            let thread =
                std::thread::Builder::new().name("module-epochs".to_owned()).spawn(move || this.tick());
            if let Err(error) = thread {
                drop(state);
                return Err(error);
            }
            state.thread = true;
        }
        drop(state);
        Ok(guard)
    }

    fn tick(&self) {
        loop {
            std::thread::sleep(TICK);
            self.engine.increment_epoch();
            let mut state = lock(&self.state);
            if state.running == 0 {
                state.thread = false;
                return;
            }
        }
    }
}

/// Keeps epochs passing.
pub(super) struct Running(Arc<Mutex<State>>);

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0).running -= 1;
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

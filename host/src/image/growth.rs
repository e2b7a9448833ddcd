//! Reads a file from its start while it is still being written.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// What is known of a file that is being written.
#[derive(Debug, Default)]
pub(super) struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    size: u64,
    /// Whether it is complete, or will never be.
    end: Option<Result<(), &'static str>>,
}

impl Growth {
    /// The file is this one.
    pub(super) fn begin(&self, file: File) {
        self.change(|state| state.file = Some(Arc::new(file)));
    }

    /// It has so many bytes by now.
    pub(super) fn grown(&self, size: u64) {
        self.change(|state| state.size = size);
    }

    /// It is written once more from the start: who reads along has read the wrong thing.
    pub(super) fn restarted(&self) {
        self.end(Err("the download began once more"));
    }

    /// It is complete, or never will be.
    pub(super) fn end(&self, end: Result<(), &'static str>) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// Whether it is complete, and was written once only: what was read along is what it is.
    pub(super) fn is_whole(&self) -> bool {
        self.state().end == Some(Ok(()))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to read at `at`, or nothing will come any more.
    fn wait(&self, enough: impl Fn(&State) -> bool) -> io::Result<(Arc<File>, u64)> {
        let waits = |state: &mut State| state.end.is_none() && !(state.file.is_some() && enough(state));
        let state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        match (&state.end, &state.file) {
            (Some(Err(why)), _) => Err(io::Error::other(*why)),
            (_, Some(file)) => Ok((Arc::clone(file), state.size)),
            (_, None) => Err(io::Error::other("the download never began")),
        }
    }

    /// The whole file, once it is complete.
    pub(super) fn whole(&self) -> io::Result<File> {
        self.wait(|_| false)?.0.try_clone()
    }
}

/// Reads along.
pub(super) struct Follow {
    growth: Arc<Growth>,
    at: u64,
}

impl Follow {
    pub(super) fn new(growth: Arc<Growth>) -> Self {
        Self { growth, at: 0 }
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let (file, size) = self.growth.wait(|state| state.size > at)?;
        let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        // A hole at the end is there only when the file has got its length: what is not there yet is zero.
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let read = file.read_at(buffer, at)?;
        buffer.iter_mut().skip(read).for_each(|byte| *byte = 0);
        self.at += length as u64;
        Ok(length)
    }
}

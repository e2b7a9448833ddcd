use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    guest::{OutputSink, Stream},
    module::{
        call::{Level, ModuleLog},
        secrets::{Mask, Secrets},
        state::State,
        text::Lines,
    },
};

/// What a line takes beside its text, in an event and in a record: lines without any are not free.
const LINE: usize = 128;

/// How many bytes of output may still be logged in this call of the module.
#[derive(Clone)]
pub(in crate::module) struct OutputBudget {
    left: Arc<AtomicUsize>,
    /// Whether it was said that lines are left out.
    told: Arc<AtomicBool>,
    limit: usize,
}

impl OutputBudget {
    pub(in crate::module) fn new(limit: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(limit)), told: Arc::default(), limit }
    }

    /// Whether no line passes any more.
    fn is_spent(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Takes a line from the budget. The first one that is too much is told, the others are silent.
    fn pass(&self, log: &dyn ModuleLog, stream: Stream, line: &str) {
        let cost = line.len() + LINE;
        let take = |left: usize| Some(left.saturating_sub(cost));
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(left) if left >= cost => log.output(stream, line),
            _ if !self.told.swap(true, Ordering::Relaxed) => {
                let text = format!("further output is not shown (limit: {} bytes in a step)", self.limit);
                log.line(Level::Warn, &text);
            }
            _ => {}
        }
    }
}

/// Takes a command's output: masks secrets in it, keeps its first part, and logs its lines as they come.
pub(super) struct Capture {
    stdout: Captured,
    stderr: Captured,
    limit: usize,
    truncated: bool,
    log: Option<Arc<dyn ModuleLog>>,
    budget: OutputBudget,
}

struct Captured {
    mask: Mask,
    kept: Vec<u8>,
    lines: Lines,
}

impl Captured {
    fn new(secrets: &Secrets) -> Self {
        Self { mask: Mask::new(secrets.clone()), kept: Vec::new(), lines: Lines::default() }
    }
}

/// What was kept of a command's output.
pub(super) struct Kept {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) truncated: bool,
}

impl Capture {
    pub(super) fn new(state: &State, log_output: bool) -> Self {
        Self {
            stdout: Captured::new(&state.secrets),
            stderr: Captured::new(&state.secrets),
            limit: state.limits.captured_output,
            truncated: false,
            log: state.log.log().filter(|_| log_output),
            budget: state.output.clone(),
        }
    }

    /// Takes a piece and gives what may be seen of it by now.
    pub(super) fn take<'a>(&mut self, stream: Stream, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        let masked = self.of(stream).mask.push(chunk);
        self.keep(stream, &masked);
        masked
    }

    /// Gives what was held back of both streams, and logs what came after the last newlines.
    pub(super) fn finish(&mut self) -> [(Stream, Vec<u8>); 2] {
        let rest = [Stream::Stdout, Stream::Stderr].map(|stream| {
            let rest = self.of(stream).mask.finish();
            self.keep(stream, &rest);
            (stream, rest)
        });
        if let Some(log) = self.log.take() {
            self.stdout.lines.finish(|line| self.budget.pass(log.as_ref(), Stream::Stdout, line));
            self.stderr.lines.finish(|line| self.budget.pass(log.as_ref(), Stream::Stderr, line));
        }
        rest
    }

    /// What was kept.
    pub(super) fn kept(&mut self) -> Kept {
        Kept {
            stdout: std::mem::take(&mut self.stdout.kept),
            stderr: std::mem::take(&mut self.stderr.kept),
            truncated: self.truncated,
        }
    }

    fn of(&mut self, stream: Stream) -> &mut Captured {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let captured = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let kept = bytes.len().min(self.limit.saturating_sub(captured.kept.len()));
        captured.kept.extend_from_slice(&bytes[..kept]);
        self.truncated |= kept < bytes.len();
        if let Some(log) = self.log.as_ref().filter(|_| !self.budget.is_spent()) {
            captured.lines.push(bytes, |line| self.budget.pass(log.as_ref(), stream, line));
        }
    }
}

impl OutputSink for Capture {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        self.take(stream, chunk);
    }
}

/// Also when the command is cut short: its last words are worth most then.
impl Drop for Capture {
    fn drop(&mut self) {
        self.finish();
    }
}

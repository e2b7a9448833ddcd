use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{require, told};
use crate::{
    guest::{Command, Exit, Guest, OutputSink, Stream},
    module::{
        bindings::farmhand::phase::guest as wit,
        call::{Level, ModuleLog},
        grants::Capability,
        state::State,
        text::Lines,
    },
};

/// Bytes of arguments and environment together. Linux takes about 2 MiB, and 128 KiB in one argument.
const MAX_ARGUMENTS: usize = 1 << 20;

/// Runs a command for a module. Needs `exec`, and `become` to run it as root.
pub(super) async fn exec(
    state: &mut State,
    guest: &dyn Guest,
    command: wit::Command,
) -> Result<wit::Output, wit::GuestError> {
    require(state, Capability::Exec, command.become_)?;
    let limits = &state.limits;
    if command.argv.is_empty() {
        return Err(wit::GuestError::Other("a command needs at least a program".to_owned()));
    }
    let arguments: usize = command.argv.iter().map(|argument| argument.len() + 1).sum();
    let environment: usize = command.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if arguments + environment > MAX_ARGUMENTS {
        let text = format!("arguments and environment of a command take more than {MAX_ARGUMENTS} bytes");
        return Err(wit::GuestError::LimitExceeded(text));
    }
    if command.stdin.len() > limits.file_size {
        let text = format!("a command's standard input is larger than {} bytes", limits.file_size);
        return Err(wit::GuestError::LimitExceeded(text));
    }

    let log = state.log.log().filter(|_| command.log_output);
    let mut sink = Capture::new(limits.captured_output, log, state.output.clone());
    let command = Command {
        argv: command.argv,
        env: command.env,
        cwd: command.cwd,
        stdin: command.stdin,
        r#become: command.become_,
        // Without a time-out of its own it ends with the call: when the call's time is over, this future is dropped.
        timeout: command.timeout.map(|seconds| Duration::from_secs(seconds.into())),
    };
    let exit = guest.exec(&command, &mut sink).await.map_err(|error| told(&error))?;
    sink.flush();
    Ok(wit::Output {
        exit: match exit {
            Exit::Status(status) => wit::Exit::Status(status),
            Exit::Signal(signal) => wit::Exit::Signal(signal),
        },
        stdout: std::mem::take(&mut sink.stdout.kept),
        stderr: std::mem::take(&mut sink.stderr.kept),
        truncated: sink.truncated,
    })
}

/// How many bytes of output may still be logged in this call of the module.
#[derive(Clone)]
pub(in crate::module) struct OutputBudget {
    left: Arc<AtomicUsize>,
    limit: usize,
}

impl OutputBudget {
    pub(in crate::module) fn new(limit: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(limit)), limit }
    }

    /// Takes a line from the budget. The first one that is too much is told, the others are silent.
    fn pass(&self, log: &dyn ModuleLog, stream: Stream, line: &str) {
        let cost = line.len() + 1;
        let take = |left: usize| Some(left.saturating_sub(cost));
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(left) if left >= cost => log.output(stream, line),
            Ok(left) if left > 0 => {
                let text = format!("further output is not shown (limit: {} bytes in a step)", self.limit);
                log.line(Level::Warn, &text);
            }
            _ => {}
        }
    }
}

/// Keeps the first part of a command's output and logs its lines as they come.
struct Capture {
    stdout: Captured,
    stderr: Captured,
    limit: usize,
    truncated: bool,
    log: Option<Arc<dyn ModuleLog>>,
    budget: OutputBudget,
}

#[derive(Default)]
struct Captured {
    kept: Vec<u8>,
    lines: Lines,
}

impl Capture {
    fn new(limit: usize, log: Option<Arc<dyn ModuleLog>>, budget: OutputBudget) -> Self {
        Self {
            stdout: Captured::default(),
            stderr: Captured::default(),
            limit,
            truncated: false,
            log,
            budget,
        }
    }

    /// Logs what came after the last newlines.
    fn flush(&mut self) {
        if let Some(log) = &self.log {
            self.stdout.lines.finish(|line| self.budget.pass(log.as_ref(), Stream::Stdout, line));
            self.stderr.lines.finish(|line| self.budget.pass(log.as_ref(), Stream::Stderr, line));
        }
    }
}

impl OutputSink for Capture {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        let captured = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let kept = chunk.len().min(self.limit.saturating_sub(captured.kept.len()));
        captured.kept.extend_from_slice(&chunk[..kept]);
        self.truncated |= kept < chunk.len();
        if let Some(log) = &self.log {
            captured.lines.push(chunk, |line| self.budget.pass(log.as_ref(), stream, line));
        }
    }
}

/// Also when the command is cut short: its last words are worth most then.
impl Drop for Capture {
    fn drop(&mut self) {
        self.flush();
    }
}

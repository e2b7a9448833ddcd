use std::{num::NonZeroU32, time::Duration};

use wasmtime::ResourceLimiter;

use super::error::LimitHit;
use crate::farm::{LimitsConfig, Size};

/// What a module may use up. All limits are on by default; each one that is hit is named with its value.
/// Farm files change them under `limits` (for all modules) and `modules: NAME: limits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time in which the module itself computes, in one call. Waiting for the guest does not count.
    pub cpu_time: Duration,
    /// Time that one call may take in all, when the step names no time-out of its own.
    pub wall_time: Duration,
    /// All linear memories together, in bytes.
    pub memory: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Core instances, tables and memories in one component, each. A Python component has about 40 instances.
    pub instances: usize,
    /// Resources that a module may hold at once.
    pub handles: usize,
    /// What calls within a module may nest on, in bytes. One for all modules.
    pub stack: usize,
    /// Bytes that one call from the module to the host may carry: arguments, input, a file's content.
    pub host_call_data: usize,
    /// Bytes that are kept of each of a command's output streams; more is left out, and the command goes on.
    pub captured_output: usize,
    /// Bytes of commands' output that are shown or recorded in one call of a step, and 128 more for each line; more is left out.
    pub logged_output: usize,
    /// Lines that the module itself may log at once, and how many more each second after that.
    pub log_burst: u32,
    /// See `log_burst`.
    pub log_rate: u32,
    /// A file that is read from or written to the guest as a whole, in bytes.
    pub file_size: usize,
    /// Files that a module may read or write piece by piece at once.
    pub open_files: usize,
    /// A file that is read or written piece by piece, in bytes.
    pub streamed_file_size: usize,
    /// Commands that a module may have open in a guest at once.
    pub commands: usize,
    /// Artifacts that one call may keep.
    pub artifacts: usize,
    /// Bytes of all artifacts of one call together.
    pub artifact_data: usize,
    /// Time in which a module must be compiled.
    pub compile_time: Duration,
    /// Memory that compiling a module may take, in bytes. Several of its functions are compiled at once.
    pub compile_memory: usize,
    /// A module's file, in bytes. A Python component has about 18 MB.
    pub module_size: usize,
    /// One function's code, in bytes: compiling takes time and memory out of proportion to it (7 s and 730 MB for 3 MB).
    pub function_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_time: Duration::from_secs(30),
            wall_time: Duration::from_secs(60 * 60),
            memory: 256 << 20,
            table_elements: 100_000,
            instances: 200,
            handles: 1000,
            stack: 1 << 20,
            host_call_data: 20 << 20,
            captured_output: 1 << 20,
            logged_output: 64 << 20,
            log_burst: 1000,
            log_rate: 200,
            file_size: 16 << 20,
            open_files: 4,
            streamed_file_size: 1 << 30,
            commands: 8,
            artifacts: 100,
            artifact_data: 64 << 20,
            compile_time: Duration::from_secs(60),
            compile_memory: 2 << 30,
            module_size: 32 << 20,
            function_size: 1 << 20,
        }
    }
}

impl Limits {
    /// These limits with what a farm file says otherwise.
    #[must_use]
    pub fn with(mut self, written: &LimitsConfig) -> Self {
        fn set<T>(limit: &mut T, written: Option<T>) {
            if let Some(written) = written {
                *limit = written;
            }
        }
        let size = |size: Option<Size>| size.map(Size::get);
        let seconds = |time: Option<NonZeroU32>| time.map(|time| Duration::from_secs(time.get().into()));
        set(&mut self.cpu_time, seconds(written.cpu_time));
        set(&mut self.compile_time, seconds(written.compile_time));
        set(&mut self.compile_memory, size(written.compile_memory));
        set(&mut self.memory, size(written.memory));
        set(&mut self.table_elements, written.table_elements);
        set(&mut self.instances, written.instances);
        set(&mut self.handles, written.handles);
        set(&mut self.stack, size(written.stack));
        set(&mut self.host_call_data, size(written.host_call_data));
        set(&mut self.captured_output, size(written.captured_output));
        set(&mut self.logged_output, size(written.logged_output));
        set(&mut self.log_burst, written.log_burst);
        set(&mut self.log_rate, written.log_rate);
        set(&mut self.file_size, size(written.file_size));
        set(&mut self.open_files, written.open_files);
        set(&mut self.streamed_file_size, size(written.streamed_file_size));
        set(&mut self.commands, written.commands);
        set(&mut self.artifacts, written.artifacts);
        set(&mut self.artifact_data, size(written.artifact_data));
        set(&mut self.module_size, size(written.module_size));
        set(&mut self.function_size, size(written.function_size));
        self
    }

    /// The tighter ones for `describe`, which only builds a record.
    pub(super) fn for_describe(&self) -> Self {
        Self {
            cpu_time: self.cpu_time.min(Duration::from_secs(5)),
            wall_time: self.wall_time.min(Duration::from_secs(30)),
            host_call_data: self.host_call_data.min(1 << 20),
            ..self.clone()
        }
    }
}

/// Watches over what a store allocates.
pub(super) struct Limiter {
    limits: Limits,
    memory: usize,
    table_elements: usize,
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), memory: 0, table_elements: 0 }
    }
}

/// `used` after one thing grew from `current` to `desired`, unless that is more than `limit`.
fn grown(used: usize, current: usize, desired: usize, limit: usize) -> Option<usize> {
    used.checked_add(desired.saturating_sub(current)).filter(|used| *used <= limit)
}

impl ResourceLimiter for Limiter {
    // An error, not `false`: a module that sees a failed growth would die of it with a message of its own, which names no
    // limit.
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.limits.memory;
        let used = grown(self.memory, current, desired, limit);
        self.memory = used.ok_or_else(|| wasmtime::Error::new(LimitHit::Memory(limit)))?;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.limits.table_elements;
        let used = grown(self.table_elements, current, desired, limit);
        self.table_elements = used.ok_or_else(|| wasmtime::Error::new(LimitHit::TableElements(limit)))?;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.instances
    }

    fn memories(&self) -> usize {
        self.limits.instances
    }
}

use std::{
    collections::HashMap,
    fs::{DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
};

use camino::{Utf8Path, Utf8PathBuf};

use super::RecordError;
use crate::run::{Event, Level};

/// How many bytes of a step's output are kept before they are written, while they come faster than that.
const BUFFER: usize = 64 << 10;

/// A step's name is cut at this many characters in the name of its file.
const MAX_NAME: usize = 60;

/// Writes what each step of each machine says to a file of its own: `MACHINE/PHASE-NUMBER-STEP.log`. A step that says
/// nothing has no file; one that is carried out again goes on in the same one.
///
/// No file is held open, so that any number of machines can be worked on at once.
pub(super) struct Outputs {
    folder: Utf8PathBuf,
    /// The step that each machine is at.
    steps: HashMap<String, Step>,
}

struct Step {
    path: Utf8PathBuf,
    pending: Vec<u8>,
}

impl Outputs {
    pub(super) fn new(folder: Utf8PathBuf) -> Self {
        Self { folder, steps: HashMap::new() }
    }

    pub(super) fn take(&mut self, event: &Event) -> Result<(), RecordError> {
        match event {
            Event::StepStarted { machine, phase, index, name, .. } => {
                self.end(machine)?;
                let file = format!("{phase}-{index}-{}.log", in_file_name(name));
                let step = Step { path: self.folder.join(machine).join(file), pending: Vec::new() };
                self.steps.insert(machine.clone(), step);
                Ok(())
            }
            Event::Output { machine, line, .. } => self.add(machine, &[line]),
            Event::Log { machine, level, line } => {
                let mark = match level {
                    Level::Debug => "[debug] ",
                    Level::Info => "[info] ",
                    Level::Warn => "[warn] ",
                    Level::Error => "[error] ",
                };
                self.add(machine, &[mark, line])
            }
            Event::StepRetried { machine, retried, .. } | Event::PhaseRetried { machine, retried, .. } => {
                self.add(machine, &["[warn] failed, and is tried again: ", &retried.causes.join(": ")])
            }
            Event::StepFinished { machine, .. }
            | Event::OperationFinished { machine, .. }
            | Event::OperationFailed { machine, .. }
            | Event::MachineFinished { machine, .. } => self.end(machine),
            Event::RunStarted { .. }
            | Event::Interrupted
            | Event::MachineSkipped { .. }
            | Event::Replanned { .. }
            | Event::MachineStarted { .. }
            | Event::OperationStarted { .. }
            | Event::Progress { .. }
            | Event::RunFinished { .. } => Ok(()),
        }
    }

    /// Writes all that is there by now.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        self.steps.values_mut().try_for_each(Step::flush)
    }

    /// A line of the step that the machine is at. What is said outside of steps is among the events only.
    fn add(&mut self, machine: &str, line: &[&str]) -> Result<(), RecordError> {
        let Some(step) = self.steps.get_mut(machine) else { return Ok(()) };
        line.iter().for_each(|part| step.pending.extend_from_slice(part.as_bytes()));
        step.pending.push(b'\n');
        if step.pending.len() >= BUFFER { step.flush() } else { Ok(()) }
    }

    fn end(&mut self, machine: &str) -> Result<(), RecordError> {
        self.steps.remove(machine).map_or(Ok(()), |mut step| step.flush())
    }
}

impl Step {
    fn flush(&mut self) -> Result<(), RecordError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        append(&self.path, &self.pending).map_err(RecordError::write(&self.path))?;
        self.pending.clear();
        Ok(())
    }
}

fn append(path: &Utf8Path, text: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.write_all(text)
}

/// A step's name, as a part of a file's name: anything but letters, digits, `_`, `-` and `.` becomes `_`.
fn in_file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    name.chars().take(MAX_NAME).map(safe).collect()
}

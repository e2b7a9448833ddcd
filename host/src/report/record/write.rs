use std::{fs::File, io::Write as _};

use camino::{Utf8Path, Utf8PathBuf};

use super::{EVENTS, RecordError, outputs::Outputs};
use crate::{
    report::Feed,
    run::{Event, TimedEvent},
};

/// How many bytes of events are kept before they are written, while they come faster than that.
const BUFFER: usize = 64 << 10;

/// Writes the record of a run. As long as it is there, others see that the run goes on.
pub struct Record {
    folder: Utf8PathBuf,
    path: Utf8PathBuf,
    /// Locked until this is dropped, or the process ends in whatever way.
    events: File,
    pending: Vec<u8>,
    /// The steps' outputs, or why no more of them are written.
    outputs: Result<Outputs, RecordError>,
}

impl Record {
    /// Writes to an empty file in this folder, which is locked already.
    pub(super) fn new(folder: Utf8PathBuf, events: File) -> Self {
        let outputs = Ok(Outputs::new(folder.clone()));
        Self { path: folder.join(EVENTS), folder, events, pending: Vec::new(), outputs }
    }

    /// The run's folder.
    pub fn folder(&self) -> &Utf8Path {
        &self.folder
    }

    /// Writes events until the run has ended. Blocks: it needs a thread of its own. An error ends the writing of what it is
    /// about, the events or the outputs of steps; what has been written stays readable.
    pub fn write(mut self, mut feed: Feed) -> Result<(), RecordError> {
        while let Some(event) = feed.next(|| self.flush())? {
            self.take(&event)?;
        }
        self.flush()?;
        self.outputs.map(|_| ())
    }

    pub(super) fn take(&mut self, event: &TimedEvent) -> Result<(), RecordError> {
        let path = &self.path;
        serde_json::to_writer(&mut self.pending, event)
            .map_err(|error| RecordError::write(path)(error.into()))?;
        self.pending.push(b'\n');
        self.output(|outputs| outputs.take(&event.event));
        let milestone = matches!(
            event.event,
            Event::OperationFinished { .. } | Event::OperationFailed { .. } | Event::MachineFinished { .. }
        );
        if milestone || self.pending.len() >= BUFFER { self.flush_events() } else { Ok(()) }
    }

    /// Writes all that is there by now.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        self.output(Outputs::flush);
        self.flush_events()
    }

    /// Does something with the outputs, as long as that goes well.
    fn output(&mut self, act: impl FnOnce(&mut Outputs) -> Result<(), RecordError>) {
        if let Ok(outputs) = &mut self.outputs
            && let Err(error) = act(outputs)
        {
            self.outputs = Err(error);
        }
    }

    /// Whole lines at once, so that the file ends with a whole line whenever the process is killed.
    fn flush_events(&mut self) -> Result<(), RecordError> {
        if !self.pending.is_empty() {
            self.events.write_all(&self.pending).map_err(RecordError::write(&self.path))?;
            self.pending.clear();
        }
        Ok(())
    }
}

//! The record of a run: a folder with its events and all that its steps wrote (see `docs/runs.md`).

mod error;
mod events;
mod outline;
mod outputs;
mod records;
#[cfg(test)]
mod tests;
mod write;

pub use error::RecordError;
pub use events::{RecordedEvent, RecordedEvents};
pub use outline::{Outline, State};
pub use records::Records;
pub(super) use records::nearest;
pub use write::Record;

/// The file of the events, in a run's folder.
const EVENTS: &str = "events.jsonl";

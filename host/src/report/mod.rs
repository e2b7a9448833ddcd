//! From events to something that people and programs read. A reporter never reaches into a run: events are all it has.

mod cases;
mod course;
mod html;
mod hub;
mod junit;
mod lines;
mod plan;
mod record;
mod rehearsal;
mod replay;
mod reporter;
mod summary;
#[cfg(test)]
mod tests;
mod text;

pub use html::{HtmlError, html};
pub use hub::{Feed, Hub};
pub use junit::{JunitError, junit};
pub use plan::plan_text;
pub use record::{Outline, Record, RecordError, RecordedEvent, RecordedEvents, Records, State};
pub use rehearsal::rehearsal_text;
pub use replay::{ReplayError, Selection, replay};
pub use reporter::{Format, Reporter};

/// The `{:.1}` seconds of a duration, as they stand everywhere.
fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

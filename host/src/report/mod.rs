//! From events to something that people and programs read. A reporter never reaches into a run: events are all it has.

mod lines;
mod plan;
mod rehearsal;
mod reporter;
mod summary;
#[cfg(test)]
mod tests;

pub use plan::plan_text;
pub use rehearsal::rehearsal_text;
pub use reporter::{Format, Reporter};

/// The `{:.1}` seconds of a duration, as they stand everywhere.
fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

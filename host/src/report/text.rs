use super::{
    course::Course,
    lines::{self, Detail},
    summary::{self, End},
};
use crate::run::{Event, RunId};

/// A run as plain text. The same events give the same text, whether they happen now or stand in a record.
pub(super) struct Text {
    detail: Detail,
    /// The run, if its record can be shown.
    record: Option<RunId>,
    course: Course,
}

impl Text {
    pub(super) fn new(detail: Detail, record: Option<RunId>) -> Self {
        Self { detail, record, course: Course::default() }
    }

    /// The lines that an event gives; those of the last one are the summary.
    pub(super) fn lines(&mut self, event: &Event) -> Vec<String> {
        self.course.take(event);
        match event {
            Event::RunFinished { seconds, .. } => self.end(End::Finished { seconds: *seconds }),
            _ => lines::lines(event, self.detail),
        }
    }

    /// The summary of the events so far.
    pub(super) fn end(&self, end: End) -> Vec<String> {
        summary::summary(&self.course, end, self.record.as_ref())
    }
}

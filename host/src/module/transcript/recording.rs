use std::sync::{Mutex, PoisonError};

use super::{Answer, GuestCall, MAX_DATA, RecordedCall};

/// Records the calls of a module.
#[derive(Default)]
pub struct Recording(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    calls: Vec<RecordedCall>,
    data: usize,
    truncated: bool,
}

impl Recorded {
    /// Once something did not fit, nothing more does.
    fn has_room(&mut self, size: usize) -> bool {
        self.data = self.data.saturating_add(size);
        self.truncated |= self.data > MAX_DATA;
        !self.truncated
    }
}

impl Recording {
    fn recorded(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call, unless there is too much already. Its answer is noted when it comes, by the number that is given here.
    pub(in crate::module) fn call(&self, call: GuestCall) -> Option<usize> {
        let mut recorded = self.recorded();
        if !recorded.has_room(call.size()) {
            return None;
        }
        recorded.calls.push(RecordedCall { call, answer: None });
        Some(recorded.calls.len() - 1)
    }

    pub(in crate::module) fn answer(&self, number: usize, answer: &Answer) {
        let mut recorded = self.recorded();
        if !recorded.has_room(answer.size()) {
            return;
        }
        if let Some(call) = recorded.calls.get_mut(number) {
            call.answer = Some(answer.clone());
        }
    }

    /// The calls so far, and whether something was left out.
    pub(in crate::module) fn take(&self) -> (Vec<RecordedCall>, bool) {
        let mut recorded = self.recorded();
        (std::mem::take(&mut recorded.calls), recorded.truncated)
    }
}

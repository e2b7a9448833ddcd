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

impl Recording {
    fn recorded(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call. Its answer is noted when it comes, by the number that is given here.
    pub(in crate::module) fn call(&self, call: GuestCall) -> usize {
        let mut recorded = self.recorded();
        recorded.calls.push(RecordedCall { call, answer: None });
        recorded.calls.len() - 1
    }

    pub(in crate::module) fn answer(&self, number: usize, answer: &Answer) {
        let mut recorded = self.recorded();
        recorded.data += answer.size();
        if recorded.data > MAX_DATA {
            recorded.truncated = true;
            return;
        }
        if let Some(call) = recorded.calls.get_mut(number) {
            call.answer = Some(answer.clone());
        }
    }

    /// The calls so far, and whether answers were left out.
    pub(in crate::module) fn take(&self) -> (Vec<RecordedCall>, bool) {
        let mut recorded = self.recorded();
        (std::mem::take(&mut recorded.calls), recorded.truncated)
    }
}

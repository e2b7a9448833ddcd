use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Answer, Answers, CallError, GuestCall, RecordedCall, in_words};

/// Plays a transcript back: each call gets the answer that was recorded, as long as calls are those that were recorded.
pub struct Replay {
    left: Mutex<VecDeque<RecordedCall>>,
    difference: Mutex<Option<String>>,
    count: usize,
}

impl Replay {
    /// Plays these calls back.
    pub fn new(calls: Vec<RecordedCall>) -> Arc<Self> {
        let count = calls.len();
        Arc::new(Self { left: Mutex::new(calls.into()), difference: Mutex::default(), count })
    }

    /// The first difference between what was recorded and what was called, also when calls are left.
    pub fn difference(&self) -> Option<String> {
        let found = self.difference.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        found.or_else(|| {
            let next = left.front()?;
            let number = self.count - left.len() + 1;
            Some(format!("call {number} was not made:\n  recorded: {}", in_words(&next.call)))
        })
    }
}

impl Answers for Replay {
    fn answer(&self, call: &GuestCall) -> Answer {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.count - left.len() + 1;
        let mut difference = self.difference.lock().unwrap_or_else(PoisonError::into_inner);
        if difference.is_none() {
            match left.pop_front() {
                Some(recorded) if recorded.call == *call => {
                    let unanswered =
                        || Answer::Failed(CallError::Disconnected("nothing was recorded".to_owned()));
                    return recorded.answer.unwrap_or_else(unanswered);
                }
                recorded => {
                    let expected =
                        recorded.map_or_else(|| "nothing more".to_owned(), |it| in_words(&it.call));
                    *difference = Some(format!(
                        "call {number} differs:\n  recorded: {expected}\n  now:      {}",
                        in_words(call)
                    ));
                }
            }
        }
        Answer::Failed(CallError::Other(format!("call {number} is not the one that was recorded")))
    }
}

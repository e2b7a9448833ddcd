use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use super::{
    probes::{Effect, Probes, effect},
    transcript::{Answer, Answers, Bytes, CallError, GuestCall, MAX_DATA, in_words},
};
use crate::{base::Digest, guest::Exit};

/// Stands in a guest's place and holds everything back that may change it. A call that only looks is answered from what is
/// known; no guest is asked.
pub struct Check {
    probes: Arc<Probes>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: CheckedCalls,
    /// How many bytes they take.
    data: usize,
    /// The answers that were given so far, by call.
    given: HashMap<Digest, Answer>,
}

/// A call that a module made in check mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedCall {
    /// What it asked.
    pub call: GuestCall,
    /// The same in words, free of control codes.
    pub text: String,
    /// What it was answered.
    pub answer: CheckedAnswer,
}

/// The calls that a module made in check mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedCalls {
    /// In order. At most 16 MiB are kept.
    pub calls: Vec<CheckedCall>,
    /// Whether there were more.
    pub left_out: bool,
}

/// How a module was answered in check mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckedAnswer {
    /// It was held back, and taken to succeed.
    HeldBack,
    /// As the guest answered in this very state of the machine.
    Known,
    /// As the guest answered before, in another state.
    Assumed,
    /// The guest was never asked: the call failed.
    Unknown,
}

impl Check {
    /// Answers from what is known of a machine.
    pub fn new(probes: Arc<Probes>) -> Self {
        Self { probes, seen: Mutex::default() }
    }

    /// The calls since the last time that this was asked.
    pub fn take(&self) -> CheckedCalls {
        let mut seen = self.seen();
        seen.data = 0;
        std::mem::take(&mut seen.calls)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, call: &GuestCall) -> (Answer, CheckedAnswer) {
        let Some(probe) = self.probes.call(call) else {
            return (held_back(call), CheckedAnswer::HeldBack);
        };
        if let Some(answer) = self.probes.known(probe) {
            return (answer, CheckedAnswer::Known);
        }
        // What was held back may have changed it; what it was before that is the next best.
        let before = self.seen().given.get(&probe.call).cloned();
        match before.or_else(|| self.probes.last(probe)) {
            Some(answer) => (answer, CheckedAnswer::Assumed),
            None => {
                let text = format!("not known without the machine: {}", in_words(call));
                (Answer::Failed(CallError::Other(text)), CheckedAnswer::Unknown)
            }
        }
    }
}

impl Seen {
    fn keep(&mut self, call: &GuestCall, answer: CheckedAnswer) {
        let text = in_words(call);
        self.data = self.data.saturating_add(call.size() + size_of::<CheckedCall>() + text.len());
        if self.data > MAX_DATA {
            self.calls.left_out = true;
        } else {
            self.calls.calls.push(CheckedCall { call: call.clone(), text, answer });
        }
    }
}

/// The answer to a call that is not carried out.
fn held_back(call: &GuestCall) -> Answer {
    match call {
        GuestCall::Exec(_) => Answer::Ended {
            exit: Exit::Status(0),
            stdout: Bytes::default(),
            stderr: Bytes::default(),
            truncated: false,
        },
        _ => Answer::Done,
    }
}

impl Answers for Check {
    fn answer(&self, call: &GuestCall) -> Answer {
        let (answer, how) = self.decide(call);
        let mut seen = self.seen();
        if effect(call) == Effect::None && how != CheckedAnswer::Unknown {
            seen.given.insert(super::probes::digest(call), answer.clone());
        }
        seen.keep(call, how);
        answer
    }
}

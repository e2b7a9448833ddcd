use std::sync::Arc;

use super::{
    probes::{self, Probes},
    transcript::{self, Answer, GuestCall, Recording},
};
use crate::base::Digest;

/// Takes down what a module asks of its guest and what it is answered, for those who want it: a transcript, and what
/// `farmhand plan --deep` answers the next time.
#[derive(Clone, Default)]
pub(super) struct Notes {
    recording: Option<Arc<Recording>>,
    probes: Option<Arc<Probes>>,
}

impl Notes {
    pub(super) fn new(recording: Option<Arc<Recording>>, probes: Option<Arc<Probes>>) -> Self {
        Self { recording, probes }
    }

    /// Takes down a call. Its answer follows when it comes.
    pub(super) fn call(&self, call: impl FnOnce() -> GuestCall) -> Noted {
        if self.recording.is_none() && self.probes.is_none() {
            return Noted::default();
        }
        let call = call();
        let probe = self.probes.as_ref().and_then(|probes| Some((probes.clone(), probes.call(&call)?)));
        let recorded =
            self.recording.as_ref().and_then(|recording| Some((recording.clone(), recording.call(call)?)));
        Noted { recorded, probe }
    }
}

/// A call that was taken down and whose answer has not come yet.
#[derive(Default)]
pub(super) struct Noted {
    recorded: Option<(Arc<Recording>, usize)>,
    probe: Option<(Arc<Probes>, Probe)>,
}

/// A call that only looks: what was asked, and in which state of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) state: Option<Digest>,
    pub(super) call: Digest,
}

impl Noted {
    /// How many bytes of an answer are made use of; a larger one is only known to be larger.
    pub(super) fn uses(&self) -> usize {
        let recorded = if self.recorded.is_some() { transcript::MAX_DATA } else { 0 };
        let probe = if self.probe.is_some() { probes::MAX_ANSWER } else { 0 };
        recorded.max(probe)
    }

    /// Takes down the answer.
    pub(super) fn answer(self, answer: &Answer) {
        if let Some((recording, number)) = self.recorded {
            recording.answer(number, answer);
        }
        if let Some((probes, probe)) = self.probe {
            probes.answer(probe, answer);
        }
    }
}

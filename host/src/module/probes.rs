//! What guests answered to commands that only look: kept from one run to the next, so that `farmhand plan --deep` can answer
//! modules without a machine.
//!
//! An answer belongs to the state in which the machine was. A state has no name, but a history: the key of the checkpoint
//! that it began from, and then each call that may have changed something. Two histories that are the same lead to the same
//! state, as far as a checkpoint's key can say that.

use std::{
    os::unix::fs::DirBuilderExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use camino::Utf8Path;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{
    notes::Probe,
    transcript::{Answer, CallError, GuestCall},
};
use crate::{base::Digest, guest::Facts};

/// The version of the file's format.
const VERSION: u32 = 1;
/// So many answers are kept of a machine, and so many bytes of them; the oldest make room.
const MAX_ANSWERS: usize = 2000;
const MAX_DATA: usize = 8 << 20;
/// A larger answer is not kept.
pub(super) const MAX_ANSWER: usize = 512 << 10;
/// The facts of so many states are kept.
const MAX_FACTS: usize = 50;
/// A larger file is not one of farmhand's.
const MAX_FILE: u64 = 64 << 20;

/// What is known of one machine, and in which state it is.
#[derive(Default)]
pub struct Probes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    state: Option<Digest>,
    kept: Kept,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// The latest one last.
    facts: Vec<(Option<Digest>, Facts)>,
    /// By the digest of state and call, the latest one last.
    answers: IndexMap<Digest, KeptAnswer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAnswer {
    call: Digest,
    answer: Answer,
}

impl Probes {
    /// What is known by this file. A file that is not there or can't be read says nothing: what it held comes with the next
    /// run.
    pub fn open(path: &Utf8Path) -> Self {
        let kept = std::fs::metadata(path)
            .ok()
            .filter(|metadata| metadata.len() <= MAX_FILE)
            .and_then(|_| std::fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok())
            .filter(|kept| kept.version == VERSION);
        Self(Mutex::new(Inner { state: None, kept: kept.unwrap_or_default() }))
    }

    /// Writes all to a file that only this user can read, in one step.
    pub fn save(&self, path: &Utf8Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Utf8Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut inner = self.inner();
        inner.kept.version = VERSION;
        let bytes = serde_json::to_vec(&inner.kept)?;
        drop(inner);
        let mut file = tempfile::NamedTempFile::new_in(folder)?; // Mode 0600.
        std::io::Write::write_all(&mut file, &bytes)?;
        file.persist(path)?;
        Ok(())
    }

    /// The machine is in the state of the checkpoint with this key now.
    pub fn reached(&self, checkpoint: Digest) {
        self.inner().state = Some(checkpoint);
    }

    /// Nothing is known any more of the state that the machine is in.
    pub fn lost(&self) {
        self.inner().state = None;
    }

    /// Keeps what was found out about the guest in this state.
    pub fn keep_facts(&self, facts: &Facts) {
        let mut inner = self.inner();
        let state = inner.state;
        inner.kept.facts.retain(|(of, _)| *of != state);
        inner.kept.facts.push((state, facts.clone()));
        let more = inner.kept.facts.len().saturating_sub(MAX_FACTS);
        inner.kept.facts.drain(..more);
    }

    /// What is known of the guest: in this state, or else in the last one in which it was asked.
    pub fn facts(&self) -> Option<Facts> {
        let inner = self.inner();
        let of_state = inner.kept.facts.iter().find(|(of, _)| of.is_some() && *of == inner.state);
        of_state.or(inner.kept.facts.last()).map(|(_, facts)| facts.clone())
    }

    /// Takes note of a call. One that may change the guest leads to another state; one that only looks is given back, for its
    /// answer.
    pub(super) fn call(&self, call: &GuestCall) -> Option<Probe> {
        let digest = digest(call);
        let mut inner = self.inner();
        match effect(call) {
            Effect::None => Some(Probe { state: inner.state, call: digest }),
            Effect::OnGuest => {
                inner.state = inner.state.map(|state| Digest::of([state.bytes(), digest.bytes()].concat()));
                None
            }
            Effect::OnHost => None,
        }
    }

    pub(super) fn answer(&self, probe: Probe, answer: &Answer) {
        if !says_something(answer) || answer.size() > MAX_ANSWER {
            return;
        }
        let answers = &mut self.inner().kept.answers;
        let key = key(probe);
        // The latest one last, also when it is one that was there.
        answers.shift_remove(&key);
        answers.insert(key, KeptAnswer { call: probe.call, answer: answer.clone() });
        let mut size: usize = answers.values().map(|kept| kept.answer.size()).sum();
        while answers.len() > MAX_ANSWERS || size > MAX_DATA {
            let Some((_, oldest)) = answers.shift_remove_index(0) else { return };
            size -= oldest.answer.size();
        }
    }

    /// What the guest answered in the very state in which the machine is.
    pub(super) fn known(&self, probe: Probe) -> Option<Answer> {
        probe.state?;
        Some(self.inner().kept.answers.get(&key(probe))?.answer.clone())
    }

    /// What it answered to that call the last time, in whatever state.
    pub(super) fn last(&self, probe: Probe) -> Option<Answer> {
        let inner = self.inner();
        let last = inner.kept.answers.values().rev().find(|kept| kept.call == probe.call);
        last.map(|kept| kept.answer.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it only looks.
    None,
    /// The guest.
    OnGuest,
    /// The run's folder.
    OnHost,
}

/// What a call may change, by the module's own word.
pub(super) fn effect(call: &GuestCall) -> Effect {
    match call {
        GuestCall::Exec(command) if command.read_only => Effect::None,
        GuestCall::ReadFile { .. } => Effect::None,
        GuestCall::Exec(_) | GuestCall::WriteFile { .. } => Effect::OnGuest,
        GuestCall::SaveArtifact { .. } | GuestCall::SaveFile { .. } => Effect::OnHost,
    }
}

/// Whether an answer is about the guest, and not about the connection to it or the time it took.
fn says_something(answer: &Answer) -> bool {
    match answer {
        Answer::Ended { .. } | Answer::Content(_) | Answer::Done => true,
        Answer::Failed(error) => matches!(error, CallError::NotFound(_)),
    }
}

pub(super) fn digest(call: &GuestCall) -> Digest {
    // All of a call has a JSON form.
    Digest::of(serde_json::to_vec(call).unwrap_or_default())
}

fn key(probe: Probe) -> Digest {
    let state = probe.state.map(|state| state.bytes()).unwrap_or_default();
    Digest::of([state, probe.call.bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        guest::Exit,
        module::transcript::{Bytes, CommandCall},
    };

    fn exec(program: &str, read_only: bool) -> GuestCall {
        GuestCall::Exec(CommandCall { argv: vec![program.to_owned()], read_only, ..CommandCall::default() })
    }

    fn says(text: &str) -> Answer {
        let (stdout, stderr) = (Bytes(text.as_bytes().to_vec()), Bytes::default());
        Answer::Ended { exit: Exit::Status(0), stdout, stderr, truncated: false }
    }

    fn ask(probes: &Probes, program: &str) -> Probe {
        probes.call(&exec(program, true)).unwrap()
    }

    #[test]
    fn an_answer_belongs_to_the_state_that_a_history_leads_to() {
        let probes = Probes::default();
        let (clean, other) = (Digest::of("clean"), Digest::of("other"));
        probes.reached(clean);
        probes.answer(ask(&probes, "list"), &says("nothing"));
        assert!(probes.call(&exec("install", false)).is_none());
        probes.answer(ask(&probes, "list"), &says("curl"));

        probes.reached(clean);
        assert_eq!(probes.known(ask(&probes, "list")), Some(says("nothing")));
        probes.call(&exec("install", false));
        assert_eq!(probes.known(ask(&probes, "list")), Some(says("curl")));
        // Another history, another state; what was answered last is known all the same.
        probes.call(&exec("install", false));
        assert_eq!(probes.known(ask(&probes, "list")), None);
        assert_eq!(probes.last(ask(&probes, "list")), Some(says("curl")));
        probes.reached(other);
        assert_eq!(probes.known(ask(&probes, "list")), None);
        probes.lost();
        probes.answer(ask(&probes, "list"), &says("?"));
        assert_eq!(probes.known(ask(&probes, "list")), None, "no state is no state that is known");
        assert_eq!(probes.last(ask(&probes, "never")), None);
    }

    #[test]
    fn what_says_nothing_of_the_guest_is_not_kept() {
        let probes = Probes::default();
        probes.reached(Digest::of("clean"));
        for error in [CallError::TimedOut, CallError::Disconnected("gone".to_owned())] {
            probes.answer(ask(&probes, "list"), &Answer::Failed(error));
        }
        probes.answer(ask(&probes, "list"), &says(&"x".repeat(MAX_ANSWER + 1)));
        assert_eq!(probes.last(ask(&probes, "list")), None);
    }

    #[test]
    fn it_does_not_grow_without_bounds_and_forgets_the_oldest() {
        let probes = Probes::default();
        probes.reached(Digest::of("clean"));
        for number in 0..MAX_ANSWERS + 5 {
            probes.answer(ask(&probes, &number.to_string()), &says("x"));
        }
        assert_eq!(probes.last(ask(&probes, "4")), None);
        assert!(probes.last(ask(&probes, "5")).is_some());
        let large = says(&"x".repeat(MAX_ANSWER));
        for number in 0..20 {
            probes.answer(ask(&probes, &format!("large {number}")), &large);
        }
        assert!(probes.last(ask(&probes, "large 3")).is_none());
        assert!(probes.last(ask(&probes, "large 19")).is_some());
    }

    #[test]
    fn it_is_kept_in_a_file_of_its_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(home.path()).unwrap().join("probes/machine.json");
        let probes = Probes::open(&path);
        probes.reached(Digest::of("clean"));
        probes.answer(ask(&probes, "list"), &says("curl"));
        let facts = Facts { os_id: "debian".to_owned(), ..Facts::default() };
        probes.keep_facts(&facts);
        probes.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let again = Probes::open(&path);
        again.reached(Digest::of("clean"));
        assert_eq!(again.known(ask(&again, "list")), Some(says("curl")));
        assert_eq!(again.facts(), Some(facts));
        std::fs::write(&path, "{ damaged").unwrap();
        assert_eq!(Probes::open(&path).facts(), None);
    }
}

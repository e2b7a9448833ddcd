//! What a module can ask of the host: a file for each capability, with its grant check and its limits. Here they are only
//! bound to the interfaces of `wit/`.

mod artifacts;
mod exec;
mod files;
mod log;
mod output;
mod process;
mod queue;
mod reader;
mod writer;

#[allow(unreachable_pub)] // The bindings re-export them.
pub use self::{process::Process, reader::FileReader, writer::FileWriter};
pub(super) use artifacts::ArtifactBudget;
pub(super) use log::LogGate;
pub(super) use output::OutputBudget;

use std::{future::Future, sync::Arc};

use wasmtime::component::Resource;

use super::{
    bindings::farmhand::phase::{guest as wit, log as wit_log, types},
    grants::{Capability, Denial},
    state::{Lent, LentGuest, State},
    text,
    transcript::{Answer, CallError, GuestCall},
};
use crate::guest::{Guest, GuestError};

type Told<T> = Result<T, wit::GuestError>;

impl types::Host for State {}

impl wit_log::Host for State {
    async fn write(
        &mut self,
        level: wit_log::Level,
        message: String,
        fields: Vec<wit_log::Field>,
    ) -> wasmtime::Result<()> {
        self.log.write(level.into(), &message, &fields);
        Ok(())
    }

    async fn progress(&mut self, message: String, percent: Option<u8>) -> wasmtime::Result<()> {
        self.log.progress(&message, percent);
        Ok(())
    }
}

impl wit::Host for State {}

impl State {
    fn lent(&self, guest: &Resource<LentGuest>) -> wasmtime::Result<Lent> {
        Ok(self.table.get(guest)?.lent.clone())
    }
}

impl wit::HostGuest for State {
    async fn facts(&mut self, guest: Resource<LentGuest>) -> wasmtime::Result<Told<wit::Facts>> {
        if let Err(denied) = require(self, Capability::Facts, None, false) {
            return Ok(Err(denied));
        }
        let Some(facts) = self.table.get(&guest)?.facts.clone() else {
            return Ok(Err(wit::GuestError::Other("nothing is known of the guest yet".to_owned())));
        };
        Ok(Ok(wit::Facts {
            os_id: facts.os_id,
            os_id_like: facts.os_id_like,
            os_version_id: facts.os_version_id,
            os_pretty_name: facts.os_pretty_name,
            kernel: facts.kernel,
            architecture: facts.architecture,
            package_manager: facts.package_manager,
        }))
    }

    async fn exec(
        &mut self,
        guest: Resource<LentGuest>,
        command: wit::Command,
    ) -> wasmtime::Result<Told<wit::Output>> {
        let lent = self.lent(&guest)?;
        Ok(exec::exec(self, &lent, command).await)
    }

    async fn start(
        &mut self,
        guest: Resource<LentGuest>,
        command: wit::Command,
    ) -> wasmtime::Result<Told<Resource<Process>>> {
        let lent = self.lent(&guest)?;
        match process::start(self, &lent, command) {
            Ok(process) => Ok(Ok(self.table.push(process)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn read_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        max_size: u32,
        r#become: bool,
    ) -> wasmtime::Result<Told<Vec<u8>>> {
        let lent = self.lent(&guest)?;
        Ok(files::read(self, &lent, path, max_size, r#become).await)
    }

    async fn write_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        content: Vec<wit::Content>,
        mode: u32,
        r#become: bool,
    ) -> wasmtime::Result<Told<()>> {
        let lent = self.lent(&guest)?;
        Ok(files::write(self, &lent, path, content, mode, r#become).await)
    }

    async fn save_artifact(
        &mut self,
        guest: Resource<LentGuest>,
        name: String,
        content: Vec<u8>,
    ) -> wasmtime::Result<Told<()>> {
        let lent = self.lent(&guest)?;
        Ok(artifacts::save(self, &lent, name, content).await)
    }

    async fn save_file(
        &mut self,
        guest: Resource<LentGuest>,
        name: String,
        path: String,
        r#become: bool,
    ) -> wasmtime::Result<Told<()>> {
        let lent = self.lent(&guest)?;
        Ok(artifacts::save_file(self, &lent, name, path, r#become).await)
    }

    async fn open_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        r#become: bool,
    ) -> wasmtime::Result<Told<Resource<FileReader>>> {
        let lent = self.lent(&guest)?;
        match reader::open(self, &lent, path, r#become).await {
            Ok(reader) => Ok(Ok(self.table.push(reader)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn create_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        mode: u32,
        r#become: bool,
    ) -> wasmtime::Result<Told<Resource<FileWriter>>> {
        let lent = self.lent(&guest)?;
        match writer::create(self, &lent, path, mode, r#become) {
            Ok(writer) => Ok(Ok(self.table.push(writer)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn drop(&mut self, guest: Resource<LentGuest>) -> wasmtime::Result<()> {
        self.table.delete(guest)?;
        Ok(())
    }
}

impl wit::HostProcess for State {
    async fn next(&mut self, process: Resource<Process>) -> wasmtime::Result<Told<wit::Event>> {
        Ok(self.table.get_mut(&process)?.next().await)
    }

    async fn drop(&mut self, process: Resource<Process>) -> wasmtime::Result<()> {
        self.table.delete(process)?;
        Ok(())
    }
}

impl wit::HostFileReader for State {
    async fn next(&mut self, reader: Resource<FileReader>) -> wasmtime::Result<Told<Option<Vec<u8>>>> {
        Ok(self.table.get_mut(&reader)?.next().await)
    }

    async fn drop(&mut self, reader: Resource<FileReader>) -> wasmtime::Result<()> {
        self.table.delete(reader)?;
        Ok(())
    }
}

impl wit::HostFileWriter for State {
    async fn write(
        &mut self,
        writer: Resource<FileWriter>,
        content: wit::Content,
    ) -> wasmtime::Result<Told<()>> {
        writer::write(self, &writer, content).await
    }

    async fn finish(&mut self, writer: Resource<FileWriter>) -> wasmtime::Result<Told<()>> {
        Ok(self.table.delete(writer)?.finish().await)
    }

    async fn drop(&mut self, writer: Resource<FileWriter>) -> wasmtime::Result<()> {
        self.table.delete(writer)?;
        Ok(())
    }
}

/// The grant check: before anything else in every call that needs a capability.
fn require(state: &State, capability: Capability, value: Option<&str>, r#become: bool) -> Told<()> {
    let check = |capability, value| Denial::unless_granted(&state.grants, capability, value);
    let checked = check(capability, value)
        .and_then(|()| if r#become { check(Capability::Become, None) } else { Ok(()) });
    checked.map_err(|denial| {
        wit::GuestError::Denied(types::Denial { capability: denial.capability.into(), value: denial.value })
    })
}

/// What stands for a content: its bytes, or the secret that it names.
fn reveal<'a>(state: &'a State, content: &'a wit::Content) -> Told<&'a [u8]> {
    match content {
        wit::Content::Bytes(bytes) => Ok(bytes),
        wit::Content::Secret(name) => {
            require(state, Capability::Secrets, Some(name), false)?;
            // In check mode nobody's guest gets to see them, so there are none.
            Ok(state.secrets.get(name).map_or(&[], |secret| secret.reveal().as_bytes()))
        }
    }
}

/// What stands for these parts, one after the other, as far as a file may be large. A name of a few bytes may stand for many,
/// so it is counted before it is copied. `what` is what is made of them.
fn reveal_all(state: &State, parts: &[wit::Content], what: &str) -> Told<Vec<u8>> {
    let limit = state.limits.file_size;
    let mut bytes = Vec::new();
    for part in parts {
        let part = reveal(state, part)?;
        if part.len() > limit.saturating_sub(bytes.len()) {
            let text = format!("{what} is larger than {limit} bytes (limit: file size)");
            return Err(wit::GuestError::LimitExceeded(text));
        }
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// Has a call answered: by the guest, and taken down, or by what stands in its place.
async fn answered<F: Future<Output = Answer> + Send>(
    lent: &Lent,
    call: impl FnOnce() -> GuestCall + Send,
    by_guest: impl FnOnce(Arc<dyn Guest>) -> F + Send,
) -> Answer {
    match lent {
        Lent::Answered(answers) => answers.answer(&call()),
        Lent::Live { guest, notes } => {
            let noted = notes.call(call);
            let answer = by_guest(guest.clone()).await;
            noted.answer(&answer);
            answer
        }
    }
}

/// What a module is told of a failed call. Texts are the guest's own, so they are bounded.
fn told(error: &GuestError) -> CallError {
    let message = text::some_lines(&error.to_string(), 20);
    match error {
        GuestError::Unreachable { .. } | GuestError::Disconnected(_) => CallError::Disconnected(message),
        GuestError::BecomeRefused { .. } => CallError::BecomeRefused(message),
        GuestError::TimedOut(_) => CallError::TimedOut,
        GuestError::File { .. } => CallError::NotFound(message),
        GuestError::TooLarge { .. } => CallError::LimitExceeded(message),
        _ => CallError::Other(message),
    }
}

/// An answer that does not fit its call: only a transcript that was edited has one.
fn misfit() -> CallError {
    CallError::Other("the answer does not fit the call".to_owned())
}

/// The answer to a call that gives nothing back.
fn done(answer: Answer) -> Told<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Failed(error) => Err(error.into()),
        Answer::Ended { .. } | Answer::Content(_) => Err(misfit().into()),
    }
}

#[cfg(test)]
mod tests;

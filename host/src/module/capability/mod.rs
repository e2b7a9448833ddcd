//! What a module can ask of the host: a file for each capability, with its grant check and its limits. Here they are only
//! bound to the interfaces of `wit/`.

mod exec;
mod files;
mod log;

pub(super) use exec::OutputBudget;
pub(super) use log::LogGate;

use wasmtime::component::Resource;

use super::{
    bindings::farmhand::phase::{guest as wit, log as wit_log, types},
    grants::Capability,
    state::{LentGuest, State},
    text,
};
use crate::guest::GuestError;

impl types::Host for State {}

impl wit_log::Host for State {
    async fn write(&mut self, level: wit_log::Level, message: String) -> wasmtime::Result<()> {
        self.log.write(level.into(), &message);
        Ok(())
    }
}

impl wit::Host for State {}

impl wit::HostGuest for State {
    async fn facts(&mut self, guest: Resource<LentGuest>) -> wasmtime::Result<wit::Facts> {
        let facts = self.table.get(&guest)?.facts.clone();
        Ok(wit::Facts {
            os_id: facts.os_id,
            os_id_like: facts.os_id_like,
            os_version_id: facts.os_version_id,
            os_pretty_name: facts.os_pretty_name,
            kernel: facts.kernel,
            architecture: facts.architecture,
        })
    }

    async fn exec(
        &mut self,
        guest: Resource<LentGuest>,
        command: wit::Command,
    ) -> wasmtime::Result<Result<wit::Output, wit::GuestError>> {
        let guest = self.table.get(&guest)?.guest.clone();
        Ok(exec::exec(self, guest.as_ref(), command).await)
    }

    async fn read_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        max_size: u32,
        r#become: bool,
    ) -> wasmtime::Result<Result<Vec<u8>, wit::GuestError>> {
        let guest = self.table.get(&guest)?.guest.clone();
        Ok(files::read(self, guest.as_ref(), &path, max_size, r#become).await)
    }

    async fn write_file(
        &mut self,
        guest: Resource<LentGuest>,
        path: String,
        content: Vec<u8>,
        mode: u32,
        r#become: bool,
    ) -> wasmtime::Result<Result<(), wit::GuestError>> {
        let guest = self.table.get(&guest)?.guest.clone();
        Ok(files::write(self, guest.as_ref(), &path, &content, mode, r#become).await)
    }

    async fn drop(&mut self, guest: Resource<LentGuest>) -> wasmtime::Result<()> {
        self.table.delete(guest)?;
        Ok(())
    }
}

/// The grant check: before anything else in every call that needs a capability.
fn require(state: &State, capability: Capability, r#become: bool) -> Result<(), wit::GuestError> {
    let needed = [Some(capability), r#become.then_some(Capability::Become)];
    match needed.into_iter().flatten().find(|capability| !capability.is_granted(&state.grants)) {
        Some(missing) => Err(wit::GuestError::Denied(missing.into())),
        None => Ok(()),
    }
}

/// What a module is told of a failed call. Texts are the guest's own, so they are bounded.
fn told(error: &GuestError) -> wit::GuestError {
    let message = text::some_lines(&error.to_string(), 20);
    match error {
        GuestError::Unreachable { .. } | GuestError::Disconnected(_) => {
            wit::GuestError::Disconnected(message)
        }
        GuestError::BecomeRefused { .. } => wit::GuestError::BecomeRefused(message),
        GuestError::TimedOut(_) => wit::GuestError::TimedOut,
        GuestError::File { .. } => wit::GuestError::NotFound(message),
        GuestError::TooLarge { .. } => wit::GuestError::LimitExceeded(message),
        _ => wit::GuestError::Other(message),
    }
}

#[cfg(test)]
mod tests;

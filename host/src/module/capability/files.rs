use super::{require, told};
use crate::{
    guest::Guest,
    module::{bindings::farmhand::phase::guest as wit, grants::Capability, state::State},
};

/// Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Reads a file for a module. Needs `files`, and `become` to read it as root.
pub(super) async fn read(
    state: &mut State,
    guest: &dyn Guest,
    path: &str,
    max_size: u32,
    r#become: bool,
) -> Result<Vec<u8>, wit::GuestError> {
    require(state, Capability::Files, r#become)?;
    check_path(path)?;
    let max_size = u64::from(max_size).min(state.limits.file_size as u64);
    guest.read_file(path, max_size, r#become).await.map_err(|error| told(&error))
}

/// Writes a file for a module. Needs `files`, and `become` to write it as root.
pub(super) async fn write(
    state: &mut State,
    guest: &dyn Guest,
    path: &str,
    content: &[u8],
    mode: u32,
    r#become: bool,
) -> Result<(), wit::GuestError> {
    require(state, Capability::Files, r#become)?;
    check_path(path)?;
    if content.len() > state.limits.file_size {
        let text = format!("a file's content is larger than {} bytes", state.limits.file_size);
        return Err(wit::GuestError::LimitExceeded(text));
    }
    if mode > 0o7777 {
        return Err(wit::GuestError::Other(format!("{mode:o} are not permission bits")));
    }
    guest.write_file(path, content, mode, r#become).await.map_err(|error| told(&error))
}

fn check_path(path: &str) -> Result<(), wit::GuestError> {
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(wit::GuestError::Other(format!("a path has 1 to {MAX_PATH} bytes and no NUL")));
    }
    Ok(())
}

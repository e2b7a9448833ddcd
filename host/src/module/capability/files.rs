use std::sync::Arc;

use super::{Told, answered, done, misfit, require, reveal_all, told};
use crate::{
    guest::{Guest, GuestError},
    module::{
        bindings::farmhand::phase::guest as wit,
        grants::Capability,
        state::{Lent, State},
        transcript::{Answer, Bytes, CallError, GuestCall},
    },
};

/// Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Reads a file for a module. Needs `files` for its path, and `become` to read it as root. Secrets in it are masked.
pub(super) async fn read(
    state: &mut State,
    lent: &Lent,
    path: String,
    max_size: u32,
    r#become: bool,
) -> Told<Vec<u8>> {
    check_path(state, &path, r#become)?;
    let max_size = u64::from(max_size).min(state.limits.file_size as u64);
    let call = || GuestCall::ReadFile { path: path.clone(), r#become };
    let secrets = &state.secrets;
    let by_host = max_size == state.limits.file_size as u64;
    let by_guest = async |guest: Arc<dyn Guest>| match guest.read_file(&path, max_size, r#become).await {
        Err(error @ GuestError::TooLarge { .. }) if by_host => {
            Answer::Failed(CallError::LimitExceeded(format!("{error} (limit: file size)")))
        }
        Ok(content) => Answer::Content(Bytes(secrets.mask(&content).into_owned())),
        Err(error) => Answer::Failed(told(&error)),
    };
    match answered(lent, call, by_guest).await {
        Answer::Content(content) => Ok(content.0),
        Answer::Failed(error) => Err(error.into()),
        Answer::Done | Answer::Ended { .. } => Err(misfit().into()),
    }
}

/// Writes a file for a module. Needs `files` for its path, and `become` to write it as root.
pub(super) async fn write(
    state: &mut State,
    lent: &Lent,
    path: String,
    content: Vec<wit::Content>,
    mode: u32,
    r#become: bool,
) -> Told<()> {
    check_path(state, &path, r#become)?;
    let bytes = reveal_all(state, &content, "a file's content")?;
    check_mode(mode)?;
    let call = || GuestCall::WriteFile {
        path: path.clone(),
        content: content.iter().map(Into::into).collect(),
        mode,
        r#become,
    };
    let by_guest = async |guest: Arc<dyn Guest>| match guest.write_file(&path, &bytes, mode, r#become).await {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(told(&error)),
    };
    done(answered(lent, call, by_guest).await)
}

/// Checks that a path is one that a grant can be compared with, and granted.
pub(super) fn check_path(state: &State, path: &str, r#become: bool) -> Told<()> {
    let other = |text: String| Err(wit::GuestError::Other(text));
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return other(format!("a path has 1 to {MAX_PATH} bytes and no NUL"));
    }
    // Whatever has two names could be granted by the one and reached by the other.
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if !path.strip_prefix('/').is_some_and(|path| path.split('/').all(plain)) {
        return other("a path is absolute and has no empty part, `.` or `..` in it".to_owned());
    }
    require(state, Capability::Files, Some(path), r#become)
}

/// Checks that a mode has nothing but permission bits.
pub(super) fn check_mode(mode: u32) -> Told<()> {
    if mode > 0o7777 {
        return Err(wit::GuestError::Other(format!("{mode:o} are not permission bits")));
    }
    Ok(())
}

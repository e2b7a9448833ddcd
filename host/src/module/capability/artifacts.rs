use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use camino::Utf8PathBuf;

use super::{Told, answered, done, files, require, told};
use crate::{
    base::Digest,
    guest::Guest,
    module::{
        bindings::farmhand::phase::guest as wit,
        grants::Capability,
        state::{Lent, State},
        transcript::{Answer, CallError, GuestCall},
    },
};

const MAX_NAME: usize = 128;

/// Where artifacts are kept.
pub trait ArtifactStore: Send + Sync {
    /// Keeps bytes under a name that can be a file's. May block for as long as a disk takes.
    fn save(&self, name: &str, content: &[u8]) -> std::io::Result<()>;
}

/// Keeps artifacts in a folder, which is made when the first one comes.
#[derive(Debug, Clone)]
pub struct FolderArtifacts(Utf8PathBuf);

impl FolderArtifacts {
    /// Keeps them in this folder.
    pub fn new(folder: Utf8PathBuf) -> Self {
        Self(folder)
    }
}

impl ArtifactStore for FolderArtifacts {
    fn save(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?; // Mode 0600.
        file.write_all(content)?;
        file.persist(self.0.join(name))?;
        Ok(())
    }
}

/// How many artifacts a call has kept, and of which sizes.
#[derive(Default)]
pub(in crate::module) struct ArtifactBudget(BTreeMap<String, usize>);

/// Keeps bytes for a module. Needs `artifacts`.
pub(super) async fn save(state: &mut State, lent: &Lent, name: String, content: Vec<u8>) -> Told<()> {
    check_name(state, &name)?;
    let call = GuestCall::SaveArtifact { name: name.clone(), digest: Digest::of(&content) };
    let answer = match lent {
        Lent::Answered(answers) => answers.answer(&call),
        Lent::Live { notes, .. } => {
            let noted = notes.call(|| call);
            let answer = keep(state, name, content).await;
            noted.answer(&answer);
            answer
        }
    };
    done(answer)
}

/// Keeps a file of the guest's. Needs `artifacts`, and what reading it needs.
pub(super) async fn save_file(
    state: &mut State,
    lent: &Lent,
    name: String,
    path: String,
    r#become: bool,
) -> Told<()> {
    check_name(state, &name)?;
    files::check_path(state, &path, r#become)?;
    let max_size = state.limits.file_size as u64;
    let call = || GuestCall::SaveFile { name: name.clone(), path: path.clone(), r#become };
    let by_guest = async |guest: Arc<dyn Guest>| match guest.read_file(&path, max_size, r#become).await {
        Ok(content) => {
            let content = state.secrets.mask(&content).into_owned();
            keep(state, name.clone(), content).await
        }
        Err(error) => Answer::Failed(told(&error)),
    };
    done(answered(lent, call, by_guest).await)
}

/// Counts it, and keeps it off the async threads.
async fn keep(state: &mut State, name: String, content: Vec<u8>) -> Answer {
    let failed = |error| Answer::Failed(error);
    let (limits, kept) = (&state.limits, &mut state.kept.0);
    let others = || kept.iter().filter(|(other, _)| **other != name);
    if others().count() >= limits.artifacts {
        let text = format!("more than {} artifacts in a step (limit: artifacts)", limits.artifacts);
        return failed(CallError::LimitExceeded(text));
    }
    if others().map(|(_, size)| size).sum::<usize>() + content.len() > limits.artifact_data {
        let text =
            format!("more than {} bytes of artifacts in a step (limit: artifact data)", limits.artifact_data);
        return failed(CallError::LimitExceeded(text));
    }
    let Some(store) = state.artifacts.clone() else {
        return failed(CallError::Other("this run keeps no artifacts".to_owned()));
    };
    kept.insert(name.clone(), content.len());
    let saved = tokio::task::spawn_blocking(move || store.save(&name, &content)).await;
    match saved.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(()) => Answer::Done,
        Err(error) => failed(CallError::Other(format!("the artifact can't be kept: {error}"))),
    }
}

fn check_name(state: &State, name: &str) -> Told<()> {
    require(state, Capability::Artifacts, None, false)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(allowed) || name.starts_with('.') {
        let text = format!("an artifact's name has 1 to {MAX_NAME} letters, digits, `_`, `-` and inner `.`");
        return Err(wit::GuestError::Other(text));
    }
    Ok(())
}

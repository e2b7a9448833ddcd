use std::{collections::BTreeMap, io, sync::Arc};

use camino::Utf8PathBuf;
use tempfile::{NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt as _;

use super::{
    Told, answered, done, files,
    reader::{Limit, Pieces},
    require,
};
use crate::{
    base::Digest,
    guest::Guest,
    module::{
        bindings::farmhand::phase::guest as wit,
        grants::Capability,
        notes::Noted,
        state::{Lent, State},
        transcript::{Answer, CallError, GuestCall},
    },
};

const MAX_NAME: usize = 128;

/// An artifact that is not kept yet: a file beside the others. Dropped, it is removed.
struct Artifact {
    file: tokio::fs::File,
    path: TempPath,
}

impl Artifact {
    async fn begin(folder: Utf8PathBuf) -> io::Result<Self> {
        let begin = move || {
            std::fs::create_dir_all(&folder)?;
            NamedTempFile::new_in(&folder) // Mode 0600.
        };
        let (file, path) = off_thread(begin).await?.into_parts();
        Ok(Self { file: tokio::fs::File::from_std(file), path })
    }

    /// Gives it its name.
    async fn keep(mut self, path: Utf8PathBuf) -> io::Result<()> {
        self.file.flush().await?;
        off_thread(move || Ok(self.path.persist(path)?)).await
    }
}

/// Keeps the async threads from waiting for a disk.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// How many artifacts a call has kept, and of which sizes.
#[derive(Default)]
pub(in crate::module) struct ArtifactBudget(BTreeMap<String, usize>);

/// Where an artifact's bytes come from.
enum Source {
    Module(Vec<u8>),
    Guest(Pieces),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        match self {
            Self::Module(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Self::Guest(pieces) => pieces.next().await,
        }
    }
}

/// Keeps bytes for a module. Needs `artifacts`.
pub(super) async fn save(state: &mut State, lent: &Lent, name: String, content: Vec<u8>) -> Told<()> {
    check_name(state, &name)?;
    let call = GuestCall::SaveArtifact { name: name.clone(), digest: Digest::of(&content) };
    let answer = match lent {
        Lent::Answered(answers) => answers.answer(&call),
        Lent::Live { notes, .. } => {
            let noted = notes.call(|| call);
            let content = state.secrets.mask(&content).into_owned();
            let answer = answer(keep(state, name, Source::Module(content)).await);
            noted.answer(&answer);
            answer
        }
    };
    done(answer)
}

/// Keeps a file of the guest's, which is never in memory as a whole. Needs `artifacts`, and what reading it needs.
pub(super) async fn save_file(
    state: &mut State,
    lent: &Lent,
    name: String,
    path: String,
    r#become: bool,
) -> Told<()> {
    check_name(state, &name)?;
    files::check_path(state, &path, r#become)?;
    let call = || GuestCall::SaveFile { name: name.clone(), path: path.clone(), r#become };
    let by_guest = async |guest: Arc<dyn Guest>| {
        let limit = Limit { name: "artifact data", bytes: state.limits.artifact_data };
        let (path, secrets) = (path.clone(), state.secrets.clone());
        let pieces = Pieces::stream(guest, path, r#become, limit, secrets, Noted::default());
        answer(keep(state, name.clone(), Source::Guest(pieces)).await)
    };
    done(answered(lent, call, by_guest).await)
}

fn answer(kept: Result<(), CallError>) -> Answer {
    kept.map_or_else(Answer::Failed, |()| Answer::Done)
}

/// Keeps an artifact, and counts it. One that goes over a bound leaves nothing.
async fn keep(state: &mut State, name: String, mut source: Source) -> Result<(), CallError> {
    let (limits, kept) = (&state.limits, &mut state.kept.0);
    let others = || kept.iter().filter(|(other, _)| **other != name);
    if others().count() >= limits.artifacts {
        let text = format!("more than {} artifacts in a step (limit: artifacts)", limits.artifacts);
        return Err(CallError::LimitExceeded(text));
    }
    let room = limits.artifact_data.saturating_sub(others().map(|(_, size)| size).sum());
    let Some(folder) = &state.artifacts else {
        return Err(CallError::Other("this run keeps no artifacts".to_owned()));
    };
    let failed = |error: io::Error| CallError::Other(format!("the artifact can't be kept: {error}"));
    let mut artifact = Artifact::begin(folder.clone()).await.map_err(failed)?;
    let mut size = 0;
    while let Some(piece) = source.next().await? {
        size += piece.len();
        if size > room {
            let limit = limits.artifact_data;
            let text = format!("more than {limit} bytes of artifacts in a step (limit: artifact data)");
            return Err(CallError::LimitExceeded(text));
        }
        artifact.file.write_all(&piece).await.map_err(failed)?;
    }
    artifact.keep(folder.join(&name)).await.map_err(failed)?;
    kept.insert(name, size);
    Ok(())
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

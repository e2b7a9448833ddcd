use std::{pin::pin, sync::Arc};

use tokio_util::task::AbortOnDropHandle;

use super::{
    Told, files, misfit,
    queue::{Next, Open, Queue},
    told,
};
use crate::{
    guest::{Guest, GuestError},
    module::{
        notes::Noted,
        secrets::{Mask, Secrets},
        state::{Lent, State},
        transcript::{Answer, Bytes, CallError, GuestCall},
    },
};

/// Opens a file for a module. Needs what reading it as a whole needs. Secrets in it are masked.
pub(super) async fn open(state: &mut State, lent: &Lent, path: String, r#become: bool) -> Told<FileReader> {
    files::check_path(state, &path, r#become)?;
    let open = Open::new(&state.files, state.limits.open_files, "open files")?;
    let call = || GuestCall::ReadFile { path: path.clone(), r#become };
    let pieces = match lent {
        Lent::Answered(answers) => Pieces::play(answers.answer(&call())),
        Lent::Live { guest, notes } => {
            // The module may let it wait to be read.
            let apart = guest.apart().await.map_err(|error| told(&error))?;
            let guest = apart.unwrap_or_else(|| guest.clone());
            let noted = notes.call(call);
            let limit = Limit { name: "streamed file size", bytes: state.limits.streamed_file_size };
            Pieces::stream(guest, path.clone(), r#become, limit, state.secrets.clone(), noted)
        }
    };
    match pieces.queue.begun().await {
        Some(Err(error)) => Err(error.into()),
        _ => Ok(FileReader { pieces, _open: open }),
    }
}

/// A file that is read piece by piece. Dropped, no more of it is read.
#[allow(unreachable_pub)] // The bindings re-export it.
pub struct FileReader {
    pieces: Pieces,
    _open: Open,
}

impl FileReader {
    pub(super) async fn next(&mut self) -> Told<Option<Vec<u8>>> {
        Ok(self.pieces.next().await?)
    }
}

/// How many bytes may be read.
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) bytes: usize,
}

/// A file's pieces, as they come from the guest.
pub(super) struct Pieces {
    queue: Arc<Queue<(), Result<(), CallError>>>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Pieces {
    /// Reads a file while nobody takes its pieces, up to what may wait.
    pub(super) fn stream(
        guest: Arc<dyn Guest>,
        path: String,
        r#become: bool,
        limit: Limit,
        secrets: Secrets,
        noted: Noted,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let mut sink = Sink { mask: Mask::new(secrets), queue: queue.clone(), kept: Vec::new(), noted };
        let waiting = queue.clone();
        let task = tokio::spawn(async move {
            let ended = {
                let mut take = |piece: &[u8]| sink.take(piece);
                let work = pin!(guest.stream_from_file(&path, limit.bytes as u64, r#become, &mut take));
                waiting.hold_up(work).await
            };
            sink.finish(ended.map_err(|error| match error {
                GuestError::TooLarge { .. } => {
                    CallError::LimitExceeded(format!("{error} (limit: {})", limit.name))
                }
                error => told(&error),
            }));
        });
        Self { queue, _task: Some(AbortOnDropHandle::new(task)) }
    }

    fn play(answer: Answer) -> Self {
        let queue = Arc::new(Queue::default());
        match answer {
            Answer::Content(content) => {
                queue.push((), &content.0);
                queue.end(Ok(()));
            }
            Answer::Failed(error) => queue.end(Err(error)),
            Answer::Done | Answer::Ended { .. } => queue.end(Err(misfit())),
        }
        Self { queue, _task: None }
    }

    /// Waits for the next one.
    pub(super) async fn next(&self) -> Result<Option<Vec<u8>>, CallError> {
        match self.queue.next().await {
            Next::Piece((), piece) => Ok(Some(piece)),
            Next::End(end) => end.map(|()| None),
        }
    }
}

struct Sink {
    mask: Mask,
    queue: Arc<Queue<(), Result<(), CallError>>>,
    /// For those who want to know the whole: as much as they make use of, and a byte more.
    kept: Vec<u8>,
    noted: Noted,
}

impl Sink {
    fn take(&mut self, piece: &[u8]) {
        let seen = self.mask.push(piece);
        let room = (self.noted.uses() + 1).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&seen[..seen.len().min(room)]);
        self.queue.push((), &seen);
    }

    fn finish(mut self, ended: Result<(), CallError>) {
        let rest = self.mask.finish();
        self.kept.extend_from_slice(&rest);
        self.queue.push((), &rest);
        self.noted.answer(&match &ended {
            Ok(()) => Answer::Content(Bytes(self.kept)),
            Err(error) => Answer::Failed(error.clone()),
        });
        self.queue.end(ended);
    }
}

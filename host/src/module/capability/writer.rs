use std::{future::pending, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Resource;

use super::{
    Told, done, files,
    queue::{Open, PIECE},
    reveal, told,
};
use crate::{
    guest::{Guest, GuestError},
    module::{
        bindings::farmhand::phase::guest as wit,
        notes::Notes,
        state::{Lent, State},
        transcript::{Answer, Answers, CallError, GuestCall, StreamedContent},
    },
};

/// So many pieces wait for the guest before the module does.
const WAITING: usize = 4;

/// Begins to write a file for a module. Needs what writing it as a whole needs.
pub(super) fn create(
    state: &mut State,
    lent: &Lent,
    path: String,
    mode: u32,
    r#become: bool,
) -> Told<FileWriter> {
    files::check_path(state, &path, r#become)?;
    files::check_mode(mode)?;
    let open = Open::new(&state.files, state.limits.open_files, "open files")?;
    let target = match lent {
        Lent::Answered(answers) => Target::Answered(answers.clone()),
        Lent::Live { guest, notes } => {
            let (sender, receiver) = mpsc::channel(WAITING);
            let task = tokio::spawn(write_all(guest.clone(), receiver, path.clone(), mode, r#become));
            Target::Guest { notes: notes.clone(), sender, task: AbortOnDropHandle::new(task) }
        }
    };
    let content = StreamedContent::default();
    Ok(FileWriter { path, mode, r#become, content, written: Ok(()), target, _open: open })
}

/// Adds to a file, and waits while the guest is behind.
pub(super) async fn write(
    state: &mut State,
    writer: &Resource<FileWriter>,
    content: wit::Content,
) -> wasmtime::Result<Told<()>> {
    let limit = state.limits.streamed_file_size;
    let bytes = reveal(state, &content).map(<[u8]>::to_vec);
    let writer = state.table.get_mut(writer)?;
    if writer.written.is_ok() {
        writer.written = match bytes {
            Ok(bytes) => writer.write(&content, bytes, limit).await,
            Err(error) => Err(error),
        };
    }
    Ok(writer.written.clone())
}

/// A file that is written piece by piece. Dropped before its end, nothing is left of it.
#[allow(unreachable_pub)] // The bindings re-export it.
pub struct FileWriter {
    path: String,
    mode: u32,
    r#become: bool,
    content: StreamedContent,
    /// The first error, after which nothing more is written.
    written: Told<()>,
    target: Target,
    _open: Open,
}

enum Target {
    Guest { notes: Notes, sender: mpsc::Sender<Piece>, task: AbortOnDropHandle<Result<(), GuestError>> },
    Answered(Arc<dyn Answers>),
}

/// The end is said: a writer that is dropped must not look like one that is finished.
enum Piece {
    Bytes(Bytes),
    End,
}

impl FileWriter {
    async fn write(&mut self, content: &wit::Content, bytes: Vec<u8>, limit: usize) -> Told<()> {
        if self.content.add(content, bytes.len()) > limit as u64 {
            let text =
                format!("{} would be larger than {limit} bytes (limit: streamed file size)", self.path);
            return Err(wit::GuestError::LimitExceeded(text));
        }
        if let Target::Guest { sender, .. } = &self.target {
            let mut rest = Bytes::from(bytes);
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE));
                // A guest that takes no more says why at the end.
                let _ = sender.send(Piece::Bytes(piece)).await;
            }
        }
        Ok(())
    }

    /// Puts the file in its place.
    pub(super) async fn finish(self) -> Told<()> {
        self.written?;
        let call = || GuestCall::WriteFile {
            path: self.path,
            content: self.content.finish(),
            mode: self.mode,
            r#become: self.r#become,
        };
        done(match self.target {
            Target::Answered(answers) => answers.answer(&call()),
            Target::Guest { notes, sender, task } => {
                let noted = notes.call(call);
                let _ = sender.send(Piece::End).await;
                let answer = match task.await {
                    Ok(Ok(())) => Answer::Done,
                    Ok(Err(error)) => Answer::Failed(told(&error)),
                    Err(error) => Answer::Failed(CallError::Other(error.to_string())),
                };
                noted.answer(&answer);
                answer
            }
        })
    }
}

async fn write_all(
    guest: Arc<dyn Guest>,
    pieces: mpsc::Receiver<Piece>,
    path: String,
    mode: u32,
    r#become: bool,
) -> Result<(), GuestError> {
    let mut content = pin!(stream::unfold(pieces, async |mut pieces| match pieces.recv().await {
        Some(Piece::Bytes(bytes)) => Some((bytes, pieces)),
        Some(Piece::End) => None,
        // It was dropped, and so is this task about to be.
        None => pending().await,
    }));
    guest.stream_to_file(&path, &mut content, mode, r#become).await
}

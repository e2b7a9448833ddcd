use std::{pin::pin, sync::Arc};

use tokio_util::task::AbortOnDropHandle;

use super::{
    Told, exec, misfit,
    output::Capture,
    queue::{Next, Open, Queue},
};
use crate::{
    guest::{Exit, OutputSink, Stream},
    module::{
        bindings::farmhand::phase::guest as wit,
        state::{Lent, State},
        transcript::{Answer, CallError, GuestCall},
    },
};

type Output = Queue<Stream, Result<Exit, CallError>>;

/// Starts a command for a module. Needs what `exec` needs.
pub(super) fn start(state: &mut State, lent: &Lent, command: wit::Command) -> Told<Process> {
    let admitted = exec::admit(state, &command)?;
    let open = Open::new(&state.commands, state.limits.commands, "commands")?;
    let queue = Arc::new(Output::default());
    let (guest, noted) = match lent {
        Lent::Answered(answers) => {
            play(&queue, answers.answer(&GuestCall::Exec((&command).into())));
            return Ok(Process { queue, _task: None, _open: open });
        }
        Lent::Live { guest, notes } => (guest.clone(), notes.call(|| GuestCall::Exec((&command).into()))),
    };
    let mut sink = Sink { capture: Capture::new(state, command.log_output), queue: queue.clone() };
    let task = tokio::spawn({
        let queue = queue.clone();
        async move {
            let ended = {
                let work = pin!(async {
                    // The module may let it wait to be read.
                    guest.apart().await?.unwrap_or(guest).exec(&admitted, &mut sink).await
                });
                queue.hold_up(work).await
            };
            for (stream, rest) in sink.capture.finish() {
                queue.push(stream, &rest);
            }
            let end = ended.as_ref().map(Clone::clone).map_err(super::told);
            noted.answer(&exec::ended_with(ended, &mut sink.capture));
            queue.end(end);
        }
    });
    Ok(Process { queue, _task: Some(AbortOnDropHandle::new(task)), _open: open })
}

/// A command that runs while the module goes on. Dropped, it is ended.
#[allow(unreachable_pub)] // The bindings re-export it.
pub struct Process {
    queue: Arc<Output>,
    _task: Option<AbortOnDropHandle<()>>,
    _open: Open,
}

impl Process {
    pub(super) async fn next(&mut self) -> Told<wit::Event> {
        match self.queue.next().await {
            Next::Piece(Stream::Stdout, piece) => Ok(wit::Event::Stdout(piece)),
            Next::Piece(Stream::Stderr, piece) => Ok(wit::Event::Stderr(piece)),
            Next::End(end) => end.map(|exit| wit::Event::Exited(exit.into())).map_err(Into::into),
        }
    }
}

fn play(queue: &Output, answer: Answer) {
    match answer {
        Answer::Ended { exit, stdout, stderr, .. } => {
            queue.push(Stream::Stdout, &stdout.0);
            queue.push(Stream::Stderr, &stderr.0);
            queue.end(Ok(exit));
        }
        Answer::Failed(error) => queue.end(Err(error)),
        Answer::Done | Answer::Content(_) => queue.end(Err(misfit())),
    }
}

struct Sink {
    capture: Capture,
    queue: Arc<Output>,
}

impl OutputSink for Sink {
    fn write(&mut self, stream: Stream, chunk: &[u8]) {
        let seen = self.capture.take(stream, chunk);
        if !seen.is_empty() {
            self.queue.push(stream, &seen);
        }
    }
}

use std::time::Duration;

use super::{Told, answered, misfit, output::Capture, require, reveal, reveal_all, told};
use crate::{
    guest::{Command, Exit},
    module::{
        bindings::farmhand::phase::guest as wit,
        grants::Capability,
        state::{Lent, State},
        transcript::{Answer, Bytes, GuestCall},
    },
};

/// Bytes of arguments and environment together. Linux takes about 2 MiB, and 128 KiB in one argument.
const MAX_ARGUMENTS: usize = 1 << 20;

/// Runs a command for a module. Needs `exec`, and `become` to run it as root.
pub(super) async fn exec(state: &mut State, lent: &Lent, command: wit::Command) -> Told<wit::Output> {
    let admitted = admit(state, &command)?;
    let mut capture = Capture::new(state, command.log_output);
    let call = || GuestCall::Exec((&command).into());
    let by_guest = async |guest: std::sync::Arc<dyn crate::guest::Guest>| {
        let ended = guest.exec(&admitted, &mut capture).await;
        capture.finish();
        ended_with(ended, &mut capture)
    };
    match answered(lent, call, by_guest).await {
        Answer::Ended { exit, stdout, stderr, truncated } => {
            Ok(wit::Output { exit: exit.into(), stdout: stdout.0, stderr: stderr.0, truncated })
        }
        Answer::Failed(error) => Err(error.into()),
        Answer::Done | Answer::Content(_) => Err(misfit().into()),
    }
}

/// The answer to a command that ended.
pub(super) fn ended_with(ended: Result<Exit, crate::guest::GuestError>, capture: &mut Capture) -> Answer {
    match ended {
        Err(error) => Answer::Failed(told(&error)),
        Ok(exit) => {
            let kept = capture.kept();
            let (stdout, stderr) = (Bytes(kept.stdout), Bytes(kept.stderr));
            Answer::Ended { exit, stdout, stderr, truncated: kept.truncated }
        }
    }
}

/// Checks grants and bounds, and gives the command as the guest takes it: with secrets in their places.
pub(super) fn admit(state: &State, command: &wit::Command) -> Told<Command> {
    require(state, Capability::Exec, None, command.become_)?;
    if command.argv.is_empty() {
        return Err(wit::GuestError::Other("a command needs at least a program".to_owned()));
    }
    let mut env = Vec::new();
    let mut size: usize = command.argv.iter().map(|argument| argument.len() + 1).sum();
    for wit::Variable { name, value } in &command.env {
        let value = reveal(state, value)?;
        size += name.len() + value.len() + 2;
        if size > MAX_ARGUMENTS {
            break;
        }
        let Ok(value) = str::from_utf8(value) else {
            return Err(wit::GuestError::Other("an environment variable's value is not UTF-8".to_owned()));
        };
        env.push((name.clone(), value.to_owned()));
    }
    if size > MAX_ARGUMENTS {
        return Err(wit::GuestError::LimitExceeded(format!(
            "arguments and environment of a command take more than {MAX_ARGUMENTS} bytes (limit: arguments)"
        )));
    }
    let stdin = reveal_all(state, &command.stdin, "a command's standard input")?;
    Ok(Command {
        argv: command.argv.clone(),
        env,
        cwd: command.cwd.clone(),
        stdin,
        r#become: command.become_,
        // Without a time-out of its own it ends with the call: when the call's time is over, this future is dropped.
        timeout: command.timeout.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

impl From<Exit> for wit::Exit {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Status(status) => Self::Status(status),
            Exit::Signal(signal) => Self::Signal(signal),
        }
    }
}

//! The guest's clock, put right by a command: for guests without a guest agent. After a revert the clock is as old as the
//! snapshot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Command, Guest, GuestError, capture};

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Sets the guest's clock to `now`, to the second, as root. Needs `date` of coreutils or busybox in the guest.
pub async fn set_clock(guest: &dyn Guest, now: SystemTime) -> Result<(), GuestError> {
    let error = |message: String| GuestError::Failed { purpose: "set the clock", message };
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_err(|_| error("the host's own clock is before 1970".into()))?
        .as_secs();
    // busybox knows neither fractions nor long options.
    let command = Command {
        r#become: true,
        timeout: Some(LIMIT),
        ..Command::new(["date", "-u", "-s", &format!("@{seconds}")])
    };
    let output = capture(guest, &command, 4096).await?;
    if output.exit.success() { Ok(()) } else { Err(error(output.words())) }
}

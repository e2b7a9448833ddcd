//! The first boot of a guest with cloud-init.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    RunError, Site,
    ready::{self, Deadline},
};
use crate::{
    farm::Machine,
    guest::{Command, Exit, Guest, GuestError, capture},
};

/// Between two logins while cloud-init makes the guest's users.
const LOGIN_INTERVAL: Duration = Duration::from_secs(2);

/// So much is kept of what cloud-init says.
const WORDS: usize = 4096;

/// Connects to a guest whose users and keys cloud-init makes while it boots, and waits until cloud-init is done: what it still
/// has to do would get into the way of the phases, and not into the checkpoint.
pub(super) async fn connect(
    site: &Site,
    machine: &Machine,
    deadline: Deadline,
) -> Result<Arc<dyn Guest>, RunError> {
    site.progress(&machine.name, "waiting until cloud-init lets us in".to_owned());
    let guest = loop {
        match ready::connect(site, machine, deadline).await {
            // An SSH server may be there before cloud-init has given it its key and its users.
            Err(RunError::Guest(GuestError::LoginRefused { .. } | GuestError::HostKeyChanged { .. }))
                if deadline.rest() > LOGIN_INTERVAL =>
            {
                sleep(LOGIN_INTERVAL).await;
            }
            connected => break connected?,
        }
    };
    site.progress(&machine.name, "waiting until cloud-init is done".to_owned());
    let hint = |about: &str| format!("{about}: farmhand ssh '{}' -- cloud-init status --long", machine.name);
    let not_ready =
        |problem: String, hint: String| RunError::NotReady { requirement: "cloud-init", problem, hint };
    let command =
        Command { timeout: Some(deadline.rest()), ..Command::new(["cloud-init", "status", "--wait"]) };
    match capture(&*guest, &command, WORDS).await {
        Ok(output) => match output.exit {
            Exit::Status(0) => Ok(guest),
            // cloud-init 23.4 and later: it recovered.
            Exit::Status(2) => {
                site.warn(&machine.name, "cloud-init is done, but not everything went well".to_owned());
                Ok(guest)
            }
            Exit::Status(127) => {
                let hint = "leave vm.metadata.cloud_init out, and say in vm.metadata.auth how the image lets users in";
                Err(not_ready("is not in the image".to_owned(), hint.to_owned()))
            }
            exit => {
                let words = String::from_utf8_lossy(&output.stdout);
                let words: Vec<_> =
                    words.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).collect();
                Err(not_ready(format!("failed ({exit}; {})", words.join(" ")), hint("ask it why")))
            }
        },
        Err(GuestError::TimedOut(_)) => {
            let limit = site.timeouts.connection.as_secs();
            let problem = format!("was not done {limit} s after the start");
            Err(not_ready(
                problem,
                hint("give it more time by `connection_timeout` in farm.yaml, or ask it what it waits for"),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

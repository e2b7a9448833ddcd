//! The first boot of a guest with cloud-init.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    RunError, Site,
    ready::{self, Deadline},
};
use crate::{
    farm::Machine,
    guest::{Command, Exit, Guest, GuestError, capture, one_line},
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
    let name = &machine.name;
    let not_ready =
        |problem: String, hint: String| RunError::NotReady { requirement: "cloud-init", problem, hint };
    let command = Command {
        timeout: Some(deadline.rest()),
        ..Command::new(["cloud-init", "status", "--wait", "--long"])
    };
    match capture(&*guest, &command, WORDS).await {
        Ok(output) => match output.exit {
            Exit::Status(0) => Ok(guest),
            // cloud-init 23.4 and later: it recovered.
            Exit::Status(2) => {
                let words = words(&output.stdout);
                site.warn(name, format!("cloud-init is done, but not everything went well: {words}"));
                Ok(guest)
            }
            Exit::Status(127) => {
                let hint = "leave vm.metadata.cloud_init out, and say in vm.metadata.auth how the image lets users in";
                Err(not_ready("is not in the image".to_owned(), hint.to_owned()))
            }
            exit => {
                // Asked once more after the next boot it would know nothing of this one.
                let problem = format!("failed ({exit}): {}", words(&output.stdout));
                let hint = format!("see its log: farmhand ssh '{name}' -- cat /var/log/cloud-init.log");
                Err(not_ready(problem, hint))
            }
        },
        Err(GuestError::TimedOut(_)) => {
            let limit = site.timeouts.connection.as_secs();
            let problem = format!("was not done {limit} s after the start");
            let hint = "give it more time by `connection_timeout` in farm.yaml, or see what it waits for";
            Err(not_ready(problem, format!("{hint}: farmhand ssh '{name}' -- cloud-init status --long")))
        }
        Err(error) => Err(error.into()),
    }
}

/// What `cloud-init status --long` says, in a line, without the dots that it writes while it waits and what nobody asked for.
fn words(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let tells = |line: &&str| {
        line.contains(char::is_alphanumeric)
            && !line.starts_with("boot_status_code:")
            && !line.starts_with("last_update:")
    };
    one_line(output.lines().filter(tells).collect::<Vec<_>>().join("\n").as_bytes())
}

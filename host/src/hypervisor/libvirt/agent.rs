//! The guest agent.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ASK_LIMIT, Libvirt, calls};
use crate::hypervisor::{HypervisorError, domain_xml::AgentChannel};

/// How long the agent may take to answer a command. `guest-exec` and the like return at once, so this is plenty.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long an agent that is there may take to say so.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// The pause after an agent that has its channel open did not answer; doubled each time up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// Waits until the agent answers; `false` if the domain has no channel for one.
///
/// An open channel is not yet an agent: after a revert the channel is as it was in the snapshot, and an agent that was
/// killed leaves it open for a while. So the agent is asked.
pub(super) async fn wait(libvirt: &Libvirt, name: &str) -> Result<bool, HypervisorError> {
    let operation = format!("wait for the guest agent of domain {name}");
    let mut waiter = libvirt.events(&operation)?;
    let mut pause = FIRST_PAUSE;
    loop {
        match libvirt.domain_call(ASK_LIMIT, &operation, name, calls::agent_channel).await? {
            AgentChannel::Absent => return Ok(false),
            AgentChannel::Disconnected => waiter.changed(name).await?,
            AgentChannel::Connected => {
                if command(libvirt, name, &json!({"execute": "guest-ping"}), PING_LIMIT).await.is_ok() {
                    return Ok(true);
                }
                // No event tells when an agent with an open channel begins to answer.
                if let Ok(changed) = tokio::time::timeout(pause, waiter.changed(name)).await {
                    changed?;
                }
                pause = MAX_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Sends one command and gives the agent's whole answer. Its arguments stay out of errors: they may hold secrets.
pub(super) async fn command(
    libvirt: &Libvirt,
    name: &str,
    command: &Value,
    limit: Duration,
) -> Result<Value, HypervisorError> {
    let verb = command.get("execute").and_then(Value::as_str).unwrap_or("?");
    let operation = format!("let the guest agent of domain {name} carry out {verb}");
    let text = command.to_string();
    // libvirt's own limit comes first, so that its words are heard; a wait for the call's turn is not counted by it.
    let seconds = i32::try_from(limit.as_secs()).unwrap_or(i32::MAX);
    let answer = libvirt
        .domain_call(limit + ASK_LIMIT, &operation, name, move |domain| {
            calls::agent_command(domain, &text, seconds)
        })
        .await?;
    serde_json::from_str(&answer)
        .map_err(|error| HypervisorError::Answer { operation, message: error.to_string() })
}

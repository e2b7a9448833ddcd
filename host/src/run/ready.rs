//! From a started domain to a guest that runs commands.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{RunError, Site};
use crate::{
    base::Login,
    farm::{LOOPBACK, Machine},
    guest::{Endpoint, Guest, GuestError, clock},
    hypervisor::{Domain, DomainState, Hypervisor, HypervisorError},
};

/// A part of the time that a machine has to answer; when it has passed in silence, the machine is taken to hang in its boot
/// (seen about once in 70 boots under TCG) and is reset.
const RESET_AFTER: f64 = 0.5;

/// Between two looks at the SSH port while the guest agent is waited for. A port of a user-mode network answers long before
/// the guest does, and looking at it often slows the boot.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How long one such look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// How long the guest agent may take to be there again after a revert.
const AGENT_AFTER_REVERT: Duration = Duration::from_secs(5);

/// Where the guest's host key lies.
const HOST_KEY_FILE: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// Boots a machine that is off and connects to it. A boot that hangs is reset once.
pub(super) async fn boot(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    site.hypervisor.start(&machine.name).await?;
    connect_to_booting(site, machine, limit).await
}

/// Connects to a machine that is booting.
async fn connect_to_booting(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    let begun = Instant::now();
    let mut resets = 0;
    let patience = limit.mul_f64(RESET_AFTER);
    while !timeout(patience, answer(site, machine, patience)).await.unwrap_or(Ok(false))? {
        if resets > 0 {
            return Err(RunError::NoAnswer { waited: begun.elapsed(), resets });
        }
        resets += 1;
        site.warn(&machine.name, format!("no answer after {} s: resetting it", patience.as_secs()));
        site.hypervisor.reset(&machine.name).await?;
    }
    connect(site, machine, limit).await
}

/// Waits until the guest agent answers, or else the SSH server. `Ok(false)` when neither does.
async fn answer(site: &Site, machine: &Machine, limit: Duration) -> Result<bool, RunError> {
    let agent = async {
        match site.hypervisor.wait_for_agent(&machine.name, limit).await {
            Ok(true) => Ok(true),
            // No agent: the SSH server alone decides.
            Ok(false) => std::future::pending().await,
            Err(error) => Err(RunError::from(error)),
        }
    };
    let ssh = async {
        let domain = domain(site, &machine.name).await?;
        loop {
            sleep(PROBE_INTERVAL).await;
            let endpoint = endpoint(&domain)?;
            match site.connector.connect(&endpoint, &site.login(machine), PROBE_LIMIT).await {
                Ok(connection) => connection.guest.close().await,
                Err(GuestError::Unreachable { .. }) => continue,
                // It answers; what it says is for the real connection to judge.
                Err(_) => {}
            }
            return Ok::<_, RunError>(true);
        }
    };
    tokio::select! {
        biased;
        answered = agent => answered,
        answered = ssh => answered,
    }
}

/// Connects to a machine that runs, and pins its host key when it is not pinned yet.
pub(super) async fn connect(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    let domain = domain(site, &machine.name).await?;
    let mut endpoint = endpoint(&domain)?;
    let pinned = endpoint.host_key.is_some();
    if !pinned {
        endpoint.host_key = host_key_from_agent(site, &machine.name).await;
    }
    let login: Login = site.login(machine);
    let connection = site.connector.connect(&endpoint, &login, limit).await?;
    if let Some(mut metadata) = domain.metadata.filter(|_| !pinned) {
        metadata.ssh_host_key = Some(connection.host_key.clone());
        site.hypervisor.set_metadata(&machine.name, &metadata).await?;
    }
    Ok(connection.guest)
}

/// Reconnects to a machine that was put back into a checkpoint, and puts its clock right: it still shows the checkpoint's
/// time.
pub(super) async fn reconnect(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    let (clock_set, guest) =
        tokio::join!(synchronize_clock(&*site.hypervisor, &machine.name), connect(site, machine, limit),);
    let guest = guest?;
    // The clock is a convenience for most phases: when it can't be set, that is said, and the run goes on.
    if let Err(refused) = clock_set
        && let Err(error) = clock::set_clock(&*guest, std::time::SystemTime::now()).await
    {
        let line = format!("the guest's clock is as old as the checkpoint: {refused}; over SSH: {error}");
        site.warn(&machine.name, line);
    }
    Ok(guest)
}

/// Puts the clock of a machine right that was put back into a checkpoint, with its guest agent.
pub async fn synchronize_clock(hypervisor: &dyn Hypervisor, name: &str) -> Result<(), HypervisorError> {
    // The agent's channel is open again a moment after the revert.
    hypervisor.wait_for_agent(name, AGENT_AFTER_REVERT).await?;
    hypervisor.synchronize_clock(name).await
}

/// Makes sure that a machine runs and that its host key is known, for another SSH client than farmhand's own.
pub async fn reach(site: &Site, machine: &Machine) -> Result<Endpoint, RunError> {
    let limit = site.timeouts.connection;
    let found = domain(site, &machine.name).await?;
    if found.state != DomainState::Running {
        let name = &machine.name;
        let start = async {
            // Another farmhand may have started it before it was locked.
            if !is_running(site, name).await? {
                site.progress(name, format!("{name} is off: starting it"));
                boot(site, machine, limit).await?.close().await;
            }
            Ok::<_, RunError>(())
        };
        site.locks.during(&site.hypervisor, name, &|notice| site.notice(name, notice), start).await??;
    } else if endpoint(&found)?.host_key.is_none() {
        connect(site, machine, limit).await?.close().await;
    }
    endpoint(&domain(site, &machine.name).await?)
}

/// Whether a machine runs.
pub(super) async fn is_running(site: &Site, name: &str) -> Result<bool, RunError> {
    Ok(domain(site, name).await?.state == DomainState::Running)
}

async fn domain(site: &Site, name: &str) -> Result<Domain, RunError> {
    site.hypervisor.domain(name).await?.ok_or_else(|| RunError::NoDomain(name.to_owned()))
}

/// Where a domain's guest listens for SSH.
fn endpoint(domain: &Domain) -> Result<Endpoint, RunError> {
    let port = domain.ssh_port.ok_or_else(|| RunError::NoWay(domain.name.clone()))?;
    let host_key = domain.metadata.as_ref().and_then(|metadata| metadata.ssh_host_key.clone());
    Ok(Endpoint { host: LOOPBACK.to_string(), port, host_key })
}

/// Asks the guest agent for the host key, so that the very first connection is verified: the agent's channel does not cross
/// a network. `None` when the agent can't say; then the key that the guest shows is taken and pinned.
async fn host_key_from_agent(site: &Site, name: &str) -> Option<String> {
    let ask = |command: Value| async move { site.hypervisor.agent_command(name, &command).await };
    let opened =
        ask(json!({ "execute": "guest-file-open", "arguments": { "path": HOST_KEY_FILE } })).await.ok()?;
    let handle = opened.get("return")?.clone();
    let read = json!({ "execute": "guest-file-read", "arguments": { "handle": handle, "count": 4096 } });
    let content = ask(read).await;
    // A handle that stays open in the guest is harmless, so its answer does not matter.
    let _ = ask(json!({ "execute": "guest-file-close", "arguments": { "handle": handle } })).await;
    let bytes = BASE64_STANDARD.decode(content.ok()?.pointer("/return/buf-b64")?.as_str()?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut words = text.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    Some(format!("{kind} {key}"))
}

//! From a started domain to a guest that runs commands.

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{RunError, Site};
use crate::{
    base::Login,
    farm::{LOOPBACK, Machine, Transport},
    guest::{
        Command, Endpoint, Exit, Guest, GuestError,
        agent::{AgentChannel, AgentGuest},
        capture, clock,
    },
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

/// How long it is still waited for when the guest answers by another way.
const AGENT_AFTER_GUEST: Duration = Duration::from_secs(1);

/// Between two logins while cloud-init makes the guest's users.
const LOGIN_INTERVAL: Duration = Duration::from_secs(2);

/// So much is kept of what cloud-init says.
const CLOUD_INIT_WORDS: usize = 4096;

/// Where the guest's host key lies.
const HOST_KEY_FILE: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// Boots a machine that is off and connects to it. A boot that hangs is reset once, one that ends is begun once more.
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
    loop {
        let answered = timeout(patience, answer(site, machine, patience)).await.unwrap_or(Ok(false));
        if let Ok(true) = answered {
            break;
        }
        let stopped = !is_running(site, &machine.name).await?;
        match answered {
            // The guest powered itself off, or QEMU died under it, which is seen now and then under TCG.
            Err(error) if !stopped || resets > 0 => return Err(error),
            Ok(_) if resets > 0 => return Err(RunError::NoAnswer { waited: begun.elapsed(), resets }),
            _ => {}
        }
        resets += 1;
        if stopped {
            site.warn(&machine.name, "it stopped while it booted: starting it again".to_owned());
            site.hypervisor.start(&machine.name).await?;
        } else {
            site.warn(&machine.name, format!("no answer after {} s: resetting it", patience.as_secs()));
            site.hypervisor.reset(&machine.name).await?;
        }
    }
    match machine.first_boot() {
        None => connect(site, machine, limit).await,
        Some(_) => connect_to_cloud(site, machine, limit).await,
    }
}

/// Connects to a guest whose users and keys cloud-init makes while it boots, and waits until cloud-init is done: what it still
/// has to do would get into the way of the phases, and not into the checkpoint.
async fn connect_to_cloud(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    site.progress(&machine.name, "waiting until cloud-init lets us in".to_owned());
    let begun = Instant::now();
    let guest = loop {
        let rest = limit.saturating_sub(begun.elapsed());
        match connect(site, machine, rest).await {
            // An SSH server may be there before cloud-init has given it its key and its users.
            Err(RunError::Guest(GuestError::LoginRefused { .. } | GuestError::HostKeyChanged { .. }))
                if rest > LOGIN_INTERVAL =>
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
    let command = Command { timeout: Some(limit), ..Command::new(["cloud-init", "status", "--wait"]) };
    match capture(&*guest, &command, CLOUD_INIT_WORDS).await {
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
        Err(GuestError::TimedOut(limit)) => {
            let problem = format!("is not done after {} s", limit.as_secs());
            Err(not_ready(
                problem,
                hint("give it more time by `connection_timeout` in farm.yaml, or ask it what it waits for"),
            ))
        }
        Err(error) => Err(error.into()),
    }
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
        let endpoint = match endpoint(&domain) {
            Ok(endpoint) if machine.transport != Some(Transport::Agent) => endpoint,
            // The guest agent alone decides.
            _ => return std::future::pending().await,
        };
        loop {
            sleep(PROBE_INTERVAL).await;
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

/// Connects to a machine that runs: by the way that its definition names, else by SSH, or through the guest agent where the
/// machine has no way for SSH.
pub(super) async fn connect(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    match machine.transport {
        Some(Transport::Agent) => connect_by_agent(site, machine, limit).await,
        Some(Transport::Ssh) => connect_by_ssh(site, machine, limit).await,
        None => match connect_by_ssh(site, machine, limit).await {
            Err(RunError::NoWay(_)) => connect_by_agent(site, machine, limit).await,
            connected => connected,
        },
    }
}

/// Connects through the guest agent.
async fn connect_by_agent(
    site: &Site,
    machine: &Machine,
    limit: Duration,
) -> Result<Arc<dyn Guest>, RunError> {
    site.progress(&machine.name, "waiting for the guest agent".to_owned());
    if !site.hypervisor.wait_for_agent(&machine.name, limit).await? {
        return Err(RunError::NotReady {
            requirement: "the guest agent",
            problem: format!("did not answer within {} s", limit.as_secs()),
            hint: "install qemu-guest-agent in the image, and give the domain a channel `org.qemu.guest_agent.0`".to_owned(),
        });
    }
    let channel = DomainAgent { hypervisor: site.hypervisor.clone(), name: machine.name.clone() };
    Ok(Arc::new(AgentGuest::new(Arc::new(channel), site.login(machine))))
}

/// The guest agent of a domain.
struct DomainAgent {
    hypervisor: Arc<dyn Hypervisor>,
    name: String,
}

#[async_trait]
impl AgentChannel for DomainAgent {
    async fn command(&self, command: &Value) -> Result<Value, String> {
        self.hypervisor.agent_command(&self.name, command).await.map_err(|error| error.to_string())
    }
}

/// Connects by SSH, and pins the guest's host key when it is not pinned yet.
async fn connect_by_ssh(site: &Site, machine: &Machine, limit: Duration) -> Result<Arc<dyn Guest>, RunError> {
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
    site.progress(
        &machine.name,
        "waiting until the guest answers again, and putting its clock right".to_owned(),
    );
    let mut clock_set = pin!(synchronize_clock(&*site.hypervisor, &machine.name));
    let mut connecting = pin!(connect(site, machine, limit));
    let (guest, clock_set) = tokio::select! {
        clock_set = &mut clock_set => (connecting.await?, clock_set.map_err(|refused| refused.to_string())),
        guest = &mut connecting => {
            let guest = guest?;
            // A guest that has no agent is not waited for.
            let clock_set = match timeout(AGENT_AFTER_GUEST, clock_set).await {
                Ok(clock_set) => clock_set.map_err(|refused| refused.to_string()),
                Err(_) => Err("the guest agent does not answer".to_owned()),
            };
            (guest, clock_set)
        }
    };
    // The clock is a convenience for most phases: when it can't be set, that is said, and the run goes on.
    if let Err(refused) = clock_set
        && let Err(error) = clock::set_clock(&*guest, std::time::SystemTime::now()).await
    {
        let line = format!("the guest's clock is as old as the checkpoint: {refused}; by a command: {error}");
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

/// Where a domain's guest listens for SSH, and its host key if that is pinned.
pub fn endpoint(domain: &Domain) -> Result<Endpoint, RunError> {
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

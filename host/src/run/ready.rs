//! From a started domain to a guest that runs commands.

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{
    RunError, Site,
    address::{self, Found, Source},
    cloud_init, network,
};
use crate::{
    base::Login,
    farm::{Machine, Transport},
    guest::{
        Endpoint, Guest, GuestError,
        agent::{AgentChannel, AgentGuest},
        clock,
    },
    hypervisor::{Domain, DomainState, Hypervisor, HypervisorError, NewNetwork},
};

/// A part of the time that a machine has to answer; when it has passed in silence, the machine is taken to hang in its boot
/// (seen about once in 70 boots under TCG) and is reset.
const RESET_AFTER: f64 = 0.5;

/// Between two looks at the SSH port while the guest agent is waited for. A port of a user-mode network answers long before
/// the guest does, and looking at it often slows the boot.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The same in other networks, where nothing answers before the guest does.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long one such look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// How long the guest agent may take to be there again after a revert.
const AGENT_AFTER_REVERT: Duration = Duration::from_secs(5);

/// How long it is still waited for when the guest answers by another way.
const AGENT_AFTER_GUEST: Duration = Duration::from_secs(1);

/// How long the agent of a machine that is up may take to say so, before the machine is taken to be booting.
const AGENT_WHEN_UP: Duration = Duration::from_millis(500);

/// How long a guest is tried at an address that may turn out to be another one.
const ADDRESS_TRUSTED: Duration = Duration::from_secs(15);

/// Between two looks for an address: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Where the guest's host key lies.
const HOST_KEY_FILE: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// Until when a machine must be ready. All that is waited for on the way counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    begun: Instant,
    limit: Duration,
}

impl Deadline {
    /// From now on.
    pub(super) fn after(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit }
    }

    /// How long it still is.
    pub(super) fn rest(&self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }
}

/// Boots a machine that is off and connects to it. A boot that hangs is reset once, one that ends is begun once more.
pub(super) async fn boot(
    site: &Site,
    machine: &Machine,
    network: Option<&NewNetwork>,
) -> Result<Arc<dyn Guest>, RunError> {
    network::prepare(site, machine, network).await?;
    site.hypervisor.start(&machine.name).await?;
    let deadline = Deadline::after(site.timeouts.connection);
    wait_for_boot(site, machine, deadline).await?;
    match machine.first_boot() {
        None => connect(site, machine, deadline).await,
        Some(_) => cloud_init::connect(site, machine, deadline).await,
    }
}

/// Waits until a machine that is booting shows a sign of life.
async fn wait_for_boot(site: &Site, machine: &Machine, deadline: Deadline) -> Result<(), RunError> {
    let mut resets = 0;
    let patience = deadline.limit.mul_f64(RESET_AFTER);
    loop {
        let patience = patience.min(deadline.rest());
        let answered = timeout(patience, answer(site, machine, patience)).await.unwrap_or(Ok(false));
        if let Ok(true) = answered {
            return Ok(());
        }
        let stopped = !is_running(site, &machine.name).await?;
        match answered {
            // The guest powered itself off, or QEMU died under it, which is seen now and then under TCG.
            Err(error) if !stopped || resets > 0 => return Err(error),
            Ok(_) if resets > 0 => {
                return Err(RunError::NoAnswer { waited: deadline.begun.elapsed(), resets });
            }
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
        if machine.transport == Some(Transport::Agent) || !has_network(machine, &domain) {
            // The guest agent alone decides.
            return std::future::pending().await;
        }
        let interval = if domain.ssh_port.is_some() { PROBE_INTERVAL } else { LOOK_INTERVAL };
        loop {
            sleep(interval).await;
            let Ok(Found { endpoint, .. }) = address::find(site, machine, &domain).await else { continue };
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
/// machine has no network.
pub(super) async fn connect(
    site: &Site,
    machine: &Machine,
    deadline: Deadline,
) -> Result<Arc<dyn Guest>, RunError> {
    match machine.transport {
        Some(Transport::Agent) => connect_by_agent(site, machine, deadline).await,
        Some(Transport::Ssh) => connect_by_ssh(site, machine, deadline).await,
        None => match connect_by_ssh(site, machine, deadline).await {
            Err(RunError::NoWay(_)) => connect_by_agent(site, machine, deadline).await,
            connected => connected,
        },
    }
}

/// Connects through the guest agent.
async fn connect_by_agent(
    site: &Site,
    machine: &Machine,
    deadline: Deadline,
) -> Result<Arc<dyn Guest>, RunError> {
    site.progress(&machine.name, "waiting for the guest agent".to_owned());
    if !site.hypervisor.wait_for_agent(&machine.name, deadline.rest()).await? {
        return Err(RunError::NotReady {
            requirement: "the guest agent",
            problem: format!("did not answer within {} s", deadline.limit.as_secs()),
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

/// Connects by SSH, and pins the guest's host key when it is not pinned yet. An address that DHCP gave is kept for the machine.
async fn connect_by_ssh(
    site: &Site,
    machine: &Machine,
    deadline: Deadline,
) -> Result<Arc<dyn Guest>, RunError> {
    let name = &machine.name;
    let domain = domain(site, name).await?;
    if !has_network(machine, &domain) {
        return Err(RunError::NoWay(name.clone()));
    }
    let login: Login = site.login(machine);
    let pinned = domain.metadata.as_ref().is_some_and(|metadata| metadata.ssh_host_key.is_some());
    let from_agent = if pinned { None } else { host_key_from_agent(site, name).await };
    let mut pause = FIRST_LOOK;
    let mut told = String::new();
    let mut tell = |words: String| {
        if words != told {
            site.progress(name, words.clone());
            told = words;
        }
    };
    let (found, connection) = loop {
        let found = address::find(site, machine, &domain).await;
        let is_last = deadline.rest() <= pause;
        match found {
            Ok(Found { mut endpoint, source }) => {
                endpoint.host_key = endpoint.host_key.or_else(|| from_agent.clone());
                let is_sure = matches!(source, Source::ForwardedPort | Source::Static);
                let limit = if is_sure { deadline.rest() } else { deadline.rest().min(ADDRESS_TRUSTED) };
                tell(format!("waiting for SSH at {} ({source})", endpoint.host));
                match site.connector.connect(&endpoint, &login, limit).await {
                    Ok(connection) => break (Found { endpoint, source }, connection),
                    Err(GuestError::Unreachable { .. }) if !is_sure && !is_last => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(RunError::NoAddress { .. }) if !is_last => {
                tell("waiting for an address".to_owned());
            }
            Err(error) => return Err(error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    };
    if let Some(mut metadata) = domain.metadata.filter(|_| !pinned) {
        metadata.ssh_host_key = Some(connection.host_key.clone());
        site.hypervisor.set_metadata(name, &metadata).await?;
    }
    if found.source == Source::Lease {
        network::keep(site, machine, &found.endpoint.host).await?;
    }
    Ok(connection.guest)
}

/// Whether there is any way to reach a machine by SSH, now or later. With a fixed address there is one also when libvirt knows of
/// no interface: that of a VDE network is QEMU's alone.
fn has_network(machine: &Machine, domain: &Domain) -> bool {
    domain.ssh_port.is_some() || !domain.interfaces.is_empty() || machine.net.ip.is_some()
}

/// Reconnects to a machine that was put back into a checkpoint, and puts its clock right: it still shows the checkpoint's
/// time.
pub(super) async fn reconnect(site: &Site, machine: &Machine) -> Result<Arc<dyn Guest>, RunError> {
    let deadline = Deadline::after(site.timeouts.connection);
    site.progress(
        &machine.name,
        "waiting until the guest answers again, and putting its clock right".to_owned(),
    );
    let mut clock_set = pin!(synchronize_clock(&*site.hypervisor, &machine.name));
    let mut connecting = pin!(connect(site, machine, deadline));
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
        let hint =
            "install qemu-guest-agent in the image, or let the login user become root (vm.metadata.auth)";
        let why = format!("{refused}; by a command: {error}");
        site.warn(&machine.name, format!("the guest's clock is as old as the checkpoint: {why}. {hint}"));
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
    let found = domain(site, &machine.name).await?;
    if found.state != DomainState::Running {
        let boot = async {
            boot(site, machine, None).await?.close().await;
            Ok(())
        };
        unless_running(site, &machine.name, boot).await?;
    } else if found.metadata.is_none_or(|metadata| metadata.ssh_host_key.is_none())
        || !site.hypervisor.wait_for_agent(&machine.name, AGENT_WHEN_UP).await?
    {
        // Its key is not known yet; or it may be booting, for which OpenSSH's client would not wait.
        connect(site, machine, Deadline::after(site.timeouts.connection)).await?.close().await;
    }
    endpoint(site, machine, &domain(site, &machine.name).await?).await
}

/// Starts a machine that is off, and waits for nothing.
pub async fn start(site: &Site, machine: &Machine) -> Result<(), RunError> {
    let start = async {
        network::prepare(site, machine, None).await?;
        Ok(site.hypervisor.start(&machine.name).await?)
    };
    unless_running(site, &machine.name, start).await
}

/// Has a machine started while it is locked. Another farmhand may have done so before.
async fn unless_running(
    site: &Site,
    name: &str,
    start: impl Future<Output = Result<(), RunError>> + Send,
) -> Result<(), RunError> {
    let start = async {
        if is_running(site, name).await? {
            return Ok(());
        }
        site.progress(name, format!("{name} is off: starting it"));
        start.await
    };
    site.locks.during(&site.hypervisor, name, &|notice| site.notice(name, notice), start).await?
}

/// Whether a machine runs.
pub(super) async fn is_running(site: &Site, name: &str) -> Result<bool, RunError> {
    Ok(domain(site, name).await?.state == DomainState::Running)
}

async fn domain(site: &Site, name: &str) -> Result<Domain, RunError> {
    site.hypervisor.domain(name).await?.ok_or_else(|| RunError::NoDomain(name.to_owned()))
}

/// Where the guest of a machine's domain listens for SSH, as far as that is known now, and its host key if that is pinned.
pub async fn endpoint(site: &Site, machine: &Machine, domain: &Domain) -> Result<Endpoint, RunError> {
    if !has_network(machine, domain) {
        return Err(RunError::NoWay(domain.name.clone()));
    }
    Ok(address::find(site, machine, domain).await?.endpoint)
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

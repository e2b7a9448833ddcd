//! The blocking calls, each on a thread of the pool.

use std::time::Duration;

use backon::{BlockingRetryable as _, ConstantBuilder};
use virt::{
    connect::Connect,
    domain::Domain as VirtDomain,
    domain_snapshot::DomainSnapshot,
    error::{Error, ErrorNumber},
    secret::Secret,
    sys,
};

use crate::{
    base::SnapshotKind,
    hypervisor::{
        Capabilities, Domain, DomainLock, DomainMetadata, DomainState, Locked, METADATA_NAMESPACE,
        NewSnapshot, Snapshot, capabilities_xml, domain_xml, lock_xml, snapshot_xml,
    },
};

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// libvirt said so.
    Libvirt(Error),
    /// It was not even asked.
    Refused(String),
    /// Its answer can't be read.
    Answer(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Libvirt(error)
    }
}

/// `virt` panics at a NUL.
pub(super) fn c_text(text: &str) -> Result<&str, Fault> {
    if text.contains('\0') {
        Err(Fault::Refused("a NUL can't be sent to libvirt".to_owned()))
    } else {
        Ok(text)
    }
}

pub(super) fn if_any<T>(result: Result<T, Error>, none: ErrorNumber) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code() == none => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn capabilities(connect: &Connect) -> Result<Capabilities, Fault> {
    let (host_arch, guests) = capabilities_xml::read(&connect.get_capabilities()?).map_err(Fault::Answer)?;
    let node = connect.get_node_info()?;
    // libvirt says KiB.
    Ok(Capabilities { host_arch, memory: node.memory >> 10, cpus: node.cpus, guests })
}

pub(super) fn lookup(connect: &Connect, name: &str) -> Result<VirtDomain, Fault> {
    Ok(VirtDomain::lookup_by_name(connect, c_text(name)?)?)
}

fn lookup_if_any(connect: &Connect, name: &str) -> Result<Option<VirtDomain>, Fault> {
    if_any(VirtDomain::lookup_by_name(connect, c_text(name)?), ErrorNumber::NoDomain)
}

fn lookup_snapshot_if_any(domain: &VirtDomain, name: &str) -> Result<Option<DomainSnapshot>, Fault> {
    if_any(DomainSnapshot::lookup_by_name(domain, c_text(name)?, 0), ErrorNumber::NoDomainSnapshot)
}

fn state(domain: &VirtDomain) -> Result<DomainState, Error> {
    Ok(match domain.get_state()?.0 {
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused,
        sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_NOSTATE => DomainState::ShutOff,
        sys::VIR_DOMAIN_CRASHED => DomainState::Crashed,
        // Running, blocked, and shutting down.
        _ => DomainState::Running,
    })
}

fn describe(domain: &VirtDomain) -> Result<Option<Domain>, Fault> {
    let described = state(domain).and_then(|state| Ok((domain.get_xml_desc(0)?, state)));
    let Some((xml, state)) = if_any(described, ErrorNumber::NoDomain)? else { return Ok(None) };
    domain_xml::domain(&xml, state).map(Some).map_err(|error| Fault::Answer(error.to_string()))
}

pub(super) fn domains(connect: &Connect) -> Result<Vec<Domain>, Fault> {
    let mut domains = Vec::new();
    for domain in connect.list_all_domains(0)? {
        // It may have gone since.
        domains.extend(describe(&domain)?);
    }
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(domains)
}

pub(super) fn domain(connect: &Connect, name: &str) -> Result<Option<Domain>, Fault> {
    match lookup_if_any(connect, name)? {
        Some(domain) => describe(&domain),
        None => Ok(None),
    }
}

pub(super) fn define(connect: &Connect, xml: &str) -> Result<(), Fault> {
    let refused = |error: domain_xml::DomainXmlError| Fault::Refused(error.to_string());
    let name = domain_xml::name(xml).map_err(refused)?;
    let xml = match lookup_if_any(connect, &name)? {
        // libvirt takes XML without a UUID for a new domain, whose name is taken then.
        Some(old) => domain_xml::with_uuid(xml, &old.get_uuid_string()?).map_err(refused)?,
        None => xml.to_owned(),
    };
    VirtDomain::define_xml(connect, c_text(&xml)?)?;
    Ok(())
}

pub(super) fn set_metadata(domain: &VirtDomain, metadata: &DomainMetadata) -> Result<(), Fault> {
    let element =
        domain_xml::metadata_for_libvirt(metadata).map_err(|error| Fault::Refused(error.to_string()))?;
    let mut flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
    if domain.is_active()? {
        flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
    }
    domain.set_metadata(
        sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed(),
        Some(c_text(&element)?),
        Some("farmhand"),
        Some(METADATA_NAMESPACE),
        flags,
    )?;
    Ok(())
}

pub(super) fn start(domain: &VirtDomain) -> Result<(), Fault> {
    match domain.get_state()?.0 {
        sys::VIR_DOMAIN_PMSUSPENDED => domain.pm_wakeup(0).map(drop)?,
        sys::VIR_DOMAIN_PAUSED => domain.resume().map(drop)?,
        sys::VIR_DOMAIN_SHUTOFF => domain.create().map(drop)?,
        // Crashed domains whose QEMU is kept are still active, others are not.
        _ if !domain.is_active()? => domain.create().map(drop)?,
        _ => {}
    }
    Ok(())
}

pub(super) fn is_off(domain: &VirtDomain) -> Result<bool, Fault> {
    Ok(!domain.is_active()?)
}

pub(super) fn shutdown(domain: &VirtDomain) -> Result<(), Fault> {
    // With both flags libvirt asks the agent if there is one, else ACPI.
    let flags = sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN;
    unless_off(domain, bound_agent(domain).and_then(|()| domain.shutdown_flags(flags).map(drop)))
}

pub(super) fn destroy(domain: &VirtDomain) -> Result<(), Fault> {
    if !domain.is_active()? {
        return Ok(());
    }
    unless_off(domain, domain.destroy())
}

/// The domain may have gone off by itself just before the call: then it is what the caller wants.
fn unless_off(domain: &VirtDomain, result: Result<(), Error>) -> Result<(), Fault> {
    match result {
        Err(_) if !domain.is_active()? => Ok(()),
        result => Ok(result?),
    }
}

pub(super) fn undefine(connect: &Connect, name: &str) -> Result<(), Fault> {
    let Some(domain) = lookup_if_any(connect, name)? else { return Ok(()) };
    if domain.is_active()? {
        // libvirt would let it run on, to vanish when it stops.
        return Err(Fault::Refused("it is running".to_owned()));
    }
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    if_any(domain.undefine_flags(flags), ErrorNumber::NoDomain).map(drop)
}

pub(super) fn snapshots(domain: &VirtDomain) -> Result<Vec<Snapshot>, Fault> {
    let mut snapshots = Vec::new();
    for snapshot in domain.list_all_snapshots(0)? {
        // It may have gone since.
        if let Some(xml) = if_any(snapshot.get_xml_desc(0), ErrorNumber::NoDomainSnapshot)? {
            snapshots.push(snapshot_xml::read(&xml).map_err(Fault::Answer)?);
        }
    }
    snapshot_xml::sort(&mut snapshots);
    Ok(snapshots)
}

pub(super) fn create_snapshot(domain: &VirtDomain, snapshot: &NewSnapshot) -> Result<(), Fault> {
    let runs = domain.is_active()?;
    let mut flags = 0;
    let mut disks = Vec::new();
    if snapshot.kind != SnapshotKind::Internal {
        if runs && snapshot.kind == SnapshotKind::Disk {
            return Err(Fault::Refused("it is running, and its memory would be lost".to_owned()));
        }
        disks = domain_xml::disk_targets(&domain.get_xml_desc(0)?)
            .map_err(|error| Fault::Answer(error.to_string()))?;
        flags |= sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;
        if !runs {
            flags |= sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY;
        }
    }
    let tag = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
    let xml = snapshot_xml::to_take(snapshot, &disks, runs, &tag);
    DomainSnapshot::create_xml(domain, c_text(&xml)?, flags)?;
    Ok(())
}

pub(super) fn revert(domain: &VirtDomain, snapshot: &str) -> Result<(), Fault> {
    let snapshot = DomainSnapshot::lookup_by_name(domain, c_text(snapshot)?, 0)?;
    // Forced: the running QEMU may be thrown away where it can't load the snapshot itself.
    let revert = || snapshot.revert(sys::VIR_DOMAIN_SNAPSHOT_REVERT_FORCE);
    let pauses = ConstantBuilder::default().with_delay(Duration::from_secs(1)).with_max_times(REVERT_RETRIES);
    Ok(revert.retry(pauses).when(is_file_name_taken).call()?)
}

/// How often a revert is tried again whose file's name is taken.
const REVERT_RETRIES: usize = 2;

/// libvirt names the disk's file that it makes for a revert to an external snapshot after the present second, and refuses a
/// second revert within it before it has changed anything.
fn is_file_name_taken(error: &Error) -> bool {
    error.code() == ErrorNumber::ConfigUnsupported && error.message().contains("already exists")
}

pub(super) fn delete_snapshot(domain: &VirtDomain, snapshot: &str) -> Result<(), Fault> {
    match lookup_snapshot_if_any(domain, snapshot)? {
        Some(snapshot) => if_any(snapshot.delete(0), ErrorNumber::NoDomainSnapshot).map(drop),
        None => Ok(()),
    }
}

pub(super) fn agent_command(domain: &VirtDomain, command: &str, seconds: i32) -> Result<String, Fault> {
    Ok(domain.qemu_agent_command(c_text(command)?, seconds, 0)?)
}

pub(super) fn agent_channel(domain: &VirtDomain) -> Result<domain_xml::AgentChannel, Fault> {
    if !domain.is_active()? {
        return Err(Fault::Refused("it is not running".to_owned()));
    }
    domain_xml::agent_channel(&domain.get_xml_desc(0)?).map_err(|error| Fault::Answer(error.to_string()))
}

/// Bounds how long the guest agent may take to answer libvirt's own questions. Without this a guest whose agent never does
/// keeps such a call's thread for as long as it runs.
pub(super) fn bound_agent(domain: &VirtDomain) -> Result<(), Error> {
    // SAFETY: the domain, and with it the pointer, lives until this returns.
    if unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), AGENT_ANSWER, 0) } >= 0 {
        return Ok(());
    }
    match Error::last_error() {
        // A driver without guest agents.
        error if error.code() == ErrorNumber::NoSupport => Ok(()),
        error => Err(error),
    }
}

pub(super) fn synchronize_clock(domain: &VirtDomain) -> Result<(), Fault> {
    bound_agent(domain)?;
    domain.set_time(0, 0, sys::VIR_DOMAIN_TIME_SYNC)?;
    Ok(())
}

/// How many seconds the guest agent has for an answer.
const AGENT_ANSWER: i32 = 20;

/// How often a lock is tried that was refused, and then had no owner: the owner released it in between.
const LOCK_ATTEMPTS: u32 = 8;

pub(super) fn lock(connect: &Connect, name: &str, lock: &DomainLock) -> Result<Locked, Fault> {
    let xml = lock_xml::to_define(name, lock);
    let mut attempts = LOCK_ATTEMPTS;
    loop {
        let refused = match Secret::define_xml(connect, c_text(&xml)?, 0) {
            Ok(_) => return Ok(Locked::Ours),
            Err(refused) if keeps_no_secrets(&refused) => {
                return Ok(Locked::Unsupported(refused.message().to_owned()));
            }
            Err(refused) => refused,
        };
        match lock_holder(connect, name)? {
            Some(holder) if holder.id != lock.id => return Ok(Locked::Theirs(holder)),
            _ if attempts == 0 => return Err(refused.into()),
            _ => attempts -= 1,
        }
    }
}

pub(super) fn lock_holder(connect: &Connect, name: &str) -> Result<Option<DomainLock>, Fault> {
    let usage = lock_xml::usage(name);
    let usage_type = sys::VIR_SECRET_USAGE_TYPE_TLS.cast_signed();
    let secret = match Secret::lookup_by_usage(connect, usage_type, c_text(&usage)?) {
        Err(refused) if keeps_no_secrets(&refused) => return Ok(None),
        result => if_any(result, ErrorNumber::NoSecret)?,
    };
    let Some(secret) = secret else { return Ok(None) };
    match if_any(secret.get_xml_desc(0), ErrorNumber::NoSecret)? {
        Some(xml) => lock_xml::read(&xml).map(Some).map_err(Fault::Answer),
        None => Ok(None),
    }
}

pub(super) fn unlock(connect: &Connect, id: uuid::Uuid) -> Result<(), Fault> {
    let secret = match Secret::lookup_by_uuid(connect, id) {
        Err(refused) if keeps_no_secrets(&refused) => return Ok(()),
        result => if_any(result, ErrorNumber::NoSecret)?,
    };
    match secret {
        Some(secret) => if_any(secret.undefine(), ErrorNumber::NoSecret).map(drop),
        None => Ok(()),
    }
}

/// Whether an error says that there is no secret driver: the hypervisor's own has none, or its daemon (`virtsecretd`, where
/// each driver has one) is not there.
fn keeps_no_secrets(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorNumber::NoSupport
            | ErrorNumber::NoConnect
            | ErrorNumber::NoSecretStart
            | ErrorNumber::SystemError
    )
}

use std::time::Duration;

use crate::{
    base::{Phase, Problem, in_words},
    guest::GuestError,
    hypervisor::{HypervisorError, domain_xml::DomainXmlError},
    module::ModuleError,
    plan::PlanError,
    run::address::Unknown,
    run::journal::JournalError,
    run::lock::LockError,
    run::storage::StorageError,
};

/// Why an operation on a machine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The hypervisor refused something.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The guest can't be reached, or refused something.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Images or disks.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The machine's lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal can't be written: then nothing is begun.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A step's phase module failed.
    #[error("step `{step}` failed")]
    Step {
        /// The step's name.
        step: String,
        /// Why.
        source: Box<ModuleError>,
    },
    /// The template gives XML that farmhand can't put its own metadata into.
    #[error(transparent)]
    DomainXml(#[from] DomainXmlError),
    /// The domain XML can't be made.
    #[error("{0}")]
    Definition(Box<Problem>),
    /// The machine's domain is gone.
    #[error("the hypervisor has no domain `{0}` any more")]
    NoDomain(String),
    /// The domain has no network, so nothing can be reached in it by SSH.
    #[error("the domain `{0}` has no network interface that farmhand knows, so there is no way to it by SSH")]
    NoWay(String),
    /// No source knows the machine's address.
    #[error("no address of the machine is known:{}", unknown.iter().map(|unknown| format!("\n  {unknown}")).collect::<String>())]
    NoAddress {
        /// Why each does not.
        unknown: Vec<Unknown>,
    },
    /// No port on loopback is free.
    #[error("no TCP port on 127.0.0.1 between {first} and {last} is free for SSH to the machine")]
    NoPort {
        /// The first port that was tried.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The machine was started and does not answer.
    #[error("the machine does not answer: neither its guest agent nor its SSH server did within {} s", waited.as_secs())]
    NoAnswer {
        /// How long it was waited for.
        waited: Duration,
        /// How often it was reset meanwhile.
        resets: u32,
    },
    /// A phase took longer than the farm lets it.
    #[error("{phase} was stopped: it took longer than {} (limit: per_phase.{phase}.timeout)", in_words(*limit))]
    PhaseTimedOut {
        /// The phase.
        phase: Phase,
        /// How long it may take.
        limit: Duration,
    },
    /// The user wants the run to end.
    #[error("interrupted")]
    Interrupted,
    /// What changed since the run was planned can't be planned for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The machine answers, but something that it needs before it can be worked on did not happen.
    #[error("the machine is not ready: {requirement} {problem}")]
    NotReady {
        /// What was waited for, e.g. `cloud-init`.
        requirement: &'static str,
        /// What is wrong with it, e.g. `did not finish within 120 s`.
        problem: String,
        /// What to do about it.
        hint: String,
    },
    /// A bug in farmhand.
    #[error("farmhand itself failed, please report it: {0}")]
    Panic(String),
}

impl RunError {
    /// What to do about it, where that is known.
    pub(super) fn help(&self, machine: &str) -> Option<String> {
        Some(match self {
            Self::NoAnswer { .. } => {
                format!(
                    "look at its console: farmhand console '{machine}'; `connection_timeout` in farm.yaml says how long to wait"
                )
            }
            Self::NotReady { hint, .. } => hint.clone(),
            Self::NoAddress { .. } => {
                format!(
                    "give it a fixed one (vm.net.ip), install qemu-guest-agent in the image, or look at its console: farmhand console '{machine}'"
                )
            }
            Self::Guest(GuestError::Unreachable { .. }) => {
                format!(
                    "look at its console: farmhand console '{machine}'; a guest without network or SSH server can be reached through its guest agent: vm.metadata.transport: agent"
                )
            }
            Self::Guest(GuestError::Jump { host, .. }) => {
                format!(
                    "try `ssh -o BatchMode=yes {host} true`: it must work without a question; `proxy_jump` of the hypervisor in farm.yaml names another way"
                )
            }
            Self::Guest(GuestError::LoginRefused { .. }) => {
                "check vm.metadata.auth in the platform's definition (user, password, ssh_key)".to_owned()
            }
            Self::Guest(GuestError::BecomeRefused { .. }) => {
                "check become_method and become_password under vm.metadata.auth in the platform's definition"
                    .to_owned()
            }
            Self::Guest(GuestError::HostKeyChanged { .. }) => {
                format!(
                    "if you know why the key changed, install the machine anew: farmhand up --fresh '{machine}'"
                )
            }
            _ => return None,
        })
    }
}

/// An error's message and those of its causes, outermost first, without repetitions.
pub(super) fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for error in std::iter::successors(Some(error), |error| error.source()) {
        let text = error.to_string();
        if causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
    }
    causes
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

//! The ports on loopback through which machines in user-mode networks are reached.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use super::RunError;
use crate::base::Digest;

/// Ports for SSH: below Linux's ephemeral ports (32768 to 60999).
const FIRST: u16 = 20_000;
/// How many of them there are.
const COUNT: u16 = 12_000;

/// Who has which port: what hypervisors knew when the run was planned, and what the run itself has given since.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeMap<u16, String>>);

impl Ports {
    /// Notes the ports that machines have.
    pub fn note(&self, taken: impl IntoIterator<Item = (u16, String)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(taken);
    }

    /// A port that no other machine and no process has. It follows from the machine's name, so that a machine that is made anew
    /// gets its old port back; one that is taken moves on to the next.
    pub(super) fn give(&self, machine: &str) -> Result<u16, RunError> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |port: &u16| {
            given.get(port).is_none_or(|other| other == machine)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
        };
        let start = favourite(machine);
        let port = (0..COUNT).map(|offset| FIRST + (start + offset) % COUNT).find(is_free);
        let port = port.ok_or(RunError::NoPort { first: FIRST, last: FIRST + COUNT - 1 })?;
        given.insert(port, machine.to_owned());
        Ok(port)
    }
}

/// The port that a machine gets if it is free, 0 being the first.
pub(super) fn favourite(machine: &str) -> u16 {
    u16::from_str_radix(&Digest::of(machine).hex()[..4], 16).unwrap_or_default() % COUNT
}

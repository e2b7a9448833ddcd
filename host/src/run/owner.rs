use std::fs;

use serde::{Deserialize, Serialize};

/// The process that works on a machine, as it stands in locks and in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// Where its process id counts: this boot of this host, and the namespace of process ids in it.
    host: String,
    /// The host's name, for people.
    host_name: String,
    /// Its process id.
    pid: u32,
    /// When it was started, in the kernel's ticks since the boot: another process of the same id has another one.
    started: u64,
    /// Since when it works on the machine, for people.
    since: jiff::Timestamp,
}

/// Whether an owner is still there, as far as this process can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alive {
    /// It is this process.
    Itself,
    /// Its process runs on this host.
    Yes,
    /// It was a process of this host, and that has ended.
    No,
    /// It is on another host, or was there before a boot of this one.
    Unknown,
}

impl Owner {
    /// This process, from now on.
    pub(super) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            host: this_host(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid,
            started: start_of(pid).unwrap_or_default(),
            since: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default(),
        }
    }

    pub(super) fn alive(&self) -> Alive {
        if self.host != this_host() {
            Alive::Unknown
        } else if start_of(self.pid) != Some(self.started) {
            Alive::No
        } else if self.pid == std::process::id() {
            Alive::Itself
        } else {
            Alive::Yes
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}, since {}", self.pid, self.host_name, self.since)
    }
}

/// What makes a process id of one host and one time differ from all others.
fn this_host() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Containers share the boot, but not the process ids.
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}", boot.trim(), namespace.display())
}

/// When a process was started, in ticks since the boot; `None` when it has ended, reaped or not.
fn start_of(pid: u32) -> Option<u64> {
    // proc_pid_stat(5). The program's name, in parentheses, may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An owner on this host whose process has ended.
    pub(in crate::run) fn ended() -> Owner {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = Owner {
            pid: child.id(),
            started: start_of(child.id()).unwrap_or_default(),
            ..Owner::this_process()
        };
        child.wait().unwrap();
        owner
    }

    /// An owner on another host.
    pub(in crate::run) fn elsewhere() -> Owner {
        Owner { host: "another".into(), host_name: "far-away".into(), ..Owner::this_process() }
    }

    #[test]
    fn it_is_seen_whether_an_owner_is_alive() {
        assert_eq!(Owner::this_process().alive(), Alive::Itself);
        assert_eq!(ended().alive(), Alive::No);
        assert_eq!(elsewhere().alive(), Alive::Unknown);
        let reused = Owner { started: 1, ..Owner::this_process() };
        assert_eq!(reused.alive(), Alive::No, "its id belongs to another process now");
    }

    #[test]
    fn a_process_that_is_not_reaped_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = start_of(child.id()).unwrap();
        let owner = Owner { pid: child.id(), started, ..Owner::this_process() };
        assert_eq!(owner.alive(), Alive::Yes);
        child.kill().unwrap();
        while owner.alive() == Alive::Yes {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}", child.id())).unwrap());
        child.wait().unwrap();
    }
}

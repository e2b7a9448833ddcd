//! Simulated domains, snapshots and locks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{Kept, Machine, Method, Simulated};
use crate::{
    base::SnapshotKind,
    hypervisor::{
        Capabilities, Domain, DomainLock, DomainMetadata, DomainState, GuestCapability, Hypervisor,
        HypervisorError, Locked, NewSnapshot, Snapshot,
        domain_xml::{self, AgentChannel},
    },
};

#[async_trait]
impl Hypervisor for Simulated {
    fn uri(&self) -> &str {
        "simulated:///"
    }

    async fn capabilities(&self) -> Result<Capabilities, HypervisorError> {
        self.call(Method::Capabilities, "", "", |_| Ok(())).await?;
        let guest = GuestCapability {
            arch: "x86_64".to_owned(),
            domain_type: "qemu".to_owned(),
            emulator: "/usr/bin/qemu-system-x86_64".into(),
        };
        let (memory, cpus) = self.size;
        Ok(Capabilities { host_arch: "x86_64".to_owned(), memory, cpus, guests: vec![guest] })
    }

    async fn domains(&self) -> Result<Vec<Domain>, HypervisorError> {
        self.call(Method::Domains, "", "", |state| {
            Ok(state.machines.values().map(Machine::describe).collect())
        })
        .await
    }

    async fn domain(&self, name: &str) -> Result<Option<Domain>, HypervisorError> {
        self.call(Method::Domain, name, "", |state| Ok(state.machines.get(name).map(Machine::describe))).await
    }

    async fn define(&self, xml: &str) -> Result<(), HypervisorError> {
        let described = domain_xml::domain(xml, DomainState::ShutOff).map_err(|error| error.to_string());
        let name = described.as_ref().map(|domain| domain.name.clone()).unwrap_or_default();
        self.call(Method::Define, &name, "", |state| {
            let domain = described?;
            let has_agent_channel = domain_xml::agent_channel(xml) != Ok(AgentChannel::Absent);
            match state.machines.get_mut(&domain.name) {
                Some(machine) => {
                    machine.metadata.clone_from(&domain.metadata);
                    (machine.domain, machine.has_agent_channel) = (domain, has_agent_channel);
                }
                None => {
                    let name = domain.name.clone();
                    state.machines.insert(name, Machine::new(domain, has_agent_channel));
                }
            }
            Ok(())
        })
        .await
    }

    async fn set_metadata(&self, name: &str, metadata: &DomainMetadata) -> Result<(), HypervisorError> {
        self.call(Method::SetMetadata, name, "", |state| {
            state.machine(name)?.metadata = Some(metadata.clone());
            Ok(())
        })
        .await
    }

    async fn start(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::Start, name, "", |state| {
            state.connect(name)?;
            state.machine(name)?.state = DomainState::Running;
            Ok(())
        })
        .await
    }

    async fn reset(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::Reset, name, "", |state| state.running(name).map(drop)).await
    }

    async fn shutdown(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError> {
        self.call(Method::Shutdown, name, "", |state| {
            let machine = state.machine(name)?;
            if machine.state == DomainState::Running && machine.guest.heeds_power_button {
                machine.state = DomainState::ShutOff;
            }
            Ok(())
        })
        .await?;
        let off = self.wait(timeout, |state| {
            state.machines.get(name).is_none_or(|machine| !machine.is_active()).then_some(Ok(()))
        });
        Ok(off.await.is_some())
    }

    async fn destroy(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::Destroy, name, "", |state| {
            state.machine(name)?.state = DomainState::ShutOff;
            Ok(())
        })
        .await
    }

    async fn undefine(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::Undefine, name, "", |state| {
            if state.machines.get(name).is_some_and(Machine::is_active) {
                return Err("it is running".to_owned());
            }
            state.machines.remove(name);
            Ok(())
        })
        .await
    }

    async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, HypervisorError> {
        self.call(Method::Snapshots, name, "", |state| {
            Ok(state.machine(name)?.snapshots.iter().map(|kept| kept.snapshot.clone()).collect())
        })
        .await
    }

    async fn create_snapshot(&self, name: &str, snapshot: &NewSnapshot) -> Result<(), HypervisorError> {
        self.call(Method::CreateSnapshot, name, &snapshot.name, |state| {
            state.time += 1;
            let creation_time = state.time;
            let machine = state.machine(name)?;
            if machine.snapshots.iter().any(|kept| kept.snapshot.name == snapshot.name) {
                return Err(format!("operation failed: domain snapshot {} already exists", snapshot.name));
            }
            let runs = machine.is_active();
            if runs && snapshot.kind == SnapshotKind::Disk {
                return Err("it is running, and its memory would be lost".to_owned());
            }
            let kind = match snapshot.kind {
                SnapshotKind::External if !runs => SnapshotKind::Disk,
                kind => kind,
            };
            let parent = machine.current.replace(snapshot.name.clone());
            let taken = Snapshot {
                name: snapshot.name.clone(),
                description: snapshot.description.clone(),
                creation_time,
                parent,
                live: runs,
                kind,
                files: Vec::new(),
            };
            machine.snapshots.push(Kept {
                snapshot: taken,
                state: machine.state,
                metadata: machine.metadata.clone(),
                disk: machine.disk.clone(),
            });
            Ok(())
        })
        .await
    }

    async fn revert(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError> {
        self.call(Method::Revert, name, snapshot, |state| {
            state.connect(name)?;
            let machine = state.machine(name)?;
            let Some(kept) = machine.snapshots.iter().find(|kept| kept.snapshot.name == snapshot).cloned()
            else {
                return Err(format!(
                    "Domain snapshot not found: no domain snapshot with matching name '{snapshot}'"
                ));
            };
            (machine.state, machine.metadata, machine.disk) = (kept.state, kept.metadata, kept.disk);
            machine.current = Some(snapshot.to_owned());
            Ok(())
        })
        .await
    }

    async fn delete_snapshot(&self, name: &str, snapshot: &str) -> Result<(), HypervisorError> {
        self.call(Method::DeleteSnapshot, name, snapshot, |state| {
            let machine = state.machine(name)?;
            let Some(index) = machine.snapshots.iter().position(|kept| kept.snapshot.name == snapshot) else {
                return Ok(());
            };
            machine.may_delete(snapshot)?;
            let parent = machine.snapshots.remove(index).snapshot.parent;
            for child in &mut machine.snapshots {
                if child.snapshot.parent.as_deref() == Some(snapshot) {
                    child.snapshot.parent.clone_from(&parent);
                }
            }
            if machine.current.as_deref() == Some(snapshot) {
                machine.current = parent;
            }
            Ok(())
        })
        .await
    }

    async fn wait_for_agent(&self, name: &str, timeout: Duration) -> Result<bool, HypervisorError> {
        self.call(Method::WaitForAgent, name, "", |state| state.running(name).map(drop)).await?;
        let answers = self.wait(timeout, |state| {
            let machine = state.machines.get(name).filter(|machine| machine.is_active());
            let Some(machine) = machine else { return Some(Err("it is not running".to_owned())) };
            if machine.has_agent_channel {
                machine.agent().is_ok().then_some(Ok(true))
            } else {
                Some(Ok(false))
            }
        });
        let error = |message| {
            let operation = format!("wait for the guest agent of domain {name}");
            HypervisorError::Libvirt { operation, message }
        };
        answers.await.unwrap_or(Ok(false)).map_err(error)
    }

    async fn agent_command(&self, name: &str, command: &Value) -> Result<Value, HypervisorError> {
        let verb = command["execute"].as_str().unwrap_or_default();
        self.call(Method::AgentCommand, name, verb, |state| {
            let answers = Arc::clone(state.running(name)?.agent()?);
            answers(command)
        })
        .await
    }

    async fn synchronize_clock(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::SynchronizeClock, name, "", |state| state.running(name)?.agent().map(drop)).await
    }

    async fn lock(&self, name: &str, lock: &DomainLock) -> Result<Locked, HypervisorError> {
        self.call(Method::Lock, name, "", |state| {
            Ok(match (&state.keeps_no_locks, state.locks.get(name)) {
                (Some(why), _) => Locked::Unsupported(why.clone()),
                (None, Some(held)) if held.id != lock.id => Locked::Theirs(held.clone()),
                (None, _) => {
                    state.locks.insert(name.to_owned(), lock.clone());
                    Locked::Ours
                }
            })
        })
        .await
    }

    async fn lock_holder(&self, name: &str) -> Result<Option<DomainLock>, HypervisorError> {
        self.call(Method::LockHolder, name, "", |state| Ok(state.locks.get(name).cloned())).await
    }

    async fn unlock(&self, name: &str, id: Uuid) -> Result<(), HypervisorError> {
        self.call(Method::Unlock, name, "", |state| {
            if state.locks.get(name).is_some_and(|held| held.id == id) {
                state.locks.remove(name);
            }
            Ok(())
        })
        .await
    }
}

//! A farm whose hypervisor, guests, images and phase modules are all simulated.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use tempfile::TempDir;

use super::modules::Modules;
use crate::{
    base::{Checkpoint, Digest, Login, Phase},
    farm::{Farm, Gate, Machine},
    guest::{
        Connection, Connector, Endpoint, GuestError,
        simulated::{Answer, HOST_KEY, SimulatedConnector, SimulatedGuest},
    },
    hypervisor::{DomainState, Hypervisor as _, Snapshot, simulated::Simulated},
    image::{Format, ImageError},
    plan::{self, Existing, Operation, Options, Origin, Wanted},
    run::{
        Event, Failure, Fetched, MachineJob, ProgressInWords, Seed, Site, Storage, StorageError, Summary,
        domain_inputs, run,
    },
};

type Act = Box<dyn Fn(&Simulated, &SimulatedGuest) + Send + Sync>;

/// A farm, and everything that it touches. Each machine's steps are one a phase.
pub(super) struct World {
    folder: TempDir,
    pub(super) farm: Farm,
    pub(super) hypervisor: Simulated,
    pub(super) modules: Arc<Modules>,
    pub(super) images: Arc<Images>,
    guests: Arc<IndexMap<String, SimulatedGuest>>,
    acts: Arc<Mutex<Vec<(String, String, Act)>>>,
    pub(super) allowed: BTreeSet<Gate>,
    pub(super) fresh: bool,
    pub(super) at_once: Option<NonZeroUsize>,
}

impl World {
    /// A farm of machines of these names, none of which exists yet.
    pub(super) fn new<const N: usize>(names: [&str; N]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let platforms = names.join(", ");
        let timeouts = "connection_timeout: 120\nstep_timeout: 600\nretry_count: 2\nretry_delay: 5\n";
        write(
            "farm.yaml",
            &format!(
                "project: {{ id: p }}\npermutations: {{ targets: [amd64], platforms: [{platforms}] }}\n{timeouts}"
            ),
        );
        for name in names {
            write(
                &format!("setup_vm/platforms/{name}.yaml"),
                &format!(
                    "vm:\n  metadata: {{ name: {name}, auth: {{ password: x }} }}\n  disks: [{{ src: https://example.org/{name}.qcow2 }}]\n"
                ),
            );
        }
        for phase in Phase::ALL {
            write(
                &format!("provisioning_phases/{phase}.yaml"),
                &format!("- {{ name: do {phase}, uses: module }}\n"),
            );
        }
        let farm = Farm::load(Utf8Path::from_path(folder.path()).unwrap()).unwrap();
        let hypervisor = Simulated::new();
        let guests = names.into_iter().map(|name| (name.to_owned(), guest())).collect();
        Self {
            folder,
            farm,
            modules: Modules::new(hypervisor.clone()),
            hypervisor,
            images: Arc::default(),
            guests: Arc::new(guests),
            acts: Arc::default(),
            allowed: Gate::all().collect(),
            fresh: false,
            at_once: None,
        }
    }

    pub(super) fn guest(&self, machine: &str) -> &SimulatedGuest {
        &self.guests[machine]
    }

    /// The folder of the lock files.
    pub(super) fn locks(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join("locks")
    }

    /// Does something whenever an operation of a machine begins.
    pub(super) fn at(
        &self,
        machine: &str,
        operation: &str,
        act: impl Fn(&Simulated, &SimulatedGuest) + Send + Sync + 'static,
    ) {
        self.acts.lock().unwrap().push((machine.to_owned(), operation.to_owned(), Box::new(act)));
    }

    /// Plans as the command line does.
    pub(super) async fn plan(&self) -> Vec<MachineJob> {
        let capabilities = self.hypervisor.capabilities().await.unwrap();
        let options = Options { allowed: self.allowed.clone(), fresh: self.fresh };
        let mut jobs = Vec::new();
        for (name, machine) in &self.farm.machines {
            let inputs = domain_inputs(machine, &capabilities, None).unwrap();
            let shape = machine.template().shape(machine, &inputs).unwrap();
            let steps = self.modules.resolve(machine);
            let wanted = Wanted::new(
                Origin { shape, resources: self.images.known(machine), preparation: machine.preparation() },
                &steps,
            );
            let existing = match self.hypervisor.domain(name).await.unwrap() {
                Some(domain) => {
                    Some(Existing { domain, snapshots: self.hypervisor.snapshots(name).await.unwrap() })
                }
                None => None,
            };
            let project = &self.farm.config.project;
            let plan = plan::plan(name, project, &wanted, existing.as_ref(), &options).unwrap();
            jobs.push(MachineJob { machine: machine.clone(), plan, wanted, steps, inputs });
        }
        self.hypervisor.clear_calls();
        self.modules.clear_calls();
        jobs
    }

    /// Carries plans out. A run that has not ended in a week is killed.
    pub(super) async fn carry_out(&self, jobs: Vec<MachineJob>) -> Ran {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let record = {
            let (events, acts) = (events.clone(), self.acts.clone());
            let (hypervisor, guests) = (self.hypervisor.clone(), self.guests.clone());
            move |event: Event| {
                events.lock().unwrap().push(event.clone());
                let Event::OperationStarted { machine, operation } = event else { return };
                let guest = &guests[&machine];
                if matches!(operation, Operation::Restore { .. }) {
                    guest.disconnect();
                }
                let operation = operation.to_string();
                for (of, at, act) in acts.lock().unwrap().iter() {
                    if *of == machine && *at == operation {
                        act(&hypervisor, guest);
                    }
                }
            }
        };
        let site = Site {
            hypervisor: Arc::new(self.hypervisor.clone()),
            connector: Arc::new(Wires { hypervisor: self.hypervisor.clone(), guests: self.guests.clone() }),
            storage: self.images.clone(),
            events: Arc::new(record),
            locks: self.locks(),
            login_key: "/no/key".into(),
            record: None,
            project: self.farm.config.project.clone(),
            timeouts: self.farm.config.timeouts(),
            ports: Default::default(),
        };
        let week = Duration::from_secs(7 * 24 * 3600);
        let summary = tokio::time::timeout(week, run(Arc::new(site), jobs, self.at_once)).await.ok();
        // Tasks of a run that was killed go away when they are next looked at.
        tokio::task::yield_now().await;
        let events = events.lock().unwrap().clone();
        Ran { summary, events }
    }

    /// What `farmhand up` does.
    pub(super) async fn up(&self) -> Ran {
        let jobs = self.plan().await;
        self.carry_out(jobs).await
    }

    /// As [`Self::up`]; all machines must pass.
    pub(super) async fn passes(&self) -> Ran {
        let ran = self.up().await;
        let passed = self.farm.machines.len();
        assert_eq!(ran.summary, Some(Summary { passed, failed: 0 }), "{:#?}", ran.events);
        ran
    }

    /// What a machine is after a run: everything in it that must not depend on what happened before.
    pub(super) fn state(&self, machine: &str) -> MachineState {
        let (domain, snapshots) = self.hypervisor.look(machine).unwrap();
        let disk = self.hypervisor.disk(machine);
        let kept = |snapshot: Snapshot| {
            assert!(snapshot.live, "checkpoints are made of running machines");
            let disk = self.hypervisor.kept_disk(machine, &snapshot.name);
            (snapshot.name, (snapshot.description, disk))
        };
        let checkpoints = snapshots.into_iter().map(kept).collect();
        let host_key = domain.metadata.unwrap().ssh_host_key;
        MachineState { state: domain.state, disk, host_key, checkpoints }
    }

    /// The description that a checkpoint must have.
    pub(super) async fn description(&self, machine: &str, checkpoint: Checkpoint) -> String {
        let jobs = self.plan().await;
        let job = jobs.iter().find(|job| job.machine.name == machine).unwrap();
        job.wanted.record(checkpoint).to_description()
    }
}

fn guest() -> SimulatedGuest {
    let guest = SimulatedGuest::new();
    guest.on(["sync"], Answer::ok());
    guest.on_any(
        |command| command.argv[0] == "work",
        |command, _| {
            Answer::ok().stdout(format!("working on {}\n", command.argv[1])).after(Duration::from_secs(1))
        },
    );
    guest
}

/// A machine as a run leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MachineState {
    pub(super) state: DomainState,
    pub(super) disk: Vec<String>,
    pub(super) host_key: Option<String>,
    /// Description and disk of each snapshot, by its name.
    pub(super) checkpoints: BTreeMap<String, (String, Vec<String>)>,
}

/// A run that was carried out.
pub(super) struct Ran {
    /// How it ended; `None` if it was killed.
    pub(super) summary: Option<Summary>,
    pub(super) events: Vec<Event>,
}

impl Ran {
    /// The operations of a machine that were begun.
    pub(super) fn operations(&self, machine: &str) -> Vec<String> {
        let operation = |event: &Event| match event {
            Event::OperationStarted { machine: of, operation } if of == machine => {
                Some(operation.to_string())
            }
            _ => None,
        };
        self.events.iter().filter_map(operation).collect()
    }

    /// How a machine ended: it is said once.
    pub(super) fn ended(&self, machine: &str) -> Option<Failure> {
        let ended = |event: &Event| match event {
            Event::MachineFinished { machine: of, failure, .. } if of == machine => Some(failure.clone()),
            _ => None,
        };
        let ended: Vec<_> = self.events.iter().filter_map(ended).collect();
        assert_eq!(ended.len(), 1, "{machine}");
        ended.into_iter().next().unwrap()
    }

    /// Why a machine failed.
    pub(super) fn failure(&self, machine: &str) -> Failure {
        self.ended(machine).unwrap_or_else(|| panic!("{machine} passed"))
    }

    /// Lines that farmhand itself has to say of a machine.
    pub(super) fn lines(&self, machine: &str) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Log { machine: of, line, .. } if of == machine => Some(line.clone()),
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }
}

/// Reaches the guest of the running domain that has the port.
struct Wires {
    hypervisor: Simulated,
    guests: Arc<IndexMap<String, SimulatedGuest>>,
}

#[async_trait]
impl Connector for Wires {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        limit: Duration,
    ) -> Result<Connection, GuestError> {
        let is_there = |name: &str| {
            let (domain, _) = self.hypervisor.look(name)?;
            (domain.state == DomainState::Running && domain.ssh_port == Some(endpoint.port)).then_some(())
        };
        let connector = SimulatedConnector::new();
        match self.guests.iter().find(|(name, _)| is_there(name).is_some()) {
            Some((_, guest)) => connector.add(&endpoint.host, endpoint.port, guest),
            None => tokio::time::sleep(limit).await,
        }
        connector.connect(endpoint, login, limit).await
    }
}

/// Images that are there at once, and the disks that were made of them.
#[derive(Default)]
pub(super) struct Images {
    /// The machines that have disks.
    pub(super) disks: Mutex<BTreeSet<String>>,
    /// A machine whose image can't be fetched, and why.
    pub(super) missing: Mutex<HashMap<String, String>>,
}

fn digest(name: &str, uri: &str) -> Digest {
    Digest::of(format!("{name} {uri}"))
}

#[async_trait]
impl Storage for Images {
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let known = |(name, resource): (String, &crate::farm::Resource)| {
            let digest = digest(&name, &resource.uri);
            (name, Some(digest))
        };
        machine.resources().into_iter().map(known).collect()
    }

    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        self.known(machine)
    }

    async fn fetch(
        &self,
        machine: &Machine,
        _progress: ProgressInWords,
    ) -> Result<IndexMap<String, Fetched>, StorageError> {
        if let Some(message) = self.missing.lock().unwrap().get(&machine.name).cloned() {
            let uri = machine.disks[0].image.uri.clone();
            let source = Box::new(ImageError::Unusable { uri, message });
            return Err(StorageError::Fetch { name: "disk 0".to_owned(), source });
        }
        let fetched = |(name, resource): (String, &crate::farm::Resource)| {
            let digest = digest(&name, &resource.uri);
            (name, Fetched { path: "/images/image".into(), digest, format: Some(Format::Qcow2) })
        };
        Ok(machine.resources().into_iter().map(fetched).collect())
    }

    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError> {
        self.disks.lock().unwrap().insert(machine.name.clone());
        Ok((0..fetched.len()).map(|index| format!("/machines/{}/disk{index}", machine.name).into()).collect())
    }

    async fn create_seed(&self, machine: &Machine) -> Result<Option<Seed>, StorageError> {
        let seed = || Seed {
            path: format!("/machines/{}/seed.iso", machine.name).into(),
            host_key: HOST_KEY.to_owned(),
        };
        Ok(machine.first_boot().map(|_| seed()))
    }

    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError> {
        self.disks.lock().unwrap().remove(machine);
        Ok(())
    }
}

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
use tokio_util::sync::CancellationToken;

use super::{images::Images, modules::Modules};
use crate::{
    base::{Checkpoint, Login, Phase},
    farm::{DomainType, Farm, Gate, Machine, PhaseRules},
    guest::{
        Connection, Connector, Endpoint, GuestError, Way,
        simulated::{Answer, SimulatedConnector, SimulatedGuest},
    },
    hypervisor::{DomainState, Hypervisor as _, Networks as _, NewNetwork, Snapshot, simulated::Simulated},
    plan::{self, Capacity, Demand, Existing, Member, Operation, Options, Origin, Placed, Wanted},
    run::{
        Event, EventSink, Failure, Journal, Locks, MachineJob, Orders, Ports, Recovered, Site, Storage as _,
        Summary, domain_inputs, look, run,
    },
};

/// The time of a test's runs: what the simulated hypervisor does comes shortly before it.
const NOW: i64 = 1_700_100_000;

type Act = Box<dyn Fn(&Simulated, &SimulatedGuest) + Send + Sync>;

/// A farm, and everything that it touches. Each machine's steps are one a phase.
pub(super) struct World {
    folder: Arc<TempDir>,
    /// Locks and journal.
    data: TempDir,
    pub(super) farm: Farm,
    pub(super) hypervisor: Simulated,
    pub(super) modules: Arc<Modules>,
    pub(super) images: Arc<Images>,
    guests: Arc<IndexMap<String, SimulatedGuest>>,
    acts: Arc<Mutex<Vec<(String, String, Act)>>>,
    pub(super) allowed: BTreeSet<Gate>,
    pub(super) fresh: bool,
    pub(super) at_once: Option<NonZeroUsize>,
    pub(super) rules: PhaseRules,
    pub(super) max_failures: Option<NonZeroUsize>,
    pub(super) capacity: Capacity,
    /// What the run is told of the time before it.
    pub(super) recovered: Vec<Recovered>,
    /// Cancelled by a test to interrupt the run.
    pub(super) stop: CancellationToken,
}

impl World {
    /// A farm of machines of these names, none of which exists yet.
    pub(super) fn new<const N: usize>(names: [&str; N]) -> Self {
        Self::of(&names.map(str::to_owned))
    }

    /// As [`Self::new`].
    pub(super) fn of(names: &[String]) -> Self {
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
        Self::with(Arc::new(folder), farm, Modules::new(hypervisor.clone()), hypervisor, Images::default())
    }

    fn with(
        folder: Arc<TempDir>,
        farm: Farm,
        modules: Arc<Modules>,
        hypervisor: Simulated,
        images: Images,
    ) -> Self {
        Self {
            folder,
            // In memory: the journal waits for what it writes to be on the disk.
            data: tempfile::tempdir_in("/dev/shm").unwrap(),
            guests: Arc::new(farm.machines.keys().map(|name| (name.clone(), guest())).collect()),
            farm,
            hypervisor,
            modules,
            images: Arc::new(images),
            acts: Arc::default(),
            allowed: Gate::all().collect(),
            fresh: false,
            at_once: None,
            rules: PhaseRules::default(),
            max_failures: None,
            capacity: Capacity::UNBOUNDED,
            recovered: Vec::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Replaces a phase's file; an empty text leaves the phase without steps.
    pub(super) fn edit_phase(&mut self, phase: Phase, text: &str) {
        let root = self.farm.root.clone();
        fs::write(root.join(format!("provisioning_phases/{phase}.yaml")), text).unwrap();
        self.farm = Farm::load(&root).unwrap();
    }

    /// The same farm in the same state, with troubles and flags of its own.
    pub(super) fn fork(&self) -> Self {
        let hypervisor = self.hypervisor.fork();
        let modules = self.modules.fork(hypervisor.clone());
        Self::with(self.folder.clone(), self.farm.clone(), modules, hypervisor, self.images.fork())
    }

    pub(super) fn guest(&self, machine: &str) -> &SimulatedGuest {
        &self.guests[machine]
    }

    /// The folder of the lock files.
    pub(super) fn locks(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.data.path()).unwrap().join("locks")
    }

    /// Adds to a machine's `vm.metadata`.
    pub(super) fn add_metadata(&mut self, machine: &str, entry: &str) {
        self.edit_platform(machine, "metadata: { ", &format!("metadata: {{ {entry}, "));
    }

    /// Says what a machine's network is.
    pub(super) fn set_net(&mut self, machine: &str, net: &str) {
        self.edit_platform(machine, "  disks:", &format!("  net: {net}\n  disks:"));
    }

    fn edit_platform(&mut self, machine: &str, old: &str, new: &str) {
        let root = Utf8Path::from_path(self.folder.path()).unwrap();
        let path = root.join(format!("setup_vm/platforms/{machine}.yaml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace(old, new)).unwrap();
        self.farm = Farm::load(root).unwrap();
    }

    pub(super) fn journal(&self) -> Journal {
        let folder = Utf8Path::from_path(self.data.path()).unwrap();
        Journal::new(folder.join("journal"), "/machines".into())
    }

    /// The folder of what modules keep.
    pub(super) fn run_folder(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.data.path()).unwrap().join("run")
    }

    /// The folder of what guests answered.
    pub(super) fn probes(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.data.path()).unwrap().join("probes")
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

    fn ports(&self) -> Arc<Ports> {
        let ports = Ports::default();
        let looks = self.farm.machines.keys().filter_map(|name| self.hypervisor.look(name));
        ports.note(looks.filter_map(|(domain, _)| Some((domain.ssh_port?, domain.name))));
        Arc::new(ports)
    }

    /// What the user lets the run do.
    pub(super) fn options(&self) -> Options {
        Options { allowed: self.allowed.clone(), fresh: self.fresh, rules: self.rules.clone(), now: NOW }
    }

    /// Plans as the command line does.
    pub(super) async fn plan(&self) -> Vec<MachineJob> {
        let capabilities = self.hypervisor.capabilities().await.unwrap();
        let guest = capabilities.guests[0].clone();
        let placed = Placed { hypervisor: 0, domain_type: DomainType::Qemu, guest };
        let options = self.options();
        let site = self.site(Arc::new(|_: Event| {}));
        let mut jobs = Vec::new();
        for (name, machine) in &self.farm.machines {
            let inputs = domain_inputs(machine, &placed, None);
            let shape = machine.template().shape(machine, &inputs).unwrap();
            let steps = self.modules.resolve(machine);
            let preparation = machine.preparation();
            let origin = Origin { shape, resources: self.images.known(machine), preparation };
            let wanted = Wanted::new(origin, &steps);
            let existing = look(&self.hypervisor, name).await.unwrap();
            let project = &self.farm.config.project;
            let plan = plan::plan(name, project, &wanted, existing.as_ref(), &options).unwrap();
            let network = self.network(machine).await;
            let runs = existing.as_ref().is_some_and(Existing::is_active);
            let (machine, site, options) = (machine.clone(), site.clone(), options.clone());
            let demand = Demand { hypervisor: 0, memory: machine.ram, vcpus: machine.vcpus, runs };
            jobs.push(MachineJob {
                machine,
                site,
                demand,
                plan,
                existing,
                options,
                wanted,
                steps,
                inputs,
                network,
            });
        }
        self.hypervisor.clear_calls();
        self.modules.clear_calls();
        jobs
    }

    async fn network(&self, machine: &Machine) -> Option<NewNetwork> {
        let existing = self.hypervisor.networks().await.unwrap();
        let members = [Member::of(machine)];
        machine.net.libvirt_network().and_then(|name| plan::network(name, &members, &[], &existing).unwrap())
    }

    /// What the machines' runs touch.
    pub(super) fn site(&self, events: Arc<dyn EventSink>) -> Arc<Site> {
        Arc::new(Site {
            hypervisor: Arc::new(self.hypervisor.clone()),
            connector: Arc::new(Wires { hypervisor: self.hypervisor.clone(), guests: self.guests.clone() }),
            way: Way::Here,
            storage: self.images.clone(),
            events,
            locks: Arc::new(Locks::new(self.locks())),
            journal: self.journal(),
            login_key: "/no/key".into(),
            record: None,
            run: Default::default(),
            folder: Some(self.run_folder()),
            probes: Some(self.probes()),
            project: self.farm.config.project.clone(),
            timeouts: self.farm.config.timeouts(),
            ports: self.ports(),
        })
    }

    /// Carries plans out. A run that has not ended in two hours is killed.
    pub(super) async fn carry_out(&self, jobs: Vec<MachineJob>) -> Ran {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let record = {
            let (events, acts) = (events.clone(), self.acts.clone());
            let (hypervisor, guests) = (self.hypervisor.clone(), self.guests.clone());
            move |event: Event| {
                events.lock().unwrap().push(event.clone());
                let Event::OperationStarted { machine, operation, .. } = event else { return };
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
        let events_sink: Arc<dyn EventSink> = Arc::new(record);
        let site = self.site(events_sink.clone());
        let jobs = jobs.into_iter().map(|job| MachineJob { site: site.clone(), ..job }).collect();
        let orders = Orders {
            run: Default::default(),
            project: self.farm.config.project.clone(),
            recovered: self.recovered.clone(),
            events: events_sink,
            at_once: self.at_once,
            capacities: vec![self.capacity],
            max_failures: self.max_failures,
            stop: self.stop.clone(),
        };
        // All steps' timeouts together are less.
        let long = Duration::from_secs(2 * 3600);
        let summary = tokio::time::timeout(long, run(orders, jobs)).await.ok();
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
        assert_eq!(ran.summary, Some(Summary { passed, ..Summary::default() }), "{:#?}", ran.events);
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

    /// What the disk of each checkpoint holds, by its description.
    pub(super) fn kept(&self) -> HashMap<String, Vec<String>> {
        let machines = self.farm.machines.keys();
        let states =
            machines.filter(|name| self.hypervisor.look(name).is_some()).map(|name| self.state(name));
        states.flat_map(|state| state.checkpoints.into_values()).collect()
    }

    /// Somebody deletes a snapshot.
    pub(super) async fn forget_snapshot(&self, machine: &str, snapshot: &str) {
        self.hypervisor.delete_snapshot(machine, snapshot).await.unwrap();
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
            Event::OperationStarted { machine: of, operation, .. } if of == machine => {
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

/// Reaches the guest of the running domain that has the port or the address.
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
        let connector = SimulatedConnector::new();
        let there = self.hypervisor.at(&endpoint.host, endpoint.port);
        match there.and_then(|name| self.guests.get(&name)) {
            Some(guest) => connector.add(&endpoint.host, endpoint.port, guest),
            None => tokio::time::sleep(limit).await,
        }
        connector.connect(endpoint, login, limit).await
    }
}

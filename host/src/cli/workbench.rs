//! What most commands need: the farm and its hypervisors.

use std::{collections::BTreeSet, os::unix::fs::DirBuilderExt as _, sync::Arc};

use camino::Utf8PathBuf;
use futures::future::{join_all, try_join_all};
use miette::{IntoDiagnostic, WrapErr, miette};

use super::FarmArgs;
use crate::{
    base::Dirs,
    farm::{self, Farm, Machine},
    guest::{Endpoint, Way, ssh::SshConnector},
    hypervisor::{
        Domain, Hypervisor,
        libvirt::{Libvirt, default_uri, shares_files},
    },
    plan::Existing,
    run::{
        self, Event, EventSink, Journal, LocalStorage, Locks, Notice, Ports, RemoteStorage, RunError, RunId,
        Site, Storage,
    },
};

/// Where libvirt keeps images, and farmhand its own among them, on a host whose system's libvirt is used.
const POOL_DIR: &str = "/var/lib/libvirt/images/farmhand";

/// A farm and the hypervisors that it is on.
pub(super) struct Workbench {
    pub(super) farm: Farm,
    pub(super) dirs: Dirs,
    pub(super) hosts: Vec<Host>,
    pub(super) locks: Arc<Locks>,
    /// The ports of machines.
    pub(super) ports: Arc<Ports>,
}

/// Where what happens in a run goes.
#[derive(Clone)]
pub(super) struct Outside {
    /// The run's id.
    pub(super) run: RunId,
    /// Its folder, if its record is kept.
    pub(super) folder: Option<Utf8PathBuf>,
    /// Who is told.
    pub(super) events: Arc<dyn EventSink>,
    /// The folder that gets a transcript of each step.
    pub(super) record: Option<Utf8PathBuf>,
}

impl Outside {
    /// For a command that is no run: `events` is all there is.
    pub(super) fn events(events: Arc<dyn EventSink>) -> Self {
        Self { run: RunId::new(), folder: None, events, record: None }
    }

    /// For a command that is no run: what is being done is told on standard error.
    pub(super) fn progress() -> Self {
        Self::events(Arc::new(|event| {
            if let Event::Progress { message, .. } = event {
                eprintln!("{message}");
            }
        }))
    }
}

/// A hypervisor of the farm.
#[derive(Clone)]
pub(super) struct Host {
    /// What the farm says of it.
    pub(super) config: farm::Hypervisor,
    /// Its connection URI.
    pub(super) uri: String,
    /// The connection.
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    /// How its guests are reached.
    way: Way,
    /// The folder on its host for images and disks, where that is not this host or the farm says so.
    pub(super) pool_dir: Option<Utf8PathBuf>,
}

impl Host {
    async fn connect(config: farm::Hypervisor, dirs: &Dirs) -> miette::Result<Self> {
        let uri = config.uri.clone().unwrap_or_else(default_uri);
        let pool_dir = pool_dir(&config, &uri)?;
        let sockets = dirs.ssh_sockets();
        let way = Way::to(&uri, config.proxy_jump.as_deref(), &sockets);
        if way.jump().is_some() {
            // Whoever can use these sockets is logged in.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&sockets);
            made.into_diagnostic().wrap_err_with(|| format!("can't make {sockets}"))?;
        }
        let hypervisor = Arc::new(Libvirt::connect(&uri).await.into_diagnostic()?);
        Ok(Self { config, uri, hypervisor, way, pool_dir })
    }
}

/// The folder for images and disks on a hypervisor's host: none where it can use those of this host.
fn pool_dir(config: &farm::Hypervisor, uri: &str) -> miette::Result<Option<Utf8PathBuf>> {
    match &config.pool_dir {
        Some(folder) => Ok(Some(folder.clone())),
        None if shares_files(uri) => Ok(None),
        None if uri.split('?').next().is_some_and(|uri| uri.ends_with("/system")) => {
            Ok(Some(POOL_DIR.into()))
        }
        None => {
            let help = "give the hypervisor a `pool_dir` in farm.yaml: a folder on its host that its user can write to";
            Err(miette!(help = help, "where images and disks go on the hypervisor {uri} is not known"))
        }
    }
}

impl Workbench {
    /// Loads the farm and connects to its hypervisors.
    pub(super) async fn open(args: &FarmArgs) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        Self::connect(args, farm).await
    }

    pub(super) async fn connect(args: &FarmArgs, farm: Farm) -> miette::Result<Self> {
        let dirs = dirs()?;
        let hosts = hypervisors(args, &farm).into_iter().map(|config| Host::connect(config, &dirs));
        let hosts = try_join_all(hosts).await?;
        let locks = Arc::new(Locks::new(dirs.locks()));
        Ok(Self { farm, dirs, hosts, locks, ports: Arc::default() })
    }

    /// What there is of a machine, and on which hypervisor.
    pub(super) async fn find(&self, name: &str) -> miette::Result<Option<(&Host, Existing)>> {
        let looks = join_all(self.hosts.iter().map(|host| run::look(&*host.hypervisor, name))).await;
        let mut found = None;
        for (host, existing) in self.hosts.iter().zip(looks) {
            let Some(existing) = existing.into_diagnostic()? else { continue };
            if let Some((other, _)) = found.replace((host, existing)) {
                let help = format!("remove one: farmhand --connect URI destroy '{name}'");
                let (one, two) = (&other.uri, &host.uri);
                return Err(miette!(help = help, "{name} exists on {one} and on {two}"));
            }
        }
        Ok(found)
    }

    /// As [`Self::find`]; that there is no such machine is an error.
    pub(super) async fn find_existing(&self, name: &str) -> miette::Result<(&Host, Existing)> {
        let help = format!("make it: farmhand up '{name}'");
        self.find(name).await?.ok_or_else(|| miette!(help = help, "{name} does not exist"))
    }

    /// What work on machines of a hypervisor needs.
    pub(super) fn site(&self, host: &Host, outside: Outside) -> Arc<Site> {
        let Outside { run, folder, events, record } = outside;
        Arc::new(Site {
            hypervisor: host.hypervisor.clone(),
            connector: Arc::new(SshConnector),
            way: host.way.clone(),
            storage: self.storage(host),
            events,
            locks: self.locks.clone(),
            journal: self.journal_of(host),
            login_key: self.dirs.login_key(),
            record,
            run,
            folder,
            probes: Some(self.dirs.guest_probes()),
            project: self.farm.config.project.clone(),
            timeouts: self.farm.config.timeouts(),
            ports: self.ports.clone(),
        })
    }

    /// Where the guest of a machine's domain listens for SSH, as far as that is known now.
    pub(super) async fn endpoint(
        &self,
        host: &Host,
        machine: &Machine,
        domain: &Domain,
    ) -> Result<Endpoint, RunError> {
        let site = self.site(host, Outside::events(Arc::new(|_: Event| {})));
        run::endpoint(&site, machine, domain).await
    }

    /// A connection to a hypervisor, whether the farm has it or not.
    pub(super) async fn host(&self, uri: &str) -> miette::Result<Host> {
        match self.hosts.iter().find(|host| host.hypervisor.uri() == uri) {
            Some(host) => Ok(host.clone()),
            None => Host::connect(plain(uri), &self.dirs).await,
        }
    }

    /// The journal, to look into it.
    pub(super) fn journal(&self) -> Journal {
        Journal::new(self.dirs.journal(), self.dirs.machines())
    }

    /// The journal, for work on a hypervisor's machines.
    fn journal_of(&self, host: &Host) -> Journal {
        let machines = match &host.pool_dir {
            Some(folder) => RemoteStorage::machines(folder),
            None => self.dirs.machines(),
        };
        Journal::new(self.dirs.journal(), machines)
    }

    /// Does work on a hypervisor's machine that nobody else may work on meanwhile.
    pub(super) async fn locked<T>(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        machine: &str,
        work: impl Future<Output = miette::Result<T>> + Send,
    ) -> miette::Result<T> {
        let tell = |notice| match notice {
            Notice::Progress(line) | Notice::Warning(line) => eprintln!("{machine}: {line}"),
        };
        self.locks.during(hypervisor, machine, &tell, work).await.into_diagnostic()?
    }

    /// Images and disks for a hypervisor.
    pub(super) fn storage(&self, host: &Host) -> Arc<dyn Storage> {
        let local = LocalStorage::new(&self.dirs, self.farm.root.clone());
        match host.pool_dir.clone() {
            None => Arc::new(local.on(host.hypervisor.uri())),
            Some(folder) => {
                let (hypervisor, locks) = (host.hypervisor.clone(), self.locks.clone());
                Arc::new(RemoteStorage::new(local, hypervisor, locks, folder))
            }
        }
    }
}

/// A hypervisor of which nothing but its URI is known.
fn plain(uri: &str) -> farm::Hypervisor {
    farm::Hypervisor {
        name: uri.to_owned(),
        uri: Some(uri.to_owned()),
        labels: BTreeSet::new(),
        max_machines: None,
        max_memory: None,
        max_vcpus: None,
        proxy_jump: None,
        pool_dir: None,
    }
}

/// The hypervisors to connect to: the one of the command line, else the farm's, else those that its machines name.
fn hypervisors(args: &FarmArgs, farm: &Farm) -> Vec<farm::Hypervisor> {
    if let Some(uri) = &args.connect {
        return vec![plain(uri)];
    }
    if !farm.config.hypervisors.is_empty() {
        return farm.config.hypervisors.clone();
    }
    let uris: BTreeSet<_> = farm
        .machines
        .values()
        .map(|machine| machine.connection.clone().unwrap_or_else(default_uri))
        .collect();
    uris.iter().map(|uri| plain(uri)).collect()
}

/// farmhand's folders, made if need be.
pub(super) fn dirs() -> miette::Result<Dirs> {
    let dirs = Dirs::of_user().into_diagnostic()?;
    dirs.create().into_diagnostic().wrap_err("can't make farmhand's folders")?;
    Ok(dirs)
}

//! What most commands need: the farm and its hypervisors.

use std::{collections::BTreeSet, os::unix::fs::DirBuilderExt as _, sync::Arc};

use camino::Utf8PathBuf;
use futures::future::{join_all, try_join_all};
use miette::{IntoDiagnostic, WrapErr, miette};

use super::FarmArgs;
use crate::{
    base::Dirs,
    farm::{self, Farm},
    guest::{Way, ssh::SshConnector},
    hypervisor::{
        Hypervisor,
        libvirt::{Libvirt, default_uri},
    },
    plan::Existing,
    run::{self, EventSink, Journal, LocalStorage, Locks, Notice, Ports, RunId, Site},
};

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
}

impl Workbench {
    /// Loads the farm and connects to its hypervisors.
    pub(super) async fn open(args: &FarmArgs) -> miette::Result<Self> {
        let farm = Farm::load(&args.farm)?;
        Self::connect(args, farm).await
    }

    pub(super) async fn connect(args: &FarmArgs, farm: Farm) -> miette::Result<Self> {
        let dirs = dirs()?;
        let connect = |config: farm::Hypervisor| async {
            let uri = config.uri.clone().unwrap_or_else(default_uri);
            let hypervisor = Arc::new(Libvirt::connect(&uri).await.into_diagnostic()?);
            let sockets = dirs.ssh_sockets();
            let way = Way::to(&uri, config.proxy_jump.as_deref(), &sockets);
            if way.jump().is_some() {
                // Whoever can use these sockets is logged in.
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&sockets);
                made.into_diagnostic().wrap_err_with(|| format!("can't make {sockets}"))?;
            }
            Ok::<_, miette::Report>(Host { config, uri, hypervisor, way })
        };
        let hosts = try_join_all(hypervisors(args, &farm).into_iter().map(connect)).await?;
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
            storage: Arc::new(self.storage()),
            events,
            locks: self.locks.clone(),
            journal: self.journal(),
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

    pub(super) fn journal(&self) -> Journal {
        Journal::new(self.dirs.journal(), self.dirs.machines())
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

    pub(super) fn storage(&self) -> LocalStorage {
        LocalStorage::new(&self.dirs, self.farm.root.clone())
    }
}

/// The hypervisors to connect to: the one of the command line, else the farm's, else those that its machines name.
fn hypervisors(args: &FarmArgs, farm: &Farm) -> Vec<farm::Hypervisor> {
    let plain = |uri: &str| farm::Hypervisor {
        name: uri.to_owned(),
        uri: Some(uri.to_owned()),
        labels: BTreeSet::new(),
        max_machines: None,
        max_memory: None,
        max_vcpus: None,
        proxy_jump: None,
        pool_dir: None,
    };
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

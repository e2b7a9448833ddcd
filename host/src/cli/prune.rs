use std::process::ExitCode;

use futures::future::join_all;
use miette::IntoDiagnostic;

use super::{
    FarmArgs, print,
    workbench::{Host, Workbench},
};
use crate::{
    hypervisor::Domain,
    run::{Entry, Leftover, LockError, Notice, Recovered, RemoteStorage},
};

/// Remove what killed runs left: machines that were not made to their end, machines that still run, and disks that belong to
/// none.
///
/// `up` does the same by itself, but for the disks. What a run that is alive works on is not touched, and neither is a
/// domain that farmhand did not make.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand prune --leaks --dry-run\n  farmhand prune --leaks")]
pub(super) struct Prune {
    /// Remove leftovers of runs that were killed.
    #[arg(long, required = true)]
    leaks: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let mut pruned = Pruned::default();
        pruned.add(leftovers(&workbench, self.dry_run).await?);
        pruned.add(orphans(&workbench, self.dry_run).await?);
        for done in &pruned.done {
            print(format!("{done}\n"))?;
        }
        for report in &pruned.problems {
            eprintln!("{report:?}");
        }
        if pruned.done.is_empty() && pruned.problems.is_empty() {
            print("nothing is left over\n")?;
        }
        Ok(if pruned.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Removes what killed runs left, before a run begins, and gives what was done. What can't be removed is said, and does not
/// keep other machines' runs from going on: that of its own machine meets the same trouble.
pub(super) async fn recover(workbench: &Workbench) -> miette::Result<Vec<Recovered>> {
    let pruned = leftovers(workbench, false).await?;
    pruned.problems.iter().for_each(|report| eprintln!("{report:?}"));
    Ok(pruned.done)
}

/// What was removed, and what could not be.
#[derive(Default)]
struct Pruned {
    done: Vec<Recovered>,
    problems: Vec<miette::Report>,
}

impl Pruned {
    fn add(&mut self, other: Self) {
        self.done.extend(other.done);
        self.problems.extend(other.problems);
    }
}

fn tell(machine: &str, notice: Notice) {
    let (Notice::Progress(line) | Notice::Warning(line)) = notice;
    eprintln!("{machine}: {line}");
}

/// The leftovers that the journal knows of.
async fn leftovers(workbench: &Workbench, dry_run: bool) -> miette::Result<Pruned> {
    let (mut pruned, mut entries) = (Pruned::default(), Vec::new());
    for entry in workbench.journal().entries().into_diagnostic()? {
        match entry.into_diagnostic() {
            Ok(entry) => entries.push(entry),
            Err(unreadable) => pruned.problems.push(unreadable),
        }
    }
    let recovered = entries.iter().map(async |entry| (entry, recover_one(workbench, entry, dry_run).await));
    for (entry, recovered) in join_all(recovered).await {
        match recovered {
            Ok(leftover) => {
                let what = leftover.and_then(|leftover| leftover.told(entry, dry_run));
                pruned.done.extend(what.map(|what| Recovered { machine: entry.machine.clone(), what }));
            }
            Err(report) => {
                let message = format!("what a killed run left of {} could not be removed", entry.machine);
                pruned.problems.push(report.wrap_err(message));
            }
        }
    }
    Ok(pruned)
}

async fn recover_one(
    workbench: &Workbench,
    entry: &Entry,
    dry_run: bool,
) -> miette::Result<Option<Leftover>> {
    let host = workbench.host(&entry.hypervisor).await?;
    let tell = |notice| tell(&entry.machine, notice);
    let (locks, storage) = (&workbench.locks, workbench.storage(&host));
    let journal = workbench.journal();
    journal.recover(entry, locks, &host.hypervisor, &*storage, dry_run, &tell).await.into_diagnostic()
}

/// A hypervisor, its domains, and the machines that have disks in its own storage pools.
async fn look(workbench: &Workbench, uri: &str) -> miette::Result<(Host, Vec<Domain>, Vec<String>)> {
    let host = workbench.host(uri).await?;
    let domains = host.hypervisor.domains().await.into_diagnostic()?;
    let with_disks = match host.pool_dir {
        Some(_) => RemoteStorage::with_disks(&*host.hypervisor).await.into_diagnostic()?,
        None => Vec::new(),
    };
    Ok((host, domains, with_disks))
}

/// Disks that belong to no domain. Whether they do is known only when all hypervisors that had one were asked.
async fn orphans(workbench: &Workbench, dry_run: bool) -> miette::Result<Pruned> {
    let mut uris = workbench.journal().hypervisors().into_diagnostic()?;
    uris.extend(workbench.hosts.iter().map(|host| host.hypervisor.uri().to_owned()));
    uris.sort();
    uris.dedup();
    let (mut domains, mut remote) = (Vec::new(), Vec::new());
    for uri in uris {
        match look(workbench, &uri).await {
            Ok((host, found, with_disks)) => {
                let lost =
                    with_disks.into_iter().filter(|name| !found.iter().any(|domain| domain.name == *name));
                remote.extend(lost.map(|name| (host.clone(), name)));
                domains.extend(found);
            }
            Err(report) => {
                let message = "disks that belong to no machine can't be told from others";
                return Ok(Pruned { problems: vec![report.wrap_err(message)], ..Pruned::default() });
            }
        }
    }
    let mut pruned = Pruned::default();
    let local = workbench.journal().orphans(&domains).into_diagnostic()?;
    // Whoever makes a machine in this data folder holds its file's lock, whatever its hypervisor is.
    let here = workbench.hosts.iter().find(|host| host.pool_dir.is_none());
    let local = here.into_iter().flat_map(|host| local.iter().map(|name| (host.clone(), name.clone())));
    for (host, name) in local.chain(remote) {
        let storage = workbench.storage(&host);
        let remove = async {
            // Another run may have made the machine meanwhile.
            let exists = match host.pool_dir {
                Some(_) => host.hypervisor.domain(&name).await.into_diagnostic()?.is_some(),
                // Its disks could be of any of them.
                None => workbench.find(&name).await?.is_some(),
            };
            if !dry_run && !exists {
                storage.remove_disks(&name).await.into_diagnostic()?;
            }
            Ok::<_, miette::Report>(!exists)
        };
        let tell = |notice| tell(&name, notice);
        let would = if dry_run { "would be " } else { "" };
        match workbench.locks.during(&host.hypervisor, &name, &tell, remove).await {
            Ok(Ok(true)) => {
                let what = format!("{would}removed: its disks belong to no domain");
                pruned.done.push(Recovered { machine: name.clone(), what });
            }
            Ok(Ok(false)) | Err(LockError::Held { .. }) => {}
            Ok(Err(report)) => pruned.problems.push(report),
            Err(error) => pruned.problems.push(miette::Report::from_err(error)),
        }
    }
    Ok(pruned)
}

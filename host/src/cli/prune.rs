use std::{process::ExitCode, sync::Arc};

use futures::future::join_all;
use miette::IntoDiagnostic;

use super::{FarmArgs, print, workbench::Workbench};
use crate::{
    hypervisor::{Hypervisor, libvirt::Libvirt},
    run::{Entry, Leftover, LockError, Notice, Recovered, Storage},
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
            print(format!("{done}\n"));
        }
        for report in &pruned.problems {
            eprintln!("{report:?}");
        }
        if pruned.done.is_empty() && pruned.problems.is_empty() {
            print("nothing is left over\n");
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
    let hypervisor = connect(workbench, &entry.hypervisor).await?;
    let tell = |notice| tell(&entry.machine, notice);
    let (locks, storage) = (&workbench.locks, workbench.storage());
    let journal = workbench.journal();
    journal.recover(entry, locks, &hypervisor, &storage, dry_run, &tell).await.into_diagnostic()
}

async fn connect(workbench: &Workbench, uri: &str) -> miette::Result<Arc<dyn Hypervisor>> {
    if let Some(host) = workbench.hosts.iter().find(|host| host.hypervisor.uri() == uri) {
        return Ok(host.hypervisor.clone());
    }
    Ok(Arc::new(Libvirt::connect(uri).await.into_diagnostic()?))
}

/// Disks that belong to no domain. Whether they do is known only when all hypervisors that had one were asked.
async fn orphans(workbench: &Workbench, dry_run: bool) -> miette::Result<Pruned> {
    let mut uris = workbench.journal().hypervisors().into_diagnostic()?;
    uris.extend(workbench.hosts.iter().map(|host| host.hypervisor.uri().to_owned()));
    uris.sort();
    uris.dedup();
    let mut domains = Vec::new();
    for uri in uris {
        let asked = match connect(workbench, &uri).await {
            Ok(hypervisor) => hypervisor.domains().await.into_diagnostic(),
            Err(report) => Err(report),
        };
        match asked {
            Ok(found) => domains.extend(found),
            Err(report) => {
                let message = "disks that belong to no machine can't be told from others";
                return Ok(Pruned { problems: vec![report.wrap_err(message)], ..Pruned::default() });
            }
        }
    }
    let mut pruned = Pruned::default();
    let storage = workbench.storage();
    // Whoever makes a machine in this data folder holds its file's lock, whatever its hypervisor is.
    let Some(host) = workbench.hosts.first() else { return Ok(pruned) };
    for name in workbench.journal().orphans(&domains).into_diagnostic()? {
        let remove = async {
            // Another run may have made the machine meanwhile.
            let exists = workbench.find(&name).await?.is_some();
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

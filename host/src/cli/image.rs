use std::{process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use miette::IntoDiagnostic;
use serde::Serialize;

use super::{
    FarmArgs, print, print_json,
    selection::Selection,
    table::table,
    workbench::{Workbench, dirs},
};
use crate::{
    base::counted,
    farm::Farm,
    image::{Listed, Store},
    run::{LocalStorage, RemoteStorage, Storage as _},
};

/// Look after the images that machines are made from.
///
/// They are kept by the digests of their contents, once for all farms, and machines' disks stand on them.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    List(List),
    Pull(Pull),
    Prune(Prune),
}

impl Image {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        match self {
            Self::List(command) => command.run().await,
            Self::Pull(command) => command.run(args).await,
            Self::Prune(command) => command.run(args).await,
        }
    }
}

/// List the images, kernels and other files that are there, and the machines that are made from them.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

impl List {
    async fn run(self) -> miette::Result<ExitCode> {
        let dirs = dirs()?;
        let list = move || Store::new(&dirs).list(&dirs.machines());
        let listed = tokio::task::spawn_blocking(list).await.into_diagnostic()?.into_diagnostic()?;
        if self.json {
            print_json(&listed)?;
        } else {
            print(in_a_table(listed))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Fetch, verify and prepare the images of the farm's machines, without making the machines.
///
/// An image that comes over the network and has no checksum is pinned in farmhand.lock as it is when it is first used. When it
/// has changed since, that is an error, until the change is accepted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  farmhand image pull\n  farmhand image pull debian_vs_amd64 --accept")]
pub(super) struct Pull {
    #[command(flatten)]
    selection: Selection,
    /// Fetch images without a checksum anew, and pin them as they are now.
    #[arg(long)]
    accept: bool,
    /// Print what was fetched as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Pulled {
    machine: String,
    /// What it is of the machine: `disk 0`, `kernel`.
    name: String,
    digest: crate::base::Digest,
    path: camino::Utf8PathBuf,
}

impl Pull {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let farm = Farm::load(&args.farm)?;
        let machines = self.selection.of(&farm)?;
        let storage = LocalStorage::new(&dirs()?, farm.root.clone());
        let storage = if self.accept { storage.accepting() } else { storage };
        let (mut pulled, mut failed) = (Vec::new(), false);
        for machine in machines {
            let name = machine.name.clone();
            let progress = Arc::new(move |message: String| eprintln!("[{name}] {message}"));
            match storage.fetch(machine, progress).await.into_diagnostic() {
                Ok(fetched) => pulled.extend(fetched.into_iter().map(|(name, file)| Pulled {
                    machine: machine.name.clone(),
                    name,
                    digest: file.digest,
                    path: file.path,
                })),
                Err(report) => {
                    failed = true;
                    eprintln!(
                        "{:?}",
                        report.wrap_err(format!("the images of {} can't be had", machine.name))
                    );
                }
            }
        }
        if self.json {
            print_json(&pulled)?;
        } else {
            let rows = pulled.into_iter().map(|row| [row.machine, row.name, row.digest.short()]);
            print(table(["machine", "file", "digest"], rows))?;
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Delete the images that no machine is made from, and downloads that broke off.
///
/// An image that a machine of any farm of this user stands on is never deleted. What the farms' definitions name is fetched
/// again when it is wanted.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Only say what would be deleted.
    #[arg(long)]
    dry_run: bool,
    /// Prune the images at the farm's hypervisors on other hosts instead of those on this one.
    #[arg(long)]
    remote: bool,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct PrunedRemotely {
    hypervisor: String,
    /// Digests of the images.
    images: Vec<String>,
}

impl Prune {
    async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        if self.remote { self.prune_remote(args).await } else { self.prune_local().await }
    }

    async fn prune_remote(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let mut pruned = Vec::new();
        for host in workbench.hosts.iter().filter(|host| host.pool_dir.is_some()) {
            let images = RemoteStorage::prune(&host.hypervisor, &workbench.locks, self.dry_run).await;
            pruned.push(PrunedRemotely {
                hypervisor: host.config.name.clone(),
                images: images.into_diagnostic()?,
            });
        }
        if self.json {
            print_json(&pruned)?;
            return Ok(ExitCode::SUCCESS);
        }
        let done = if self.dry_run { "would be deleted" } else { "deleted" };
        if pruned.is_empty() {
            print("no hypervisor of the farm is on another host\n")?;
        }
        for PrunedRemotely { hypervisor, images } in pruned {
            print(format!("{hypervisor}: {} {done}\n", counted(images.len(), "file")))?;
            print(images.iter().map(|image| format!("  {image}\n")).collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn prune_local(self) -> miette::Result<ExitCode> {
        let dirs = dirs()?;
        let prune = move || Store::new(&dirs).prune(&dirs.machines(), self.dry_run);
        let gone = tokio::task::spawn_blocking(prune).await.into_diagnostic()?.into_diagnostic()?;
        if self.json {
            print_json(&gone)?;
            return Ok(ExitCode::SUCCESS);
        }
        let used: u64 = gone.iter().map(|listed| listed.used).sum();
        let count = gone.len();
        if count > 0 {
            print(in_a_table(gone))?;
        }
        let done = if self.dry_run { "would be deleted" } else { "deleted" };
        print(format!("{} {done}, {}\n", counted(count, "file"), megabytes(used)))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn in_a_table(listed: Vec<Listed>) -> String {
    let rows = listed.into_iter().map(|listed| {
        let format = listed.format.map_or("", |format| format.name()).to_owned();
        let machines = if listed.machines.is_empty() { "-".to_owned() } else { listed.machines.join(", ") };
        [listed.digest.short(), format, megabytes(listed.used), machines, listed.from.join(", ")]
    });
    table(["digest", "format", "on disk", "machines", "from"], rows)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

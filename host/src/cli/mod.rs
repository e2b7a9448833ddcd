//! The command line: a file a command. What a command prints is for people unless `--json` is given.

mod check;
mod chosen;
mod console;
mod copy;
mod destroy;
mod explain;
mod image;
mod init;
mod inspect;
mod interrupt;
mod machines;
mod module;
mod networks;
mod plan;
mod planned;
mod prune;
mod report;
mod schema;
mod selection;
mod snapshot;
mod ssh;
mod ssh_config;
mod status;
mod table;
mod up;
mod workbench;

pub use ssh::askpass;

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};

/// The exit code for wrong input, which is clap's, too.
pub const WRONG_INPUT: u8 = 2;

/// Deploys virtual machines on libvirt and provisions them phase by phase, with snapshots between the phases.
///
/// A farm is a folder with a farm.yaml. `farmhand up` makes its machines and carries out their phases (dependencies, init,
/// main, terminate); what dependencies and init did is kept as checkpoints, so that the next run starts from there as long as
/// nothing changed.
#[derive(Debug, Parser)]
#[command(name = "farmhand", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    farm: FarmArgs,
    #[command(subcommand)]
    command: Command,
}

/// Which farm, on which hypervisor.
#[derive(Debug, Args)]
struct FarmArgs {
    /// The farm: a folder with a farm.yaml, or that file.
    #[arg(long, short = 'f', global = true, value_name = "PATH", default_value = ".", env = "FARMHAND_FARM")]
    farm: Utf8PathBuf,
    /// The hypervisor's libvirt connection URI, instead of the farm's.
    ///
    /// Without either, it is libvirt's own default: LIBVIRT_DEFAULT_URI, else qemu:///session (qemu:///system for root).
    #[arg(long, short = 'c', global = true, value_name = "URI", env = "FARMHAND_CONNECT")]
    connect: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Check(check::Check),
    Up(up::Up),
    Plan(plan::Plan),
    Explain(explain::Explain),
    Report(report::Report),
    Machines(machines::Machines),
    Schema(schema::Schema),
    Status(status::Status),
    Ssh(ssh::Ssh),
    Copy(copy::Copy),
    Console(console::Console),
    SshConfig(ssh_config::SshConfig),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Destroy(destroy::Destroy),
    Prune(prune::Prune),
    #[command(subcommand)]
    Image(image::Image),
    #[command(subcommand)]
    Module(module::Module),
}

impl Cli {
    /// Carries the command out. The exit code is 0 only when everything went well.
    pub async fn run(self) -> miette::Result<ExitCode> {
        let farm = self.farm;
        match self.command {
            Command::Init(command) => command.run(&farm),
            Command::Check(command) => command.run(&farm).await,
            Command::Schema(command) => command.run(),
            Command::Up(command) => command.run(&farm).await,
            Command::Plan(command) => command.run(&farm).await,
            Command::Explain(command) => command.run(&farm).await,
            Command::Report(command) => command.run(),
            Command::Machines(command) => command.run(&farm),
            Command::Status(command) => command.run(&farm).await,
            Command::Ssh(command) => command.run(&farm).await,
            Command::Copy(command) => command.run(&farm).await,
            Command::Console(command) => command.run(&farm).await,
            Command::SshConfig(command) => command.run(&farm).await,
            Command::Snapshot(command) => command.run(&farm).await,
            Command::Destroy(command) => command.run(&farm).await,
            Command::Prune(command) => command.run(&farm).await,
            Command::Image(command) => command.run(&farm).await,
            Command::Module(command) => command.run(&farm).await,
        }
    }
}

/// Prints lines to standard output. A reader that went away is no error of ours, a full disk is one.
fn print(text: impl AsRef<str>) -> miette::Result<()> {
    use miette::{IntoDiagnostic, WrapErr};
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_ref().as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).into_diagnostic().wrap_err("can't write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON for programs.
fn print_json(value: &impl serde::Serialize) -> miette::Result<()> {
    use miette::IntoDiagnostic;
    print(serde_json::to_string_pretty(value).into_diagnostic()? + "\n")
}

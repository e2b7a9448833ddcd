//! `farmhand module`: for those who write phase modules, and for those who let them into their farms.

mod build;
mod inspect;
mod list;
mod lock;
mod new;
mod test;

use std::process::ExitCode;

use clap::Subcommand;

use super::FarmArgs;
use crate::{
    farm::Farm,
    module::{self, Library, Limits},
};

/// Work on phase modules.
#[derive(Debug, Subcommand)]
pub(super) enum Module {
    New(new::New),
    Build(build::Build),
    Test(test::Test),
    Inspect(inspect::Inspect),
    List(list::List),
    Lock(lock::Lock),
    Accept(lock::Accept),
}

impl Module {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        match self {
            Self::New(command) => command.run(),
            Self::Build(command) => command.run().await,
            Self::Test(command) => command.run().await,
            Self::Inspect(command) => command.run().await,
            Self::List(command) => command.run().await,
            Self::Lock(command) => command.run(args).await,
            Self::Accept(command) => command.run(args).await,
        }
    }
}

/// The modules in the folders where farmhand looks for them, within the limits that a farm sets.
fn library(farm: Option<&Farm>) -> miette::Result<Library> {
    let limits = farm.map(|farm| Limits::default().with(&farm.config.limits)).unwrap_or_default();
    let engine = super::inspect::engine(&super::workbench::dirs()?, limits)?;
    Ok(Library::new(engine, module::default_folders()))
}

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};
use miette::IntoDiagnostic;

use super::print;
use crate::module;

/// Work on phase modules.
#[derive(Debug, Subcommand)]
pub(super) enum Module {
    Build(Build),
}

impl Module {
    pub(super) async fn run(self) -> miette::Result<ExitCode> {
        match self {
            Self::Build(command) => command.run().await,
        }
    }
}

/// Build a phase module that is written in Rust: a component that imports nothing but what farmhand hands it.
///
/// Needs cargo and the target wasm32-unknown-unknown.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// Folder of the module's crate.
    #[arg(default_value = ".")]
    crate_dir: Utf8PathBuf,
    /// The file to write.
    #[arg(long, short)]
    output: Utf8PathBuf,
}

impl Build {
    async fn run(self) -> miette::Result<ExitCode> {
        module::build(&self.crate_dir, &self.output).await.into_diagnostic()?;
        print(format!("built {}\n", self.output));
        Ok(ExitCode::SUCCESS)
    }
}

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::Args;
use miette::IntoDiagnostic;

use crate::{cli::print, module};

/// Build a phase module that is written in Rust: a component that imports nothing but what farmhand hands it.
///
/// Needs cargo and the target wasm32-unknown-unknown.
#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// Folder of the module's crate.
    #[arg(default_value = ".")]
    crate_dir: Utf8PathBuf,
    /// The file to write [default: NAME.wasm in that folder].
    #[arg(long, short)]
    output: Option<Utf8PathBuf>,
}

impl Build {
    pub(super) async fn run(self) -> miette::Result<ExitCode> {
        let output = match self.output {
            Some(output) => output,
            None => {
                let folder = self.crate_dir.canonicalize_utf8().into_diagnostic()?;
                folder.join(format!("{}.wasm", folder.file_name().unwrap_or("module")))
            }
        };
        module::build(&self.crate_dir, &output).await.into_diagnostic()?;
        print(format!("built {output}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use miette::{IntoDiagnostic, miette};

use crate::{
    cli::print,
    module::{self, Transcript},
};

/// Test a phase module without a machine: run its crate's own tests, build it, and play back the transcripts in its folder
/// `recordings`.
///
/// `farmhand up --record FOLDER` writes transcripts. A module that calls the guest otherwise than it was recorded fails, and
/// the first difference is shown.
#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    /// Folder of the module's crate.
    #[arg(default_value = ".")]
    crate_dir: Utf8PathBuf,
}

impl Test {
    pub(super) async fn run(self) -> miette::Result<ExitCode> {
        module::test(&self.crate_dir).await.into_diagnostic()?;
        let folder = tempfile::tempdir().into_diagnostic()?;
        let built = Utf8Path::from_path(folder.path()).unwrap_or(Utf8Path::new(".")).join("module.wasm");
        module::build(&self.crate_dir, &built).await.into_diagnostic()?;
        let module = super::library(None)?.load(&built).await.into_diagnostic()?;
        let descriptor = module.descriptor();
        print(format!("{} {} loads and describes itself\n", descriptor.name, descriptor.version))?;
        let mut failed = false;
        for path in recordings(&self.crate_dir.join("recordings")).into_diagnostic()? {
            let transcript = Transcript::read(&path).map_err(|why| miette!("{why}"))?;
            let difference = module::play(&module, transcript).await;
            failed |= difference.is_some();
            match difference {
                None => print(format!("{path}: as it was recorded\n"))?,
                Some(difference) => print(format!("{path}: {difference}\n"))?,
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The transcripts in a folder, in the order of their names; none when there is no folder.
fn recordings(folder: &Utf8Path) -> std::io::Result<Vec<Utf8PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = folder.read_dir_utf8()?.map(|entry| entry.map(camino::Utf8DirEntry::into_path));
    let mut paths: Vec<_> = paths.collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.extension() == Some("json"));
    paths.sort();
    Ok(paths)
}

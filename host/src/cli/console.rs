use std::process::ExitCode;

use miette::{IntoDiagnostic, WrapErr};

use super::{
    FarmArgs,
    selection::Selection,
    workbench::{Outside, Workbench},
};
use crate::run;

/// Open a machine's serial console, with `virsh console`: also while it boots, and when it has no network. Leave it with Ctrl-].
///
/// A machine that is off is started. Somebody else's console of the same machine is closed. The exit code is virsh's own.
#[derive(Debug, clap::Args)]
pub(super) struct Console {
    /// The machine.
    machine: String,
}

impl Console {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let workbench = Workbench::open(args).await?;
        let machine = &Selection::one(&self.machine).of(&workbench.farm)?[0];
        let (host, existing) = workbench.find_existing(&machine.name).await?;
        if !existing.is_active() {
            let site = workbench.site(host, Outside::progress());
            run::start(&site, machine).await.into_diagnostic()?;
        }
        let status = tokio::process::Command::new("virsh")
            .args(["--connect", &host.uri, "console", "--force", "--domain", &machine.name])
            .status()
            .await
            .into_diagnostic()
            .wrap_err("can't start `virsh`: are libvirt's client programs installed?")?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }
}

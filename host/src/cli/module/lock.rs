use std::process::ExitCode;

use clap::Args;
use miette::{IntoDiagnostic, WrapErr, miette};

use super::library;
use crate::{
    cli::{FarmArgs, print},
    farm::{Farm, LOCK_FILE, Lock as LockFile},
    module::{PinMismatch, UsedModule, pin},
};

/// Pin the phase modules that the farm uses, each with what it was granted, in farmhand.lock.
///
/// A module that asks for more than the one that was pinned, or was granted more, is not pinned anew: it has to be accepted
/// by name.
#[derive(Debug, Args)]
pub(in crate::cli) struct Lock {}

/// Accept phase modules as they are now, with what they ask for and what farm.yaml grants them, and pin them so.
#[derive(Debug, Args)]
pub(in crate::cli) struct Accept {
    /// The modules, by the names under which the farm knows them.
    #[arg(required = true)]
    names: Vec<String>,
}

impl Lock {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let (farm, used) = used(args).await?;
        let mut lock = LockFile::read(&farm.root)?;
        let mut refused = Vec::new();
        let mut said = String::new();
        for UsedModule { name, module, grants } in &used {
            let now = pin(module, grants);
            let compared =
                lock.modules.get(name).map(|locked| PinMismatch::check(name, locked, module, grants));
            match compared {
                Some(Ok(())) => continue,
                Some(Err(mismatch)) if mismatch.more => {
                    refused.push(mismatch.to_string());
                    continue;
                }
                _ => said += &format!("pinned {name} {} ({})\n", now.version, now.digest.short()),
            }
            lock.modules.insert(name.clone(), now);
        }
        lock.modules.retain(|name, _| {
            let is_used = used.iter().any(|used| used.name == *name);
            if !is_used {
                said += &format!("dropped {name}, which no step uses\n");
            }
            is_used
        });
        if !refused.is_empty() {
            return Err(miette!("{}", refused.join("\n\n")));
        }
        write(&farm, &lock)?;
        print(if said.is_empty() { "all modules are as they were pinned\n".to_owned() } else { said })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Accept {
    pub(super) async fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        let (farm, used) = used(args).await?;
        let mut lock = LockFile::read(&farm.root)?;
        let mut said = String::new();
        for name in &self.names {
            let Some(UsedModule { module, grants, .. }) = used.iter().find(|used| used.name == *name) else {
                let known: Vec<_> = used.iter().map(|used| used.name.as_str()).collect();
                let help = format!("its steps use: {}", known.join(", "));
                return Err(miette!(help = help, "no step of the farm uses a module `{name}`"));
            };
            let now = pin(module, grants);
            said += &format!(
                "accepted {name} {} ({}), which asks for {} and is granted {}\n",
                now.version,
                now.digest.short(),
                if now.asks.is_empty() { "nothing".to_owned() } else { now.asks.join(", ") },
                now.grants
            );
            lock.modules.insert(name.clone(), now);
        }
        write(&farm, &lock)?;
        print(said)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn used(args: &FarmArgs) -> miette::Result<(Farm, Vec<UsedModule>)> {
    let farm = Farm::load(&args.farm)?;
    let used = library(Some(&farm))?.used_by(&farm).await?;
    Ok((farm, used))
}

fn write(farm: &Farm, lock: &LockFile) -> miette::Result<()> {
    lock.write(&farm.root)
        .into_diagnostic()
        .wrap_err_with(|| format!("can't write {}", farm.root.join(LOCK_FILE)))
}

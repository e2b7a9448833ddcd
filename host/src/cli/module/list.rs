use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::library;
use crate::{
    base::Digest,
    cli::{print, print_json, table::table},
};

/// List the phase modules in the folders where farmhand looks for them.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    version: &'a str,
    summary: &'a str,
    provides: &'a [String],
    platforms: &'a [String],
    digest: Digest,
    file: &'a str,
}

impl List {
    pub(super) async fn run(self) -> miette::Result<ExitCode> {
        let library = library(None)?;
        let modules = library.modules().await;
        if self.json {
            let listed = modules.iter().map(|module| {
                let descriptor = module.descriptor();
                Listed {
                    name: &descriptor.name,
                    version: &descriptor.version,
                    summary: &descriptor.summary,
                    provides: &descriptor.provides,
                    platforms: &descriptor.platforms,
                    digest: module.digest(),
                    file: module.source(),
                }
            });
            print_json(&listed.collect::<Vec<_>>())?;
        } else {
            let header = ["module", "version", "provides", "platforms", "what it does"];
            let rows = modules.iter().map(|module| {
                let descriptor = module.descriptor();
                let platforms = descriptor.platforms.join(", ");
                [
                    descriptor.name.clone(),
                    descriptor.version.clone(),
                    descriptor.provides.join(", "),
                    if platforms.is_empty() { "any".to_owned() } else { platforms },
                    descriptor.summary.clone(),
                ]
            });
            print(table(header, rows))?;
        }
        for broken in library.broken().await {
            eprintln!("set aside: {}", broken.error);
        }
        Ok(ExitCode::SUCCESS)
    }
}

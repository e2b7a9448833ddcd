use std::{fmt::Write as _, process::ExitCode};

use camino::Utf8PathBuf;
use clap::Args;
use miette::IntoDiagnostic;
use serde::Serialize;

use super::library;
use crate::{
    base::Digest,
    cli::{print, print_json},
    module::{Descriptor, Module},
};

/// Show what a phase module says of itself, what it asks for, and what its file is.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// Its file, or the name of one in a module folder.
    module: Utf8PathBuf,
    /// Print it as JSON, the schema of the settings included.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected<'a> {
    source: &'a str,
    digest: Digest,
    size: usize,
    imports: Vec<String>,
    #[serde(flatten)]
    descriptor: &'a Descriptor,
}

impl Inspect {
    pub(super) async fn run(self) -> miette::Result<ExitCode> {
        let library = library(None)?;
        let module = if self.module.is_file() {
            library.load(&self.module).await.into_diagnostic()?
        } else {
            library.resolve(self.module.as_str(), "", None).await.into_diagnostic()?
        };
        let imports = module.imports().await.into_diagnostic()?;
        if self.json {
            let (digest, size) = (module.digest(), module.size());
            let descriptor = module.descriptor();
            print_json(&Inspected { source: module.source(), digest, size, imports, descriptor })?;
        } else {
            print(text(&module, &imports))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(module: &Module, imports: &[String]) -> String {
    let Descriptor { name, version, summary, authors, license, provides, platforms, phases, .. } =
        module.descriptor();
    let or = |list: String, otherwise: &str| if list.is_empty() { otherwise.to_owned() } else { list };
    let phases: Vec<_> = phases.iter().map(|phase| phase.name()).collect();
    let mut text = format!("{name} {version}: {summary}\n");
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<10} {value}").unwrap_or_default();
    line("authors", or(authors.join(", "), "not said"));
    line("licence", or(license.clone(), "not said"));
    line("provides", or(provides.join(", "), "nothing but itself"));
    line("platforms", or(platforms.join(", "), "any"));
    line("phases", or(phases.join(", "), "any"));
    for (index, (ask, reason)) in module.descriptor().asks().iter().enumerate() {
        line(if index == 0 { "asks for" } else { "" }, format!("{ask}: {reason}"));
    }
    line("settings", or(settings(module.descriptor()).join(", "), "none"));
    line("imports", or(imports.join(", "), "nothing"));
    line("size", format!("{} bytes", module.size()));
    line("digest", module.digest().to_string());
    line("file", module.source().to_owned());
    text
}

/// The names of the settings; those that must be there with a `*`.
fn settings(descriptor: &Descriptor) -> Vec<String> {
    let list = |key| descriptor.settings_schema.get(key);
    let required: Vec<&str> = list("required")
        .and_then(|names| names.as_array())
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .collect();
    let properties = list("properties").and_then(|properties| properties.as_object());
    let mark = |name: &str| if required.contains(&name) { "*" } else { "" };
    let names = properties.into_iter().flat_map(|properties| properties.keys());
    // Schemas are strangers' text.
    names.map(|name| format!("{}{}", name.escape_debug(), mark(name))).collect()
}

use std::{fmt::Write as _, fs, process::ExitCode};

use camino::{Utf8Path, Utf8PathBuf};
use clap::builder::PossibleValuesParser;
use miette::{IntoDiagnostic, WrapErr, miette};

use super::{FarmArgs, print, table::table};
use crate::farm::{CLOUD_PLATFORMS, CloudPlatform, FARM_FILE, Project, json_schema};

/// The file beside farm.yaml by which editors check it.
const SCHEMA_FILE: &str = "farm.schema.json";

/// Make a farm: a folder with a farm.yaml, definitions of platforms, and phase files.
///
/// The platforms are official cloud images, with their publishers' URLs and checksums. Such images take their users and keys
/// from cloud-init: see docs/definitions.md.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand init myfarm\n  farmhand init myfarm --platform debian-13 --platform fedora-44\n  farmhand init --list"
)]
pub(super) struct Init {
    /// The folder, which must not have a farm.yaml yet [default: that of --farm].
    folder: Option<Utf8PathBuf>,
    /// A platform that its machines have; repeat it for more.
    #[arg(
        long,
        short,
        value_name = "NAME",
        default_value = "debian-13",
        value_parser = PossibleValuesParser::new(CLOUD_PLATFORMS.map(|platform| platform.name))
    )]
    platform: Vec<String>,
    /// The project's id, which stands in the names of checkpoints [default: the folder's name].
    #[arg(long, value_name = "ID", value_parser = Project::id)]
    project: Option<String>,
    /// List the platforms there are, and make nothing.
    #[arg(long)]
    list: bool,
}

impl Init {
    pub(super) fn run(self, args: &FarmArgs) -> miette::Result<ExitCode> {
        if self.list {
            let row = |platform: CloudPlatform| [platform.name.to_owned(), platform.title.to_owned()];
            print(table(["platform", "is"], CLOUD_PLATFORMS.map(row)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let root = self.folder.as_ref().unwrap_or(&args.farm);
        if root.join(FARM_FILE).exists() {
            return Err(miette!(
                help = "name another folder, or remove that file",
                "there is a farm in {root} already: {}",
                root.join(FARM_FILE)
            ));
        }
        fs::create_dir_all(root).into_diagnostic().wrap_err_with(|| format!("can't make {root}"))?;
        let project = match self.project {
            Some(project) => project,
            None => project_id(&root.canonicalize_utf8().into_diagnostic()?),
        };
        let mut platforms: Vec<_> = CLOUD_PLATFORMS.into_iter().collect();
        platforms.retain(|platform| self.platform.iter().any(|name| name == platform.name));

        let schema = serde_json::to_string_pretty(&json_schema()).into_diagnostic()? + "\n";
        let mut files = vec![
            (SCHEMA_FILE.to_owned(), schema),
            ("provisioning_phases/main.yaml".to_owned(), MAIN.to_owned()),
        ];
        files.extend(platforms.iter().map(|platform| {
            (format!("setup_vm/platforms/{}.yaml", platform.name), platform.definition.to_owned())
        }));
        // Last, because it makes the folder a farm.
        files.push((FARM_FILE.to_owned(), farm_yaml(&project, &platforms)));
        let mut told = String::new();
        for (name, content) in files {
            write_new(&root.join(&name), &content)?;
            let _ = writeln!(told, "  {name}");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let there = match root.as_str() {
            "." => String::new(),
            path if path.chars().all(plain) => format!(" --farm {path}"),
            path => format!(" --farm '{}'", path.replace('\'', "'\\''")),
        };
        print(format!("wrote in {root}:\n{told}next: farmhand check{there}, then farmhand plan{there}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a file that must not exist.
fn write_new(path: &Utf8Path, content: &str) -> miette::Result<()> {
    use std::io::Write;
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::File::create_new(path)?.write_all(content.as_bytes())
    };
    write().into_diagnostic().wrap_err_with(|| format!("can't write {path}"))
}

/// A project id like the folder's name.
fn project_id(folder: &Utf8Path) -> String {
    let name = folder.file_name().unwrap_or("farm");
    let fine = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' };
    name.chars().take(64).map(fine).collect()
}

fn farm_yaml(project: &str, platforms: &[CloudPlatform]) -> String {
    let names: Vec<_> = platforms.iter().map(|platform| platform.name).collect();
    // JSON's texts are YAML's.
    let project = serde_json::Value::from(project);
    format!(
        "# yaml-language-server: $schema={SCHEMA_FILE}
schema: 1

# Its checkpoints are named after it. Bump the revision to have them all made anew.
project: {{ id: {project}, revision: 0 }}

# A machine for each platform on each target. The targets amd64, arm64, arm and kvm are built in; those of your own are files
# in setup_vm/targets, as platforms are in setup_vm/platforms.
permutations:
  targets: [amd64]
  platforms: [{}]

# How many machines are worked on at once.
serial: 2

# For definition files and the steps of phase files.
variables:
  greeting: hello

# Phase modules may do nothing that does not stand here.
modules:
  shell: {{ grants: {{ exec: true }} }}
",
        names.join(", ")
    )
}

/// The phase `main`.
const MAIN: &str = "# What is done on every run. What is to be done once belongs into dependencies.yaml and init.yaml beside this file: their
# results are kept as checkpoints.
- name: Say where this is
  run: |
    echo '{{ greeting }} from {{ machine_name }}'
    uname -a
";

use std::process::ExitCode;

use super::print_json;
use crate::farm::json_schema;

/// Print the JSON Schema of farm.yaml, by which editors complete and check it.
///
/// With yaml-language-server, let this be the first line of farm.yaml:
/// # yaml-language-server: $schema=farm.schema.json
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  farmhand schema > farm.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> miette::Result<ExitCode> {
        print_json(&json_schema())?;
        Ok(ExitCode::SUCCESS)
    }
}

//! Runs a shell script in the guest.
//!
//! As in GitHub Actions the script is run by `sh -e`: it ends at the first command that fails. Unset variables are not an
//! error (`set -u` in the script makes them one), and a pipeline's status is its last command's (with `shell: bash`,
//! `set -o pipefail` changes that). What the script does is not known, so it always counts as a change.

use std::collections::BTreeMap;

use farmhand_sdk::{CommandOutput, Content, Exit, prelude::*};

/// The module.
pub struct Shell;

/// The settings of a `shell` step. `- run: TEXT` is short for `uses: shell` with `run: TEXT`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
pub struct Settings {
    /// The script.
    // Linux takes at most 128 KiB in one argument, and the remote shell's quoting adds to it.
    #[schemars(length(min = 1, max = 65536))]
    run: String,
    /// The folder it runs in; the login user's home by default.
    cwd: Option<String>,
    /// Environment variables.
    #[serde(default)]
    env: BTreeMap<String, Value>,
    /// Exit codes that are a success.
    #[serde(default = "success")]
    #[schemars(length(min = 1, max = 256))]
    exit_codes: Vec<u8>,
    /// The shell: a program that takes `-e -c SCRIPT`.
    #[serde(default = "sh")]
    shell: String,
    /// A path in the guest (absolute, or below `cwd`): if it exists, the script is not run.
    creates: Option<String>,
}

/// A variable's value, or `{ secret: NAME }`. YAML reads `1` and `true` as what they look like.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
#[serde(crate = "farmhand_sdk::serde")]
#[schemars(crate = "farmhand_sdk::schemars")]
enum Value {
    Text(String),
    Truth(bool),
    Integer(i64),
    Number(f64),
    Secret(Secret),
}

impl Value {
    fn into_content(self) -> Content {
        match self {
            Self::Text(text) => text.into(),
            Self::Truth(truth) => truth.to_string().into(),
            Self::Integer(integer) => integer.to_string().into(),
            Self::Number(number) => number.to_string().into(),
            Self::Secret(secret) => secret.into(),
        }
    }
}

fn success() -> Vec<u8> {
    vec![0]
}

fn sh() -> String {
    "/bin/sh".to_owned()
}

impl PhaseModule for Shell {
    type Settings = Settings;

    fn describe() -> Descriptor {
        descriptor!("Runs a shell script in the guest").asks_for(Capability::Exec, "runs the script")
    }

    fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
        if let Some(path) = &settings.creates
            && exists(path, settings.cwd.as_deref(), guest)?
        {
            return Ok(Outcome::unchanged(format!("{path} exists")));
        }
        let mut command = guest
            .command([settings.shell.as_str(), "-e", "-c", settings.run.as_str()])
            .envs(settings.env.into_iter().map(|(name, value)| (name, value.into_content())))
            .any_status()
            .logged();
        if let Some(folder) = settings.cwd {
            command = command.cwd(folder);
        }
        let output = command.run()?;
        match &output.exit {
            Exit::Status(status)
                if settings.exit_codes.iter().any(|expected| u32::from(*expected) == *status) =>
            {
                Ok(Outcome::changed(format!("exit code {status}")))
            }
            Exit::Status(status) => Err(failed(&format!("exited with status {status}"), &output)),
            Exit::Signal(signal) => Err(failed(&format!("was ended by signal {signal}"), &output)),
        }
    }
}

farmhand_sdk::phase_module!(Shell);

/// Whether a path exists in the guest.
fn exists(path: &str, cwd: Option<&str>, guest: &Guest) -> Result<bool, Failure> {
    let mut command = guest.command(["test", "-e", path]).read_only().expect_status([0, 1]);
    if let Some(folder) = cwd {
        command = command.cwd(folder);
    }
    Ok(command.run()?.success())
}

/// Says how the script ended and what it wrote last. The script itself stands in the phase file.
fn failed(how: &str, output: &CommandOutput) -> Failure {
    let mut text = format!("the script {how}");
    for line in output.last_lines() {
        text.push('\n');
        text.push_str(&line);
    }
    Failure::CommandFailed(text)
}

#[cfg(test)]
mod tests;

use std::{io::Write as _, process::Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tokio::process::Command;
use wit_component::ComponentEncoder;

/// What modules are compiled for: the target on which a Rust program imports nothing but what it asks for.
const TARGET: &str = "wasm32-unknown-unknown";

/// How modules are compiled where the workspace has no profile `module`: small files compile and load sooner.
const SMALL: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
];

/// Builds a phase module written in Rust: compiles the crate (a `cdylib`) with cargo, in the workspace's profile `module` or
/// else `release`, turns the result into a component, and puts that to `output` in one step. cargo's own words go to
/// standard error.
pub async fn build(folder: &Utf8Path, output: &Utf8Path) -> Result<(), BuildError> {
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(BuildError::NoCrate(folder.to_owned()));
    }
    let core = compile(&manifest).await?;
    let output = output.to_owned();
    let encode = move || componentize(&core, &output);
    tokio::task::spawn_blocking(encode).await.map_err(|error| BuildError::Cargo(error.to_string()))?
}

/// Runs the tests of a phase module's crate. What they say goes to standard error and output as cargo has it.
pub async fn test(folder: &Utf8Path) -> Result<(), BuildError> {
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(BuildError::NoCrate(folder.to_owned()));
    }
    let mut command = cargo();
    command.args(["test", "--manifest-path", manifest.as_str()]).stdin(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.map_err(|error| BuildError::Cargo(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(BuildError::Tests(status.to_string())) }
}

/// Compiles and gives the path of the core module.
async fn compile(manifest: &Utf8Path) -> Result<Utf8PathBuf, BuildError> {
    let mut command = cargo();
    command.args(["build", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    command.args(["--manifest-path", manifest.as_str()]);
    if has_profile(manifest).await? {
        command.args(["--profile", "module"]);
    } else {
        command.arg("--release").envs(SMALL);
    }
    let output = run(command).await?;
    let artifacts =
        output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    let mut modules =
        artifacts.filter(|message| message.is_of(manifest)).flat_map(|message| message.filenames);
    modules
        .find(|path| path.extension() == Some("wasm"))
        .ok_or_else(|| BuildError::NotACdylib(manifest.to_owned()))
}

/// One of cargo's messages (The Cargo Book, "External tools"), as far as it matters here.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    manifest_path: Utf8PathBuf,
    #[serde(default)]
    filenames: Vec<Utf8PathBuf>,
}

impl Message {
    fn is_of(&self, manifest: &Utf8Path) -> bool {
        let canonical = |path: &Utf8Path| path.canonicalize_utf8().ok();
        canonical(&self.manifest_path).is_some_and(|path| Some(path) == canonical(manifest))
    }
}

/// Whether the crate's workspace has a profile `module`.
async fn has_profile(manifest: &Utf8Path) -> Result<bool, BuildError> {
    let mut command = cargo();
    command.args([
        "locate-project",
        "--workspace",
        "--message-format=plain",
        "--manifest-path",
        manifest.as_str(),
    ]);
    let output = run(command).await?;
    let root = String::from_utf8_lossy(&output).trim().to_owned();
    let read = |source| BuildError::File { path: root.clone().into(), source };
    let text = tokio::fs::read_to_string(&root).await.map_err(read)?;
    Ok(text.lines().any(|line| line.trim() == "[profile.module]"))
}

fn cargo() -> Command {
    // Set when farmhand itself is run by cargo.
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs cargo and gives its standard output.
async fn run(mut command: Command) -> Result<Vec<u8>, BuildError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    // Not `output()`: that would take standard error too.
    let running = command.spawn().map_err(|error| BuildError::Cargo(error.to_string()))?;
    let output = running.wait_with_output().await.map_err(|error| BuildError::Cargo(error.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(BuildError::Failed(output.status.to_string()))
    }
}

/// Turns a core module into a component.
fn componentize(core: &Utf8Path, output: &Utf8Path) -> Result<(), BuildError> {
    let file = |path: &Utf8Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let bytes = std::fs::read(core).map_err(file(core))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(ComponentEncoder::encode)
        .map_err(|error| BuildError::Component(format!("{error:#}")))?;
    let folder = output.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let write = || -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(&component)?;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        temporary.persist(output)?;
        Ok(())
    };
    write().map_err(file(output))
}

/// A phase module could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no crate.
    #[error("{0} has no Cargo.toml: name the folder of a phase module's crate")]
    NoCrate(Utf8PathBuf),
    /// cargo can't be run.
    #[error("can't run cargo: {0}; install Rust from https://rustup.rs")]
    Cargo(String),
    /// cargo failed; it has said why.
    #[error("cargo failed ({0}); if it misses the target, `rustup target add wasm32-unknown-unknown`")]
    Failed(String),
    /// The crate's tests failed; they have said why.
    #[error("the tests failed ({0})")]
    Tests(String),
    /// The crate makes no module.
    #[error("{0} makes no WebAssembly module: it needs `[lib] crate-type = [\"cdylib\"]`")]
    NotACdylib(Utf8PathBuf),
    /// The core module can't be turned into a component.
    #[error("the compiled module can't be turned into a component: {0}")]
    Component(String),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

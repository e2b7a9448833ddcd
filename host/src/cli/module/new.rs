use std::{fs, process::ExitCode};

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use miette::{IntoDiagnostic, WrapErr, miette};

use crate::cli::print;

/// Begin a phase module in Rust: a crate with a module that works, its tests, and the SDK beside it.
///
/// The SDK travels in farmhand itself, so that the two always fit: the new crate has a copy of it in `farmhand-sdk`.
#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// The module's name: lower-case letters, digits and inner `-`. The folder of that name must not exist.
    name: String,
    /// The folder to make it in.
    #[arg(long, default_value = ".")]
    path: Utf8PathBuf,
}

/// A file of the new crate and what is in it.
macro_rules! files {
    ($($target:literal: $source:literal),* $(,)?) => {
        [$(($target, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $source)))),*]
    };
}

/// The SDK, file by file.
const SDK: &[(&str, &str)] = &files! {
    "farmhand-sdk/Cargo.toml": "sdk/Cargo.toml",
    "farmhand-sdk/src/bindings.rs": "sdk/src/bindings.rs",
    "farmhand-sdk/src/content.rs": "sdk/src/content.rs",
    "farmhand-sdk/src/context.rs": "sdk/src/context.rs",
    "farmhand-sdk/src/descriptor.rs": "sdk/src/descriptor.rs",
    "farmhand-sdk/src/export.rs": "sdk/src/export.rs",
    "farmhand-sdk/src/file.rs": "sdk/src/file.rs",
    "farmhand-sdk/src/guest.rs": "sdk/src/guest.rs",
    "farmhand-sdk/src/lib.rs": "sdk/src/lib.rs",
    "farmhand-sdk/src/log.rs": "sdk/src/log.rs",
    "farmhand-sdk/src/outcome.rs": "sdk/src/outcome.rs",
    "farmhand-sdk/src/packages.rs": "sdk/src/packages.rs",
    "farmhand-sdk/src/testing/mod.rs": "sdk/src/testing/mod.rs",
    "farmhand-sdk/src/testing/recording.rs": "sdk/src/testing/recording.rs",
    "farmhand-sdk/src/testing/script.rs": "sdk/src/testing/script.rs",
    "farmhand-sdk/src/testing/streamed.rs": "sdk/src/testing/streamed.rs",
    "farmhand-sdk/wit/phase.wit": "wit/phase.wit",
};

/// The crate itself. `NAME` stands for the module's name, `TYPE` for that of its type.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("template/lib.rs.txt")),
    (".gitignore", "/target\n/NAME.wasm\n"),
];

impl New {
    pub(super) fn run(self) -> miette::Result<ExitCode> {
        let name = self.name.as_str();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || name.len() > 64 || name.ends_with('-') || !name.bytes().all(allowed) {
            return Err(miette!(
                "`{name}` can't name a module: it needs a lower-case letter, then letters, digits and inner `-`"
            ));
        }
        let folder = self.path.join(name);
        fs::create_dir(&folder).into_diagnostic().wrap_err_with(|| format!("can't make {folder}"))?;
        for (file, content) in TEMPLATE {
            let content = content.replace("TYPE", &type_name(name)).replace("NAME", name);
            write(&folder.join(file), &content)?;
        }
        for (file, content) in SDK {
            write(&folder.join(file), content)?;
        }
        print(format!(
            "made {folder}\n  cargo test                   test it without a machine\n  \
             farmhand module build        build {name}.wasm\n  \
             farmhand module inspect {name}.wasm\n"
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write(path: &Utf8Path, content: &str) -> miette::Result<()> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(Utf8Path::new(".")))?;
        fs::write(path, content)
    };
    write().into_diagnostic().wrap_err_with(|| format!("can't write {path}"))
}

/// `ensure-user` is `EnsureUser`.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A file that was forgotten here would be missed by every new module.
    #[test]
    fn the_whole_sdk_is_here() {
        let sdk = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk");
        let mut there = BTreeSet::new();
        let mut folders = vec![sdk.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().unwrap() {
                let path = entry.unwrap().into_path();
                if path.is_dir() && path.file_name() != Some("wit") {
                    folders.push(path);
                } else if path.is_file() {
                    there.insert(path.strip_prefix(&sdk).unwrap().to_string());
                }
            }
        }
        there.insert("wit/phase.wit".to_owned());
        let here: BTreeSet<_> =
            SDK.iter().map(|(file, _)| file.strip_prefix("farmhand-sdk/").unwrap().to_owned()).collect();
        assert_eq!(here, there);
    }

    #[test]
    fn names_become_types() {
        for (name, expected) in [("clock", "Clock"), ("ensure-user", "EnsureUser"), ("a1-b", "A1B")] {
            assert_eq!(type_name(name), expected);
        }
    }
}

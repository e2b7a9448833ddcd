//! Makes components: of the modules of `modules/bad`, and of core modules in text form.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

/// The repository's folder: the one with the contract in it.
pub(crate) fn repository() -> &'static Path {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.into_iter().find(|folder| folder.join("wit/phase.wit").is_file()).unwrap()
}

/// Builds modules of `modules/bad` with plain cargo, into a target folder of their own, so that nothing else is compiled anew
/// for them. Gives the folder of what was built.
pub(crate) fn build(target: &str, what: &[&str]) -> PathBuf {
    let folder = repository().join("target/hostile");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--quiet", "--release", "--target", target, "--target-dir"])
        .arg(&folder)
        .arg("--manifest-path")
        .arg(repository().join("tests/hostile/modules/Cargo.toml"))
        .args(what)
        .status()
        .unwrap();
    assert!(status.success(), "the bad modules can't be built for {target}");
    folder.join(target).join("release/examples")
}

/// The component of a core module that says itself of which world it is, as wit-bindgen's do.
pub(crate) fn encode(core: &[u8]) -> Vec<u8> {
    ComponentEncoder::default().validate(true).module(core).unwrap().encode().unwrap()
}

/// The component of a core module in text form.
pub(crate) fn encode_text(core: &str) -> Vec<u8> {
    let mut core = wat::parse_str(core).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(repository().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some("phase-module")).unwrap();
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8, false).unwrap();
    encode(&core)
}

//! The cache of compiled modules.

use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::support::*;
use crate::module::*;

fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(home.path()).unwrap().join("modules");
    (home, folder)
}

fn files(folder: &Utf8Path, extension: &str) -> Vec<Utf8PathBuf> {
    let paths = folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path());
    paths.filter(|path| path.extension() == Some(extension)).collect()
}

async fn load_and_run(folder: &Utf8Path, bytes: &[u8]) {
    let engine = Engine::new(Some(folder.to_owned()), Limits::default()).unwrap();
    let module = engine.load_bytes("test.wasm", bytes.to_vec()).await.unwrap();
    assert_eq!(module.descriptor().name, "test");
    assert_eq!(module.run(call()).await.unwrap().summary, "done");
}

#[tokio::test]
async fn it_is_for_its_user_only() {
    let (_home, folder) = folder();
    load_and_run(&folder, &wat("i32.const 64").component()).await;
    let mode = |path: &Utf8Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let (code, descriptors) = (files(&folder, "compiled"), files(&folder, "json"));
    assert_eq!((code.len(), descriptors.len()), (1, 1));
    assert_eq!((mode(&code[0]), mode(&descriptors[0])), (0o600, 0o600));
}

#[tokio::test]
async fn damage_is_noticed_and_mended() {
    let (_home, folder) = folder();
    let bytes = wat("i32.const 64").component();
    load_and_run(&folder, &bytes).await;
    let (code, descriptor) = (files(&folder, "compiled").remove(0), files(&folder, "json").remove(0));
    let whole = std::fs::read(&code).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..20], &flipped, b""] {
        std::fs::write(&code, damaged).unwrap();
        std::fs::write(&descriptor, &damaged[..damaged.len().min(30)]).unwrap();
        load_and_run(&folder, &bytes).await;
        assert_eq!(std::fs::read(&code).unwrap().len(), whole.len(), "it was not compiled anew");
    }
}

#[tokio::test]
async fn what_others_could_have_written_is_not_used() {
    let (_home, folder) = folder();
    let bytes = wat("i32.const 64").component();
    load_and_run(&folder, &bytes).await;
    let descriptor = files(&folder, "json").remove(0);
    let forged = std::fs::read_to_string(&descriptor).unwrap().replace(r#""test""#, r#""evil""#);
    let name = || async {
        let engine = Engine::new(Some(folder.clone()), Limits::default()).unwrap();
        engine.load_bytes("test.wasm", bytes.clone()).await.unwrap().descriptor().name.clone()
    };
    // Only to show that this file is what is read.
    std::fs::write(&descriptor, &forged).unwrap();
    assert_eq!(name().await, "evil");
    std::fs::set_permissions(&descriptor, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(name().await, "test");
    std::fs::write(&descriptor, &forged).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(name().await, "test");
}

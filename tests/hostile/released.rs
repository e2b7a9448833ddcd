//! Modules that were built against released versions of the contract run against this host, and are denied what they were
//! not granted: the matrix of calls and grants, for each version.

use farmhand::module::{Engine, Limits};
use serde_json::json;

use crate::{built, encode::repository, machine::Machine};

const CALLS: [&str; 14] = [
    "exec",
    "exec as root",
    "exec with a secret in its environment",
    "exec with a secret as its input",
    "start",
    "start as root",
    "read",
    "read as root",
    "write",
    "write as root",
    "write a secret",
    "keep bytes",
    "keep a file",
    "facts",
];

const GRANTS: [&str; 14] = [
    "{}",
    "{ exec: true }",
    "{ become: true }",
    "{ exec: true, become: true }",
    "{ files: ['/etc/*'] }",
    "{ files: ['/srv/**'] }",
    "{ files: ['/etc/motd'], become: true }",
    "{ exec: true, secrets: [TOKEN] }",
    "{ exec: true, secrets: [OTHER] }",
    "{ files: ['/**'], secrets: [TOKEN] }",
    "{ artifacts: true }",
    "{ artifacts: true, files: ['/etc/motd'] }",
    "{ facts: true }",
    "{ exec: true, become: true, files: ['/**'], secrets: [TOKEN], artifacts: true, facts: true }",
];

/// The released versions.
fn versions() -> Vec<String> {
    let released = repository().join("wit/released");
    let folders = std::fs::read_dir(released).unwrap().map(|entry| entry.unwrap().file_name());
    let mut versions: Vec<_> = folders.map(|name| name.to_str().unwrap().to_owned()).collect();
    versions.sort();
    versions
}

#[tokio::test]
async fn modules_of_every_released_version_run_and_are_denied_alike() {
    let versions = versions();
    assert!(!versions.is_empty());
    for version in versions {
        // A version without a module here fails: modules/bad/released_X_Y_Z.rs is to be added with it.
        let bytes = built::component(&format!("released_{}", version.replace('.', "_")));
        let module =
            Engine::new(None, Limits::default()).unwrap().load_bytes("released.wasm", bytes).await.unwrap();
        let mut table = String::new();
        for grants in GRANTS {
            table += &format!("{grants}\n");
            for name in CALLS {
                let machine = Machine::new("machine");
                let call = machine.call(json!({ "call": name }), grants, Limits::default()).await;
                let said = match module.run(call).await {
                    Ok(_) => "may".to_owned(),
                    Err(error) => {
                        let untouched = machine.guest.calls().is_empty()
                            && machine.guest.files().is_empty()
                            && machine.kept().is_empty();
                        assert!(untouched, "{version}, {grants}: {name}");
                        let text = error.to_string();
                        let denied = text.lines().nth(1).and_then(|line| line.split(": ").next());
                        format!("is denied {}", denied.unwrap_or(&text).trim())
                    }
                };
                table += &format!("  {name}: {said}\n");
            }
        }
        // One golden file for all versions: what is denied does not depend on the version.
        insta::assert_snapshot!("denials", table);
    }
}

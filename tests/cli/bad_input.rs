//! A folder a mistake: the farm in it, and what farmhand says about it.

use std::{path::Path, process::Command};

/// Runs `farmhand plan` on every farm below `bad/`, with a hypervisor that must not be reached.
#[test]
fn bad_input_is_explained_and_nothing_is_touched() {
    let mut count = 0;
    // One for all, so that modules are compiled once.
    let home = tempfile::tempdir().unwrap();
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/modules");
    assert!(
        modules.join("shell.wasm").is_file(),
        "the phase modules are not built: run `make modules` first"
    );
    insta::glob!("bad/*/farm.yaml", |farm| {
        count += 1;
        let output = Command::new(env!("CARGO_BIN_EXE_farmhand"))
            .args(["--connect", "test:///never-reached", "plan"])
            .current_dir(farm.parent().unwrap())
            .env("FARMHAND_HOME", home.path())
            .env("FARMHAND_MODULES", &modules)
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", farm.display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{}", farm.display());
        let stderr = String::from_utf8(output.stderr).unwrap();
        let root = farm.parent().unwrap().canonicalize().unwrap();
        let text =
            stderr.replace(root.to_str().unwrap(), "FARM").replace(modules.to_str().unwrap(), "MODULES");
        let target = Path::new(env!("CARGO_BIN_EXE_farmhand")).parent().unwrap().parent().unwrap();
        let text = text.replace(target.to_str().unwrap(), "TARGET");
        // Each problem has a place and says what to do.
        for problem in text.split("\nError: \n").skip(1) {
            assert!(problem.contains("╭─[") && problem.contains("help: "), "{}: {problem}", farm.display());
        }
        let name = root.file_name().unwrap().to_str().unwrap().to_owned();
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_suffix => "" }, {
            insta::assert_snapshot!(name, text);
        });
    });
    assert!(count >= 80, "only {count} folders were found");
}

//! YAML, templates and merging under libFuzzer: whatever is in a farm's files, they are read in bounded time and memory, and
//! without a panic. `make fuzz` runs it.

#![cfg_attr(fuzzing, no_main)]
#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, fs, path::Path};

use camino::Utf8Path;
use farmhand::farm::{DomainInputs, Farm};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// The files of the farm, in the order in which the input has them, zero bytes between them. `tests/fuzz/run.sh` knows it, too.
const FILES: [&str; 7] = [
    "farm.yaml",
    "setup_vm/targets/amd64.yaml",
    "setup_vm/platforms/defaults.yaml",
    "setup_vm/platforms/debian.yaml",
    "setup_vm/platforms/other.yaml",
    "setup_vm/templates/default.xml.j2",
    "provisioning_phases/main.yaml",
];

/// For an input that has no farm.yaml of its own.
const FARM: &str = "project: { id: fuzz }\npermutations: { targets: [amd64], platforms: [debian] }\n";

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    FOLDER.with_borrow_mut(|folder| {
        let root = folder.get_or_insert_with(new_folder).path();
        let mut contents = input.split(|&byte| byte == 0);
        for name in FILES {
            write(&root.join(name), contents.next().unwrap_or_default());
        }
        if fs::metadata(root.join(FILES[0])).is_err() {
            write(&root.join(FILES[0]), FARM.as_bytes());
        }
        read(Utf8Path::from_path(root).unwrap());
    });
});

/// All that is done with a farm's files before a hypervisor is asked.
fn read(root: &Utf8Path) {
    let Ok((farm, problems)) = Farm::survey(root) else { return };
    for problem in &problems {
        let _ = (problem.location(), problem.hint());
    }
    for machine in farm.machines.values().take(4) {
        let _ = machine.template().render(machine, &DomainInputs::stand_ins(machine));
        let _ = farm.explain(machine);
    }
}

/// In memory where that can be had: it is written for every input.
fn new_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    for name in FILES {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
    }
    folder
}

/// Writes a file; nothing to be written is no file.
fn write(path: &Path, content: &[u8]) {
    if content.is_empty() {
        let _ = fs::remove_file(path);
    } else {
        fs::write(path, content).unwrap();
    }
}

/// Without libFuzzer's coverage, as an ordinary test: the inputs that fuzzing begins with.
#[cfg(not(fuzzing))]
fn main() {
    let bad = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/bad");
    let farms = bad.read_dir_utf8().unwrap().map(|farm| farm.unwrap().into_path());
    assert!(farms.map(|farm| read(&farm)).count() >= 80);
}

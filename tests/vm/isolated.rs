//! A hypervisor that shares nothing with this host but the kernel, and is reached by SSH alone.

use std::{path::Path, process::Command};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/testbed/isolated-hypervisor.sh");

/// See tests/testbed/isolated-hypervisor.sh. It ends, with all its machines, when this is dropped.
pub(crate) struct Isolated {
    folder: TempDir,
    /// Its connection URI, by SSH.
    pub(crate) uri: String,
}

impl Isolated {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("farmhand-far-").tempdir_in("/var/tmp").unwrap();
        let uri = script(&["start"], folder.path(), &[]);
        Self { folder, uri }
    }

    /// What a command line that is to run where it is begins with.
    pub(crate) fn inside(&self) -> [String; 3] {
        [SCRIPT.to_owned(), "enter".to_owned(), self.folder.path().to_str().unwrap().to_owned()]
    }

    /// Runs a command where it is, and gives what it prints.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        script(&["enter"], self.folder.path(), command)
    }

    /// What `virsh` says of it.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        self.run(&[&["virsh", "--quiet", "--connect", "qemu:///system"], arguments].concat())
    }

    /// The content of one of its files.
    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        bytes(&["enter"], self.folder.path(), &["cat", path])
    }

    /// The files of its images and disks, without those of the folders above.
    pub(crate) fn files(&self) -> Vec<String> {
        let find = ["find", "/var/lib/libvirt/images", "-type", "f", "-printf", "%P\n"];
        let mut files: Vec<_> = self.run(&find).lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

fn script(action: &[&str], folder: &Path, rest: &[&str]) -> String {
    String::from_utf8(bytes(action, folder, rest)).unwrap().trim().to_owned()
}

fn bytes(action: &[&str], folder: &Path, rest: &[&str]) -> Vec<u8> {
    let output = Command::new(SCRIPT).args(action).arg(folder).args(rest).output().unwrap();
    assert!(output.status.success(), "{action:?} {rest:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Drop for Isolated {
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT).arg("stop").arg(self.folder.path()).status();
        assert!(stopped.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

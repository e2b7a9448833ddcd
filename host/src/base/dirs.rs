use std::os::unix::fs::DirBuilderExt as _;

use camino::{Utf8Path, Utf8PathBuf};

/// Where farmhand keeps its files on this host.
///
/// An ordinary user's are below the XDG base directories. Root's are below `/var`, because QEMU runs as a user of its own
/// under `qemu:///system` and can't reach root's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    data: Utf8PathBuf,
    cache: Utf8PathBuf,
}

/// The user's folders can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't tell where to keep files: set HOME, or FARMHAND_HOME to a folder of farmhand's own")]
pub struct DirsError;

impl Dirs {
    /// The folders of the user who runs this process. `FARMHAND_HOME` puts both below one folder.
    pub fn of_user() -> Result<Self, DirsError> {
        let variable =
            |name| std::env::var(name).ok().filter(|value| value.starts_with('/')).map(Utf8PathBuf::from);
        if let Some(home) = variable("FARMHAND_HOME") {
            return Ok(Self::below(&home));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self { data: "/var/lib/farmhand".into(), cache: "/var/cache/farmhand".into() });
        }
        let home = variable("HOME");
        let folder = |name, default| {
            variable(name)
                .or_else(|| home.as_ref().map(|home| home.join(default)))
                .map(|dir| dir.join("farmhand"))
                .ok_or(DirsError)
        };
        Ok(Self {
            data: folder("XDG_DATA_HOME", ".local/share")?,
            cache: folder("XDG_CACHE_HOME", ".cache")?,
        })
    }

    /// Both folders below one: for tests, and for `FARMHAND_HOME`.
    pub fn below(home: &Utf8Path) -> Self {
        Self { data: home.join("data"), cache: home.join("cache") }
    }

    /// Makes the two folders, if they are not there. Root's can be entered by all, for QEMU's sake; what is private below
    /// them has modes of its own.
    pub fn create(&self) -> std::io::Result<()> {
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(mode);
        builder.create(&self.data)?;
        builder.create(&self.cache)
    }

    /// Disks of machines: a folder for each.
    pub fn machines(&self) -> Utf8PathBuf {
        self.data.join("machines")
    }

    /// Lock files, one for each machine.
    pub fn locks(&self) -> Utf8PathBuf {
        self.data.join("locks")
    }

    /// The journal: what runs are about to make, and work on.
    pub fn journal(&self) -> Utf8PathBuf {
        self.data.join("journal")
    }

    /// Records of runs: a folder for each.
    pub fn runs(&self) -> Utf8PathBuf {
        self.data.join("runs")
    }

    /// The key pair with which farmhand logs in where the definition names no other way.
    pub fn login_key(&self) -> Utf8PathBuf {
        self.data.join("id_ed25519")
    }

    /// Host keys of machines for other SSH clients: a known_hosts file for each.
    pub fn known_hosts(&self) -> Utf8PathBuf {
        self.data.join("known_hosts")
    }

    /// OpenSSH's sockets of connections to hypervisors' hosts.
    pub fn ssh_sockets(&self) -> Utf8PathBuf {
        self.data.join("ssh")
    }

    /// Base images, by digest.
    pub fn images(&self) -> Utf8PathBuf {
        self.cache.join("images")
    }

    /// What was found out about this host and holds until it is booted again.
    pub fn probes(&self) -> Utf8PathBuf {
        self.cache.join("probes")
    }

    /// What guests answered to commands that only look: a file for each machine.
    pub fn guest_probes(&self) -> Utf8PathBuf {
        self.cache.join("guest-probes")
    }

    /// Compiled phase modules, by digest.
    pub fn modules(&self) -> Utf8PathBuf {
        self.cache.join("modules")
    }
}

use std::fs::{File, TryLockError};

use camino::{Utf8Path, Utf8PathBuf};

/// Keeps other runs on this host away from a machine until it is dropped, or this process ends in whatever way.
#[derive(Debug)]
pub struct MachineLock {
    _file: File,
}

/// Why a machine could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process works on it.
    #[error("another farmhand works on {0} at the moment; wait until it is done")]
    Held(String),
    /// The lock file can't be used.
    #[error("can't lock {path}")]
    File {
        /// The lock file.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl MachineLock {
    /// Locks a machine, or fails at once. `folder` holds the lock files.
    pub fn acquire(folder: &Utf8Path, machine: &str) -> Result<Self, LockError> {
        let path = folder.join(format!("{machine}.lock"));
        let failed = |source| LockError::File { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(machine.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

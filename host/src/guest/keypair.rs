//! farmhand's own key pair, with which it logs in where the definition names no other way.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
};

use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::{
    Algorithm, PrivateKey, decode_secret_key,
    key::safe_rng,
    ssh_key::{self, LineEnding},
};

use crate::base::Secret;

/// A key file larger than this is not read: it is none.
pub(super) const MAX_KEY_SIZE: u64 = 64 << 10;

/// A public key in OpenSSH's one-line form, as it stands in `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyLine(String);

impl PublicKeyLine {
    /// The line, without a line end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicKeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no login key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyPairError {
    /// The file, or its folder, can't be read or made.
    #[error("can't make or read farmhand's login key {path}: {source}")]
    Io {
        /// The key's file.
        path: Utf8PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A private key that the definition names can't be used.
    #[error("can't use the SSH key {path}: {message}")]
    Private {
        /// The key's file.
        path: Utf8PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// No key can be made.
    #[error("can't make an SSH key: {0}")]
    Generate(String),
    /// The file holds no key that can be used.
    #[error(
        "farmhand's login key {path} can't be used: {message}; remove the file and farmhand makes a new one (machines that know only the old key must be made anew)"
    )]
    Unusable {
        /// The key's file.
        path: Utf8PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// The public half of the key pair whose private half is the file `path`. Where there is no such file, an ed25519 key is made:
/// the file gets mode 0600. Folders that are missing above it get 0711: root's machines lie below the same folder, and QEMU,
/// a user of its own there, must get through to them.
///
/// The file appears whole or not at all and never replaces another, so that of two processes that make it at once both
/// return the key that stays.
pub fn ensure_login_key(path: &Utf8Path) -> Result<PublicKeyLine, KeyPairError> {
    let failed = |source| KeyPairError::Io { path: path.to_owned(), source };
    let unusable = |message: String| KeyPairError::Unusable { path: path.to_owned(), message };
    if !path.try_exists().map_err(failed)? {
        let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519)
            .map_err(|error| unusable(error.to_string()))?;
        key.set_comment("farmhand");
        let text = key.to_openssh(LineEnding::LF).map_err(|error| unusable(error.to_string()))?;
        create(path, text.as_bytes()).map_err(failed)?;
    }
    let text = read(path).map_err(failed)?;
    let key = decode_secret_key(&text, None).map_err(|error| unusable(error.to_string()))?;
    public_line(&key).map(PublicKeyLine).map_err(|error| unusable(error.to_string()))
}

/// The public half of the private key in that file, which has no passphrase.
pub fn public_half(path: &Utf8Path) -> Result<PublicKeyLine, KeyPairError> {
    let unusable = |message: String| KeyPairError::Private { path: path.to_owned(), message };
    let text = read(path).map_err(|error| unusable(error.to_string()))?;
    let key = decode_secret_key(&text, None).map_err(|error| unusable(error.to_string()))?;
    public_line(&key).map(PublicKeyLine).map_err(|error| unusable(error.to_string()))
}

/// An SSH host key for a guest.
#[derive(Debug, Clone)]
pub struct HostKey {
    /// The private half in OpenSSH's format.
    pub private: Secret,
    /// The public half.
    pub public: PublicKeyLine,
}

impl HostKey {
    /// A new ed25519 key.
    pub fn generate() -> Result<Self, KeyPairError> {
        let failed = |error: ssh_key::Error| KeyPairError::Generate(error.to_string());
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(failed)?;
        let private = Secret::new(key.to_openssh(LineEnding::LF).map_err(failed)?.as_str());
        Ok(Self { private, public: PublicKeyLine(public_line(&key).map_err(failed)?) })
    }
}

/// Writes a file that nobody else can read, unless there is one.
fn create(path: &Utf8Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    let mut file = tempfile::Builder::new().prefix(".login-key-").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

/// Reads a key file of bounded size.
pub(super) fn read(path: &Utf8Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_KEY_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large for a key"));
    }
    fs::read_to_string(path)
}

fn public_line(key: &PrivateKey) -> Result<String, ssh_key::Error> {
    Ok(key.public_key().to_openssh()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, os::unix::fs::PermissionsExt as _, thread};

    use super::*;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("data/farmhand")).unwrap();
        (dir, path)
    }

    fn mode(path: &Utf8Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn made_once_and_private() {
        let (_dir, folder) = folder();
        let path = folder.join("id_ed25519");
        let line = ensure_login_key(&path).unwrap();
        assert!(
            line.as_str().starts_with("ssh-ed25519 AAAA") && line.as_str().ends_with(" farmhand"),
            "{line}"
        );
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o711));
        let content = fs::read(&path).unwrap();
        assert_eq!(ensure_login_key(&path).unwrap(), line);
        assert_eq!(fs::read(&path).unwrap(), content);
        // ssh-keygen can read it as well.
        let output =
            std::process::Command::new("ssh-keygen").args(["-y", "-f", path.as_str()]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), line.as_str());
    }

    #[test]
    fn makers_at_once_agree_and_leave_nothing_behind() {
        let (_dir, folder) = folder();
        let path = folder.join("id_ed25519");
        let lines: HashSet<String> = thread::scope(|scope| {
            let makers: Vec<_> = (0..16).map(|_| scope.spawn(|| ensure_login_key(&path).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap().to_string()).collect()
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_key_is_left_alone() {
        let (_dir, folder) = folder();
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("id_ed25519");
        for content in ["", "no key", &"x".repeat(100_000)] {
            fs::write(&path, content).unwrap();
            ensure_login_key(&path).unwrap_err();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}

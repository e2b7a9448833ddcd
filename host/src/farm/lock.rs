use std::io::Write as _;

use camino::Utf8Path;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::{Digest, Grants, Problem, SourceFile};

/// The name of the lock file, beside `farm.yaml`.
pub const LOCK_FILE: &str = "farmhand.lock";

/// The version of its format.
const VERSION: u32 = 1;

/// What a farm has pinned: `farmhand.lock`. It is written by farmhand and belongs into version control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The version of the format: 1.
    version: u32,
    /// Images, by the location that they come from.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub images: IndexMap<String, LockedImage>,
    /// Phase modules, by the name under which `farm.yaml` knows them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub modules: IndexMap<String, LockedModule>,
}

/// An image without a checksum, as it was when it was first used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The digest of the file as it comes, before it is unpacked or converted.
    pub digest: Digest,
}

/// A phase module as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedModule {
    /// The module's version.
    pub version: String,
    /// The digest of its file.
    pub digest: Digest,
    /// What it asked for: capabilities, `files` and `secrets` with what they are for.
    pub asks: Vec<String>,
    /// What it was granted.
    pub grants: Grants,
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, images: IndexMap::new(), modules: IndexMap::new() }
    }
}

impl Lock {
    /// Reads the lock file of the farm in this folder. Without one, nothing is pinned.
    pub fn read(root: &Utf8Path) -> Result<Self, Problem> {
        let path = root.join(LOCK_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let file = SourceFile::read(&path)?;
        let broken = |message: String, place: std::ops::Range<usize>| {
            let problem =
                file.problem(place, format!("this is not a lock file that farmhand can read: {message}"));
            problem.help(
                "farmhand writes this file itself: take it from version control, or remove it and pin anew",
            )
        };
        let lock: Self = serde_yaml::from_str(file.text()).map_err(|error| {
            let place = error.location().map_or(0, |place| place.index());
            broken(error.to_string(), place..place)
        })?;
        if lock.version != VERSION {
            return Err(broken(format!("its version is {}, not {VERSION}", lock.version), 0..0));
        }
        Ok(lock)
    }

    /// Changes the lock file of the farm in this folder. Two that do so at once, in this process or another, wait for each
    /// other.
    pub fn update(root: &Utf8Path, change: impl FnOnce(&mut Self)) -> Result<(), Problem> {
        let failed = |error: std::io::Error| {
            Problem::new(format!("can't write {}: {error}", root.join(LOCK_FILE)))
                .help("farmhand keeps there what it pinned: let it write to the farm's folder")
        };
        let folder = std::fs::File::open(root).map_err(failed)?;
        folder.lock().map_err(failed)?;
        let mut lock = Self::read(root)?;
        let before = lock.clone();
        change(&mut lock);
        if lock == before { Ok(()) } else { lock.write(root).map_err(failed) }
    }

    /// Replaces the lock file of the farm in this folder, in one step.
    pub fn write(&self, root: &Utf8Path) -> std::io::Result<()> {
        let text = serde_yaml::to_string(self).map_err(std::io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(root)?;
        file.write_all(b"# Written by farmhand. Keep it under version control.\n")?;
        file.write_all(text.as_bytes())?;
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(root.join(LOCK_FILE))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_back() {
        let home = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(home.path()).unwrap();
        assert_eq!(Lock::read(root).unwrap(), Lock::default());
        let mut lock = Lock::default();
        let module = LockedModule {
            version: "1.2.0".to_owned(),
            digest: Digest::of("module"),
            asks: vec!["exec".to_owned(), "files /etc/**".to_owned()],
            grants: serde_yaml::from_str(r#"{ exec: true, files: ["/etc/**"] }"#).unwrap(),
        };
        lock.modules.insert("file".to_owned(), module);
        lock.write(root).unwrap();
        assert_eq!(Lock::read(root).unwrap(), lock);
        insta::assert_snapshot!(std::fs::read_to_string(root.join(LOCK_FILE)).unwrap());

        let image = LockedImage { digest: Digest::of("image") };
        std::thread::scope(|scope| {
            for number in 0..8 {
                let image = image.clone();
                scope.spawn(move || {
                    let pin = |lock: &mut Lock| {
                        lock.images.insert(format!("https://example.org/{number}"), image);
                    };
                    Lock::update(root, pin).unwrap();
                });
            }
        });
        assert_eq!(Lock::read(root).unwrap().images.len(), 8, "no change is lost");

        for text in ["version: 2\n", "version: 1\nmodule: {}\n", "- a\n"] {
            std::fs::write(root.join(LOCK_FILE), text).unwrap();
            assert!(Lock::read(root).unwrap_err().message().contains("not a lock file"), "{text}");
        }
    }
}

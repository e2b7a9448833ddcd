use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
};

use camino::{Utf8Path, Utf8PathBuf};
use wasmtime::component::Component;

use super::descriptor::Descriptor;
use crate::base::Digest;

/// First bytes of a file of compiled code; after them the digest of the code, then the code.
const MAGIC: &[u8] = b"farmhand compiled module 1\n";

/// Compiled code is several times as large as the module.
const MAX_COMPILED: u64 = 1 << 30;
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// Compiled modules and what they are, by digest, in the user's cache folder.
///
/// A cache and nothing more: what can't be read or written, or is not whole, is made anew.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: Utf8PathBuf,
    /// Of wasmtime's version and configuration, and this processor: compiled code is good for one of them only.
    engine: u64,
}

impl Cache {
    pub(super) fn new(folder: Utf8PathBuf, engine: &wasmtime::Engine) -> Self {
        // `DefaultHasher::new` always starts alike; a new Rust release may change it, which costs one compilation.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { folder, engine: hasher.finish() }
    }

    /// The compiled code of a module, if it is there and whole.
    pub(super) fn component(&self, digest: Digest, engine: &wasmtime::Engine) -> Option<Component> {
        let bytes = self.read(&self.code_path(digest), MAX_COMPILED)?;
        let (written, code) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
        if written != Digest::of(code).bytes() {
            return None; // Cut short, or damaged.
        }
        // SAFETY: `deserialize` runs what it is given, so it must be what `Component::serialize` made. The file is in a folder
        // into which only this user can write, so nobody put it there who could not run code as this user anyway (`read`
        // looks at owner and permissions); only `store_component` writes files of this name; and it is as it was written
        // (its digest was just checked). wasmtime itself refuses code of another version or configuration.
        unsafe { Component::deserialize(engine, code) }.ok()
    }

    /// Keeps compiled code.
    pub(super) fn store_component(&self, digest: Digest, component: &Component) {
        let Ok(code) = component.serialize() else { return };
        let content = [MAGIC, &Digest::of(&code).bytes(), &code].concat();
        self.write(&self.code_path(digest), &content);
    }

    /// What a module is, if it was asked before.
    pub(super) fn descriptor(&self, digest: Digest) -> Option<Descriptor> {
        let bytes = self.read(&self.descriptor_path(digest), MAX_DESCRIPTOR)?;
        let descriptor: Descriptor = serde_json::from_slice(&bytes).ok()?;
        descriptor.check().is_ok().then_some(descriptor)
    }

    /// Keeps what a module is.
    pub(super) fn store_descriptor(&self, digest: Digest, descriptor: &Descriptor) {
        if let Ok(content) = serde_json::to_vec(descriptor) {
            self.write(&self.descriptor_path(digest), &content);
        }
    }

    fn code_path(&self, digest: Digest) -> Utf8PathBuf {
        self.folder.join(format!("{}.{:016x}.compiled", digest.hex(), self.engine))
    }

    fn descriptor_path(&self, digest: Digest) -> Utf8PathBuf {
        self.folder.join(format!("{}.2.json", digest.hex()))
    }

    /// Reads a file that only this user can have written.
    fn read(&self, path: &Utf8Path, max_size: u64) -> Option<Vec<u8>> {
        if !is_private(&std::fs::symlink_metadata(&self.folder).ok()?) {
            return None;
        }
        let file = std::fs::File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || !is_private(&metadata) || metadata.len() > max_size {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).ok()?);
        file.take(max_size).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Writes a file as a whole: beside it, then renamed. It is for this user only.
    fn write(&self, path: &Utf8Path, content: &[u8]) {
        let write = || -> std::io::Result<()> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?; // Mode 0600.
            file.write_all(content)?;
            file.persist(path)?;
            Ok(())
        };
        // Without a cache everything works, only slower.
        drop(write());
    }
}

/// Whether it belongs to this user and nobody else can write to it.
fn is_private(metadata: &std::fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

//! The names that sources give to files.

use super::{Folders, Resource, ResourceStep};

/// What archives are named like; all else that is unpacked is one compressed file.
const ARCHIVES: [&str; 11] =
    [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip"];
/// What compressed files are named like.
const COMPRESSED: [&str; 6] = [".gz", ".bz2", ".xz", ".zst", ".zstd", ".lzma"];

/// Files by name, the latest first.
#[derive(Debug)]
pub(super) struct Files {
    /// What may stand before a name.
    folders: Vec<String>,
    entries: Vec<(String, Entry)>,
}

#[derive(Debug, Clone)]
enum Entry {
    File(Resource),
    /// A folder that an archive was unpacked into: the archive.
    Folder(Resource),
}

impl Files {
    pub(super) fn new(folders: Folders<'_>) -> Self {
        let folders = [folders.tmp_dir, folders.libvirt_pool_dir].into_iter().flatten();
        let folders = folders.map(|folder| folder.trim_end_matches('/').to_owned() + "/").collect();
        Self { folders, entries: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, resource: Resource) {
        self.entries.insert(0, (self.plain(name), Entry::File(resource)));
    }

    /// Gives what `packed`, a file that was named `src`, holds the name `dest`: the file itself, and for an archive a folder
    /// of its files.
    pub(super) fn add_unpacked(&mut self, src: &str, dest: &str, packed: &Resource) {
        let dest = self.plain(dest);
        let whole = packed.clone().then(ResourceStep::Unarchive { member: None });
        if is_archive(src) {
            self.entries.insert(0, (dest.clone(), Entry::Folder(packed.clone())));
        } else if let Some(stem) = COMPRESSED.iter().find_map(|end| src.strip_suffix(end)) {
            // The destination may be the folder to unpack into.
            let file_name = stem.rsplit('/').next().unwrap_or(stem);
            let inside = if dest.is_empty() { file_name.to_owned() } else { format!("{dest}/{file_name}") };
            self.entries.insert(0, (inside, Entry::File(whole.clone())));
        }
        self.entries.insert(0, (dest, Entry::File(whole)));
    }

    /// The file of that name.
    pub(super) fn find(&self, name: &str) -> Option<Resource> {
        let name = self.plain(name);
        self.entries.iter().find_map(|(known, entry)| match entry {
            Entry::File(resource) => (*known == name).then(|| resource.clone()),
            Entry::Folder(archive) => {
                let member = if known.is_empty() {
                    Some(name.as_str())
                } else {
                    name.strip_prefix(known.as_str()).and_then(|rest| rest.strip_prefix('/'))
                };
                let member = member.filter(|member| !member.is_empty() && !member.starts_with('/'))?;
                Some(archive.clone().then(ResourceStep::Unarchive { member: Some(member.to_owned()) }))
            }
        })
    }

    /// The file whose name is the last part of this path: definitions name files by where they lie on a hypervisor.
    pub(super) fn find_by_file_name(&self, path: &str) -> Option<Resource> {
        let file_name = path.rsplit('/').next().filter(|_| !path.contains("://"))?;
        self.entries.iter().find_map(|(known, entry)| match entry {
            Entry::File(resource) if known == file_name => Some(resource.clone()),
            _ => None,
        })
    }

    /// All names, for people.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.entries.iter().map(|(name, _)| name.clone()).collect();
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// These files, and where there is none of a name, the other ones.
    pub(super) fn over(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self
    }

    /// A name without the folders that may stand before it.
    fn plain(&self, name: &str) -> String {
        let name = self.folders.iter().find_map(|folder| name.strip_prefix(folder.as_str())).unwrap_or(name);
        let inside = |folder: &&String| folder.trim_end_matches('/') == name;
        if self.folders.iter().any(|folder| inside(&folder)) {
            return String::new();
        }
        let parts = name.split('/').filter(|part| !["", "."].contains(part));
        let plain = parts.collect::<Vec<_>>().join("/");
        if name.starts_with('/') { format!("/{plain}") } else { plain }
    }
}

/// Whether a file of that name is an archive.
pub(super) fn is_archive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ARCHIVES.iter().any(|end| name.ends_with(end))
}

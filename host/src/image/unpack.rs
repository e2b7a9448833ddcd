//! Unpacks one file out of a compressed file or an archive. What it is, is told from its content, never from its name; nothing
//! is ever written to a path that an archive names.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Cursor, Read},
    path::{Component, Path, PathBuf},
    rc::Rc,
    sync::atomic::AtomicBool,
};

use super::sparse::{self, Bounds, Fault, Written};

/// Enough of a file to tell what it is: the mark of a tar archive ends at 262.
const HEAD: u64 = 512;
/// Memory that the decoders of xz (in KiB) and zstd (as a power of two) may take: what their own programs take by default.
const XZ_MEMORY_KIB: u32 = 128 << 10;
const ZSTD_WINDOW: u32 = 27;
/// How many names of an archive's files an error tells.
const NAMES_TOLD: usize = 8;

/// Writes what it is given into the file that was asked for.
type Write<'w> = dyn Fn(&mut dyn Read) -> Result<Written, Fault> + 'w;

/// Unpacks into an empty file.
///
/// `stream` is the packed file from its start, `whole` gives it for reading anywhere. `member` names the file of an archive that
/// counts, by its path there; without it the archive must hold one file only.
pub(super) fn unpack(
    mut stream: impl Read,
    whole: impl FnOnce() -> io::Result<File>,
    member: Option<&str>,
    into: &File,
    bounds: &Bounds,
    cancelled: &AtomicBool,
) -> Result<Written, Fault> {
    let wanted = member.map(|member| {
        inside(Path::new(member)).ok_or_else(|| Fault::Input(format!("`{member}` is no path in an archive")))
    });
    let wanted = wanted.transpose()?;
    let wanted = wanted.as_deref();
    let packed = Cell::new(0);
    let data = || bounds.data(packed.get());
    let write = |from: &mut dyn Read| sparse::write(from, into, bounds, &data, cancelled);

    let start = head(&mut stream).map_err(Fault::input)?;
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        let file = whole().map_err(Fault::input)?;
        packed.set(file.metadata().map_err(Fault::input)?.len());
        return zip(file, wanted, bounds, &write);
    }
    let stream = Counted { inner: Cursor::new(start.clone()).chain(stream), count: &packed };
    let (mut unpacked, compressed) = decompress(&start, stream)?;
    let start = head(&mut unpacked).map_err(Fault::input)?;
    let is_tar = start.get(257..).is_some_and(|rest| rest.starts_with(b"ustar"));
    let mut unpacked = Cursor::new(start).chain(unpacked);
    match (is_tar, compressed, member) {
        (true, _, _) => tar(unpacked, wanted, bounds, &write),
        (false, false, _) => {
            Err(Fault::input("it is neither compressed (gzip, bzip2, xz, zstd) nor an archive (tar, ZIP)"))
        }
        (false, true, Some(member)) => Err(Fault::Input(format!(
            "it is one compressed file and no archive, so there is no `{member}` in it"
        ))),
        (false, true, None) => write(&mut unpacked),
    }
}

/// The first bytes of a stream.
fn head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    stream.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// What a stream holds when it is decompressed, and whether it was compressed at all.
fn decompress<'r>(start: &[u8], stream: impl Read + 'r) -> Result<(Box<dyn Read + 'r>, bool), Fault> {
    Ok(match start {
        [0x1f, 0x8b, ..] => (Box::new(flate2::read::MultiGzDecoder::new(stream)), true),
        [b'B', b'Z', b'h', ..] => (Box::new(bzip2::read::MultiBzDecoder::new(stream)), true),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            (Box::new(lzma_rust2::XzReader::new_mem_limit(stream, true, XZ_MEMORY_KIB)), true)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::new(stream).map_err(Fault::input)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(Fault::input)?;
            (Box::new(decoder), true)
        }
        _ => (Box::new(stream), false),
    })
}

fn tar(
    stream: impl Read,
    wanted: Option<&str>,
    bounds: &Bounds,
    write: &Write<'_>,
) -> Result<Written, Fault> {
    // Names and other headers are kept in memory, so what lies between two files is bounded.
    let allowance = Rc::new(Cell::new(Some(bounds.header)));
    let mut archive = ::tar::Archive::new(Gate { inner: stream, allowance: Rc::clone(&allowance) });
    let mut members = Members::new(wanted, bounds);
    for entry in archive.entries().map_err(Fault::input)? {
        let mut entry = entry.map_err(Fault::input)?;
        let kind = entry.header().entry_type();
        let is_file = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
        let is_link = kind.is_symlink() || kind.is_hard_link();
        let sparse = pax_sparse(&mut entry).map_err(Fault::input)?;
        let path = match &sparse {
            Some(Some(name)) => PathBuf::from(name),
            _ => entry.path().map_err(Fault::input)?.into_owned(),
        };
        allowance.set(None);
        if members.meet(&path, is_file, is_link)? {
            if sparse.is_some() {
                return Err(Fault::Input(format!(
                    "`{}` is packed in tar's sparse form of the format `pax`, which is not read here; pack it with `tar --format=gnu`, or without `--sparse`",
                    path.to_string_lossy().escape_debug()
                )));
            }
            members.found = Some(write(&mut entry)?);
            if wanted.is_some() {
                break;
            }
        }
        // What is passed over is read here, so that the next file's header starts a new allowance.
        io::copy(&mut entry.take(bounds.size), &mut io::sink()).map_err(Fault::input)?;
        allowance.set(Some(bounds.header));
    }
    members.end()
}

/// Whether a file is there as a map of its holes and what lies between them, and then its own name, if that is told: what
/// stands for it is named otherwise. GNU tar notes all of that beside it (`GNU.sparse.name`).
fn pax_sparse(entry: &mut ::tar::Entry<'_, impl Read>) -> io::Result<Option<Option<String>>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
    let mut sparse = None;
    for extension in extensions {
        let extension = extension?;
        let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("GNU.sparse.")) else {
            continue;
        };
        let name = sparse.get_or_insert(None);
        if key == "name" {
            *name = extension.value().ok().map(str::to_owned);
        }
    }
    Ok(sparse)
}

fn zip(file: File, wanted: Option<&str>, bounds: &Bounds, write: &Write<'_>) -> Result<Written, Fault> {
    let mut archive = ::zip::ZipArchive::new(file).map_err(Fault::input)?;
    let mut members = Members::new(wanted, bounds);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(Fault::input)?;
        let path = entry.name().map_err(Fault::input)?.into_owned();
        if members.meet(Path::new(&path), entry.is_file(), entry.is_symlink())? {
            members.found = Some(write(&mut entry)?);
            if wanted.is_some() {
                break;
            }
        }
    }
    members.end()
}

/// The files of an archive, as they are met.
struct Members<'m> {
    wanted: Option<&'m str>,
    found: Option<Written>,
    count: usize,
    most: usize,
    names: Vec<String>,
}

impl<'m> Members<'m> {
    fn new(wanted: Option<&'m str>, bounds: &Bounds) -> Self {
        Self { wanted, found: None, count: 0, most: bounds.members, names: Vec::new() }
    }

    /// Whether this one is the file that counts.
    fn meet(&mut self, path: &Path, is_file: bool, is_link: bool) -> Result<bool, Fault> {
        self.count += 1;
        if self.count > self.most {
            return Err(Fault::Input(format!("the archive lists more than {} files", self.most)));
        }
        let shown = path.to_string_lossy();
        let name = inside(path);
        if name.is_none() && (is_file || is_link) {
            let message =
                format!("the archive holds a file that would lie outside of it: `{}`", shown.escape_debug());
            return Err(Fault::Input(message));
        }
        if self.wanted.is_some() && is_link && name.as_deref() == self.wanted {
            return Err(Fault::Input(format!(
                "`{}` is a link in the archive, not a file",
                shown.escape_debug()
            )));
        }
        if !is_file {
            return Ok(false);
        }
        if self.names.len() < NAMES_TOLD {
            self.names.push(format!("`{}`", shown.escape_debug()));
        }
        match self.wanted {
            Some(wanted) => Ok(name.as_deref() == Some(wanted)),
            None if self.found.is_some() => Err(Fault::Input(format!(
                "the archive holds more than one file ({}, ...): name the one that is meant",
                self.names.join(", ")
            ))),
            None => Ok(true),
        }
    }

    fn end(self) -> Result<Written, Fault> {
        let Self { wanted, found, names, .. } = self;
        found.ok_or_else(|| {
            let holds = if names.is_empty() { "no files".to_owned() } else { names.join(", ") };
            Fault::Input(match wanted {
                Some(wanted) => format!("the archive has no file `{wanted}`; it has {holds}"),
                None => "the archive holds no files".to_owned(),
            })
        })
    }
}

/// A path in an archive, written in one way; `None` if it leads out of it, or is empty.
fn inside(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// Counts what is read.
struct Counted<'c, R> {
    inner: R,
    count: &'c Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.set(self.count.get() + length as u64);
        Ok(length)
    }
}

/// Lets so many bytes through while there is an allowance.
struct Gate<R> {
    inner: R,
    allowance: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Gate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(allowance) = self.allowance.get() {
            let rest = allowance.checked_sub(length as u64);
            self.allowance
                .set(Some(rest.ok_or_else(|| io::Error::other("a header of the archive is too long"))?));
        }
        Ok(length)
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;

//! What a file is as a disk image, told from its first bytes.
//!
//! `qemu-img` is not asked: an image from elsewhere can name files of this host (a backing file, an external data file, the
//! extents of VMDK), which `qemu-img` may open, and a raw image is what its guest wrote into it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
};

use serde::{Deserialize, Serialize};

use crate::farm::ImageFormat;

/// A format of disk images that can be a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes and nothing else.
    Raw,
}

impl Format {
    /// Its name as QEMU and libvirt have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What to do about a packed image, and about one of another kind.
const UNPACK: &str = "; `unarchived: NAME` in its source has it unpacked";
const CONVERT: &str = "; the callback `img_convert` makes it qcow2";

/// Archives and images of other kinds: the bytes, where they are, the name for people, and what to do about it.
const OTHERS: &[(&[u8], usize, &str, &str)] = &[
    (b"\xfd7zXZ\0", 0, "compressed with xz", UNPACK),
    (b"\x1f\x8b", 0, "compressed with gzip", UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "compressed with zstd", UNPACK),
    (b"BZh", 0, "compressed with bzip2", UNPACK),
    (b"PK\x03\x04", 0, "a ZIP archive", UNPACK),
    (b"ustar", 257, "a tar archive", UNPACK),
    (b"KDMV", 0, "a VMDK image", CONVERT),
    (b"# Disk Descriptor", 0, "the descriptor of a VMDK image, which names other files", ""),
    (b"vhdxfile", 0, "a VHDX image", CONVERT),
    (b"conectix", 0, "a VHD image", CONVERT),
    (b"QED\0", 0, "a QED image", ""),
    (b"\x7f\x10\xda\xbe", 64, "a VDI image", CONVERT),
    (b"<!DOCTYPE", 0, "an HTML page", ""),
    (b"<html", 0, "an HTML page", ""),
];

/// Formats that `qemu-img` converts: the bytes, and where they are.
const CONVERTIBLE: &[(&[u8], usize, ImageFormat)] = &[
    (QCOW2_MAGIC, 0, ImageFormat::Qcow2),
    (b"KDMV", 0, ImageFormat::Vmdk),
    (b"vhdxfile", 0, ImageFormat::Vhdx),
    (b"conectix", 0, ImageFormat::Vpc),
    (b"\x7f\x10\xda\xbe", 64, ImageFormat::Vdi),
];
/// Bytes of a sector, by which VMDK counts.
const SECTOR: u64 = 512;
/// Where QEMU takes a sparse VMDK's descriptor from, whatever its header says, and how much of it in sectors.
const VMDK_DESCRIPTOR: u64 = 1;
const VMDK_DESCRIPTOR_SIZE: u64 = 20;
/// The type of a VHD image that holds only what differs from its parent, and where it stands.
const VHD_DIFFERENCING: [u8; 4] = [0, 0, 0, 4];
const VHD_TYPE: usize = 60;

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
/// Incompatible feature bits that a base image may have: dirty refcounts (0) and another compression (3). Not: marked corrupt
/// (1), external data file (2); extended L2 entries (4) are read only by QEMU 5.2 and later, which says so itself.
const QCOW2_DATA_FILE: u64 = 1 << 2;
const QCOW2_CORRUPT: u64 = 1 << 1;
/// Virtual sizes above this are nonsense: 16 TiB.
const MAX_VIRTUAL_SIZE: u64 = 1 << 44;

/// The format and the virtual size in bytes of an image. The error says why it can't be a base, and what to do.
pub(super) fn inspect(file: &File) -> Result<(Format, u64), String> {
    let mut head = Vec::with_capacity(512);
    file.take(512).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if head.starts_with(QCOW2_MAGIC) {
        return qcow2(&head).map(|size| (Format::Qcow2, size));
    }
    for (magic, offset, kind, help) in OTHERS {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(format!("it is {kind}{help}"));
        }
    }
    match file.metadata().map_err(|error| error.to_string())?.len() {
        0 => Err("it is empty".to_owned()),
        size if !size.is_multiple_of(512) => {
            Err("it is neither qcow2 nor raw: its size is no multiple of 512".to_owned())
        }
        size => Ok((Format::Raw, size)),
    }
}

/// The format that an image has, of all that `qemu-img` can convert, and that converting it leads to no other file of this host.
/// `told` is what its definition says. The error says what is wrong.
pub(super) fn convertible(file: &File, told: Option<ImageFormat>) -> Result<ImageFormat, String> {
    let mut head = vec![0; 512];
    let length = file.read_at(&mut head, 0).map_err(|error| error.to_string())?;
    head.truncate(length);
    let found = CONVERTIBLE
        .iter()
        .find(|(magic, offset, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
    let found = found.map(|(_, _, format)| *format);
    let format = match (told, found) {
        // The bytes are taken as they are, whatever they look like.
        (Some(ImageFormat::Raw), _) => return Ok(ImageFormat::Raw),
        // A fixed VHD has its mark at the end.
        (Some(ImageFormat::Vpc), None) => ImageFormat::Vpc,
        (Some(told), found) if Some(told) != found => {
            let found = found.map_or("of no format that is known", ImageFormat::name);
            return Err(format!("it was to be {}, but it is {found}", told.name()));
        }
        (_, Some(found)) => found,
        (_, None) => {
            let mut start = file;
            start.rewind().map_err(|error| error.to_string())?;
            return inspect(file).map(|_| ImageFormat::Raw);
        }
    };
    match format {
        ImageFormat::Qcow2 => qcow2(&head).map(|_| format),
        ImageFormat::Vmdk => vmdk(file, &head).map(|()| format),
        // QEMU knows no parents of VHD images: it would read zeros where the parent's content belongs.
        ImageFormat::Vpc if head.get(VHD_TYPE..).is_some_and(|rest| rest.starts_with(&VHD_DIFFERENCING)) => {
            Err("it is a VHD image with a parent, which is missing".to_owned())
        }
        // QEMU refuses those with a parent itself (VDI, VHDX).
        _ => Ok(format),
    }
}

/// A VMDK image can name its parts and its parent. Only one that is whole by itself is taken: a sparse extent with its own
/// capacity, whose embedded descriptor names no parent (VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extents").
///
/// Programs differ in where they look for the descriptor: as the header says, or always behind the header. So it must be there,
/// and no larger than what QEMU reads. A second header at the end (`streamOptimized`) can't say anything else: QEMU takes the
/// places of tables from it, and nothing more.
fn vmdk(file: &File, head: &[u8]) -> Result<(), String> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let cut = || "its VMDK header is cut off".to_owned();
    let (capacity, offset, size) =
        (u64_at(12).ok_or_else(cut)?, u64_at(28).ok_or_else(cut)?, u64_at(36).ok_or_else(cut)?);
    if capacity == 0 {
        return Err("it is a VMDK image that only names the files which it consists of".to_owned());
    }
    if offset != VMDK_DESCRIPTOR || !(1..=VMDK_DESCRIPTOR_SIZE).contains(&size) {
        return Err("its VMDK descriptor is not where it must be, so what it names can't be seen".to_owned());
    }
    let mut descriptor = Vec::new();
    let mut from = file;
    from.seek(SeekFrom::Start(VMDK_DESCRIPTOR * SECTOR))
        .and_then(|_| from.take(VMDK_DESCRIPTOR_SIZE * SECTOR).read_to_end(&mut descriptor))
        .map_err(|error| error.to_string())?;
    let names_parent = descriptor.to_ascii_lowercase().windows(18).any(|word| word == b"parentfilenamehint");
    if names_parent {
        return Err("it is a VMDK image with a parent, which could be any file of this host".to_owned());
    }
    Ok(())
}

/// The header is laid out in QEMU's `docs/interop/qcow2.txt`; all numbers are big-endian.
fn qcow2(head: &[u8]) -> Result<u64, String> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_be_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let cut = || "its qcow2 header is cut off".to_owned();
    let version = u32_at(4).ok_or_else(cut)?;
    let features = match version {
        2 => 0,
        3 => u64_at(72).ok_or_else(cut)?,
        _ => return Err(format!("it is qcow2 of version {version}; 2 and 3 are known")),
    };
    if u64_at(8).ok_or_else(cut)? != 0 {
        return Err("it has a backing file of its own, which could be any file of this host: flatten it with `qemu-img convert`"
            .to_owned());
    }
    if features & QCOW2_DATA_FILE != 0 {
        return Err("it has an external data file, which could be any file of this host: flatten it with `qemu-img convert`"
            .to_owned());
    }
    if u32_at(32).ok_or_else(cut)? != 0 {
        return Err("it is encrypted: decrypt it with `qemu-img convert`".to_owned());
    }
    if features & QCOW2_CORRUPT != 0 {
        return Err("it is marked corrupt: try `qemu-img check -r all`".to_owned());
    }
    match u64_at(24).ok_or_else(cut)? {
        0 => Err("its virtual size is 0".to_owned()),
        size if size > MAX_VIRTUAL_SIZE => {
            Err(format!("its virtual size is {size} bytes; 16 TiB is the most"))
        }
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn inspect_bytes(bytes: &[u8]) -> Result<(Format, u64), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        inspect(&file)
    }

    fn header(version: u32, backing: u64, size: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 104];
        head[..4].copy_from_slice(QCOW2_MAGIC);
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&size.to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    #[test]
    fn bases_are_told_with_their_size() {
        assert_eq!(inspect_bytes(&header(3, 0, 1 << 30, 0)), Ok((Format::Qcow2, 1 << 30)));
        assert_eq!(
            inspect_bytes(&header(2, 0, 1 << 30, u64::MAX)),
            Ok((Format::Qcow2, 1 << 30)),
            "version 2 has none"
        );
        assert_eq!(inspect_bytes(&[1; 1024]), Ok((Format::Raw, 1024)));
    }

    /// A sparse VMDK as QEMU makes it, cut off behind the place of its descriptor.
    fn sparse(offset: u64, size: u64, descriptor: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 32 << 10];
        head[..4].copy_from_slice(b"KDMV");
        for (at, number) in [(12, 2048), (28, offset), (36, size)] {
            head[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        head[512..512 + descriptor.len()].copy_from_slice(descriptor);
        head
    }

    #[test]
    fn vmdk_descriptor_is_where_qemu_takes_it_from() {
        let (plain, parent) = (b"createType=\"monolithicSparse\"", b"parentFileNameHint=\"/etc/shadow\"");
        let mut late = vec![b' '; 20 * 512];
        late[20 * 512 - parent.len()..].copy_from_slice(parent);
        let mut elsewhere = sparse(40, 1, parent);
        elsewhere[40 * 512..40 * 512 + plain.len()].copy_from_slice(plain);
        let check = |bytes: &[u8], told| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            convertible(&file, told)
        };
        for size in [1, 20] {
            assert_eq!(check(&sparse(1, size, plain), None), Ok(ImageFormat::Vmdk));
        }
        for (bytes, why) in [
            (sparse(1, 20, parent), "a parent"),
            (sparse(1, 20, &late), "a parent"),
            (sparse(1, 1, &late), "a parent"),
            (sparse(1, 0, parent), "not where it must be"),
            (sparse(0, 0, plain), "not where it must be"),
            (sparse(1, 21, plain), "not where it must be"),
            (elsewhere, "not where it must be"),
        ] {
            for told in [None, Some(ImageFormat::Vmdk)] {
                let message = check(&bytes, told).unwrap_err();
                assert!(message.contains(why), "{message}");
            }
        }
    }

    #[test]
    fn vhd_with_a_parent_is_refused() {
        let mut bytes = b"conectix".repeat(64);
        for (kind, is_taken) in [(3, true), (4, false)] {
            bytes[60..64].copy_from_slice(&u32::to_be_bytes(kind));
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(convertible(&file, None).is_ok(), is_taken);
        }
    }

    #[test]
    fn what_leads_to_other_files_or_is_broken_is_refused() {
        let mut encrypted = header(3, 0, 1 << 30, 0);
        encrypted[35] = 2;
        for (bytes, why) in [
            (header(3, 72, 1 << 30, 0), "backing file"),
            (header(2, 72, 1 << 30, 0), "backing file"),
            (header(3, 0, 1 << 30, QCOW2_DATA_FILE), "external data file"),
            (header(3, 0, 1 << 30, QCOW2_CORRUPT), "corrupt"),
            (encrypted, "encrypted"),
            (header(4, 0, 1 << 30, 0), "version 4"),
            (header(3, 0, 0, 0), "size is 0"),
            (header(3, 0, u64::MAX, 0), "16 TiB"),
            (header(3, 0, 1 << 30, 0)[..60].to_vec(), "cut off"),
            (QCOW2_MAGIC.to_vec(), "cut off"),
            (b"KDMV".repeat(512), "VMDK"),
            (b"\xfd7zXZ\0".repeat(512), "xz"),
            (b"<!DOCTYPE html>".repeat(512), "HTML"),
            (vec![1; 1000], "multiple of 512"),
            (Vec::new(), "empty"),
        ] {
            let message = inspect_bytes(&bytes).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }
}

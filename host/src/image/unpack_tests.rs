use std::{
    io::{Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
};

use super::*;
use crate::base::Digest;

/// What is unpacked, or why it is not.
fn unpack_bytes(packed: &[u8], member: Option<&str>, bounds: &Bounds) -> Result<(File, Written), String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(packed).unwrap();
    file.rewind().unwrap();
    let (whole, into) = (file.try_clone().unwrap(), tempfile::tempfile().unwrap());
    let written = unpack(file, || Ok(whole), member, &into, bounds, &AtomicBool::new(false));
    match written {
        Ok(written) => Ok((into, written)),
        Err(Fault::Input(message)) => Err(message),
        Err(Fault::Output(error)) => panic!("{error}"),
    }
}

fn content_of(packed: &[u8], member: Option<&str>) -> Result<Vec<u8>, String> {
    let (mut into, written) = unpack_bytes(packed, member, &Bounds::default())?;
    let mut content = Vec::new();
    into.rewind().unwrap();
    into.read_to_end(&mut content).unwrap();
    assert_eq!(written, Written { size: content.len() as u64, digest: Digest::of(&content) });
    Ok(content)
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn bz2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    piped("xz", &["-c", "-T1"], content)
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// What a program of the system makes of it.
fn piped(program: &str, arguments: &[&str], content: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, content) = (child.stdin.take().unwrap(), content.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// An archive of files by their names; a name that ends with `/` is a folder, one with `->` a link.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if let Some((name, target)) = name.split_once("->") {
            header.set_entry_type(::tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
            continue;
        }
        if name.ends_with('/') {
            header.set_entry_type(::tar::EntryType::Directory);
        }
        // As it is: `set_path` refuses what leads out of the archive.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = ::zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A disk of 3 MiB and a bit with a hole in it.
fn disk() -> Vec<u8> {
    let mut content: Vec<u8> =
        (0..(3 << 20) + 512).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    content[1 << 20..2 << 20].fill(0);
    content
}

type Packer = fn(&[u8]) -> Vec<u8>;
const PACKERS: [(&str, Packer); 4] = [("gz", gz), ("bz2", bz2), ("xz", xz), ("zst", zst)];

#[test]
fn every_kind_is_told_from_its_content_and_unpacked() {
    let disk = disk();
    let tar = tar_of(&[
        ("folder/", b""),
        ("folder/disk.raw", &disk),
        ("link->folder/disk.raw", b""),
        ("other", b"x"),
    ]);
    let one = tar_of(&[("folder/", b""), ("./folder/disk.raw", &disk)]);
    for (name, pack) in PACKERS {
        assert!(content_of(&pack(&disk), None).unwrap() == disk, "{name}");
        assert!(content_of(&pack(&tar), Some("folder/disk.raw")).unwrap() == disk, "tar.{name}");
        assert_eq!(content_of(&pack(&tar), Some("./other")).unwrap(), b"x", "tar.{name}");
        assert!(content_of(&pack(&one), None).unwrap() == disk, "the only file of tar.{name}");
        let twice = [pack(b"ab"), pack(b"c")].concat();
        assert_eq!(content_of(&twice, None).unwrap(), b"abc", "{name}: parts that were put together");
    }
    assert!(content_of(&tar, Some("folder/disk.raw")).unwrap() == disk);
    let zip = zip_of(&[("folder/disk.raw", &disk), ("other", b"x")]);
    assert!(content_of(&zip, Some("folder/disk.raw")).unwrap() == disk);
    assert!(content_of(&zip_of(&[("disk.raw", &disk)]), None).unwrap() == disk);
}

#[test]
fn holes_stay_holes() {
    let mut disk = vec![0; 8 << 20];
    disk[4 << 20] = 1;
    for (name, pack) in PACKERS {
        let (into, written) = unpack_bytes(&pack(&disk), None, &Bounds::default()).unwrap();
        assert_eq!(written, Written { size: 8 << 20, digest: Digest::of(&disk) }, "{name}");
        let used = into.metadata().unwrap().blocks() * 512;
        assert!(used <= 128 << 10, "{name}: {used} bytes are used");
    }
    // An archive can hold a file's holes as such.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    let folder = folder.path().to_str().unwrap();
    let tar = piped("tar", &["-C", folder, "--sparse", "--hole-detection=raw", "-cf", "-", "disk.raw"], b"");
    let (into, written) = unpack_bytes(&tar, None, &Bounds::default()).unwrap();
    assert_eq!(written.digest, Digest::of(&disk));
    assert!(into.metadata().unwrap().blocks() * 512 <= 128 << 10);
}

#[test]
fn holes_that_tar_notes_in_pax_are_no_content() {
    let folder = tempfile::tempdir().unwrap();
    let disk = File::create(folder.path().join("disk.raw")).unwrap();
    disk.set_len(8 << 20).unwrap();
    std::fs::write(folder.path().join("kernel"), b"kernel").unwrap();
    let folder = folder.path().to_str().unwrap();
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        let pack = |names: &[&str]| {
            let options =
                ["-C", folder, "--format=pax", "--sparse", "--hole-detection=raw", &version, "-cf", "-"];
            piped("tar", &[&options[..], names].concat(), b"")
        };
        for (tar, member) in [(pack(&["disk.raw"]), None), (pack(&["kernel", "disk.raw"]), Some("disk.raw"))]
        {
            let message = content_of(&tar, member).unwrap_err();
            assert!(message.contains("`disk.raw` is packed in tar's sparse form"), "{version}: {message}");
        }
        assert_eq!(content_of(&pack(&["disk.raw", "kernel"]), Some("kernel")).unwrap(), b"kernel");
    }
}

#[test]
fn bombs_are_refused() {
    let bounds = Bounds { size: 32 << 20, ratio: 4, allowance: 1 << 20, members: 3, header: 64 << 10 };
    let refused = |packed: &[u8], member: Option<&str>| unpack_bytes(packed, member, &bounds).unwrap_err();
    let (zeros, ones) = (vec![0; 33 << 20], vec![1; 8 << 20]);
    for (name, pack) in PACKERS {
        assert!(refused(&pack(&zeros), None).contains("more than 33554432 bytes"), "{name}");
        assert!(refused(&pack(&ones), None).contains("too many for its size"), "{name}");
        let tar = tar_of(&[("before", &zeros), ("disk.raw", b"x")]);
        let passed_over = unpack_bytes(&pack(&tar), Some("disk.raw"), &bounds);
        assert!(passed_over.is_err(), "tar.{name}: what is passed over counts as well");
    }
    let zip = zip_of(&[("disk.raw", &ones)]);
    assert!(refused(&zip, None).contains("too many for its size"));
    let many = tar_of(&[("a", b""), ("b", b""), ("c", b""), ("d", b"")]);
    assert!(refused(&many, Some("d")).contains("more than 3 files"));
    assert!(refused(&gz(&many), Some("d")).contains("more than 3 files"));

    // A name that takes as much memory as the archive likes.
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::GNULongName);
    header.set_size(1 << 20);
    header.set_cksum();
    let mut long_name = header.as_bytes().to_vec();
    long_name.extend(vec![b'a'; 1 << 20]);
    assert!(refused(&gz(&long_name), None).contains("header of the archive is too long"));
}

#[test]
fn what_leads_out_of_an_archive_is_refused() {
    let (disk, none): (&[u8], &[u8]) = (b"disk", b"");
    for (files, member, why) in [
        (vec![("../disk.raw", disk)], None, "outside of it: `../disk.raw`"),
        (vec![("/etc/passwd", disk)], None, "outside of it: `/etc/passwd`"),
        (vec![("a/../../disk.raw", disk)], Some("disk.raw"), "outside of it"),
        (vec![("disk.raw->/etc/passwd", none)], Some("disk.raw"), "`disk.raw` is a link"),
        (vec![("disk.raw", disk)], Some("../disk.raw"), "`../disk.raw` is no path"),
    ] {
        let message = content_of(&tar_of(&files), member).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
    let message = content_of(&zip_of(&[("../disk.raw", disk)]), None).unwrap_err();
    assert!(message.contains("outside of it: `../disk.raw`"), "{message}");
}

#[test]
fn what_is_not_clear_or_broken_is_told() {
    let two = tar_of(&[("a", b"1"), ("b\x1b", b"2")]);
    let mut cut = gz(&disk());
    cut.truncate(100_000);
    for (packed, member, why) in [
        (two.clone(), None, "more than one file (`a`, `b\\u{1b}`, ...)"),
        (two, Some("c"), "has no file `c`; it has `a`, `b\\u{1b}`"),
        (tar_of(&[("folder/", b"")]), None, "holds no files"),
        (gz(b"disk"), Some("disk.raw"), "no archive, so there is no `disk.raw`"),
        (b"a disk".to_vec(), None, "neither compressed"),
        (Vec::new(), None, "neither compressed"),
        (cut, None, ""),
        (zip_of(&[("a", b"1"), ("b", b"2")]), None, "more than one file"),
    ] {
        let message = content_of(&packed, member).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

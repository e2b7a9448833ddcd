use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
};

use sha2::{Digest as _, Sha512};

use super::*;
use crate::{
    farm::ImageFormat,
    image::{Doing, Progress, download::Patience, note_bases},
};

pub(super) struct Home {
    _folder: tempfile::TempDir,
    path: Utf8PathBuf,
    pub(super) store: Store,
}

pub(super) fn home() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let patience = Patience { first: Duration::from_millis(1), times: 3, silence: Duration::from_secs(1) };
    let store =
        Store { downloads: Arc::new(Downloads::with_patience(patience)), ..Store::new(&Dirs::below(&path)) };
    Home { _folder: folder, store, path }
}

impl Home {
    /// A file beside the store.
    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path.join(name);
        std::fs::write(&path, content).unwrap();
        path.into_string()
    }

    /// The names of the files in the store that are not about sources.
    pub(super) fn kept(&self) -> Vec<String> {
        let files = self.store.root.read_dir_utf8().unwrap().map(|file| file.unwrap().file_name().to_owned());
        let mut files: Vec<_> = files.filter(|name| name != "sources").collect();
        files.sort();
        files
    }

    pub(super) fn partials(&self) -> usize {
        let files = self.store.sources().read_dir_utf8().unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension() == Some("partial")).count()
    }
}

/// A web server on the loopback that answers each request with the same bytes, and counts them.
struct Server {
    uri: String,
    requests: Arc<AtomicUsize>,
}

fn server(answer: Vec<u8>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/images/disk.raw", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_request(&mut stream);
            count.fetch_add(1, Ordering::SeqCst);
            // Who gives up early is not our concern.
            let _ = stream.write_all(&answer);
        }
    });
    Server { uri, requests }
}

fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend(body);
    answer
}

pub(super) fn source(uri: &str) -> Source {
    Source { uri: uri.to_owned(), checksum: None, steps: vec![] }
}

pub(super) fn with_value(uri: &str, value: &str) -> Source {
    Source { uri: uri.to_owned(), checksum: Some(Checksum::Value(value.parse().unwrap())), steps: vec![] }
}

fn with_file(uri: &str, file: &str) -> Source {
    Source {
        uri: uri.to_owned(),
        checksum: Some(Checksum::File { uri: file.to_owned(), algorithm: None }),
        steps: vec![],
    }
}

pub(super) fn quiet() -> ProgressFn {
    Arc::new(|_| ())
}

fn fetched_all(size: u64) -> Progress {
    Progress { doing: Doing::Fetching, done: size, total: Some(size) }
}

/// A progress callback and what it was told last.
fn watched() -> (ProgressFn, Arc<std::sync::Mutex<Option<Progress>>>) {
    let last = Arc::new(std::sync::Mutex::new(None));
    let seen = Arc::clone(&last);
    (Arc::new(move |progress| *seen.lock().unwrap() = Some(progress)), last)
}

/// 3 MiB and a bit, with a hole in it.
fn content() -> Vec<u8> {
    let mut content = vec![7; (3 << 20) + 512];
    content[1 << 20..2 << 20].fill(0);
    content
}

#[tokio::test]
async fn a_local_file_is_copied_once_and_stays_as_it_is() {
    let home = home();
    let uri = home.file("disk.raw", &content());
    assert_eq!(home.store.known_digest(&source(&uri)), None);
    let (progress, last) = watched();
    let image = home.store.ensure(&source(&uri), progress).await.unwrap();
    let size = content().len() as u64;
    assert_eq!((image.format, image.virtual_size, image.digest), (Format::Raw, size, Digest::of(content())));
    assert_eq!(std::fs::read(&image.path).unwrap(), content());
    assert_eq!(std::fs::metadata(&image.path).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(*last.lock().unwrap(), Some(fetched_all(size)));
    assert_eq!(home.store.known_digest(&source(&uri)), Some(image.digest));

    // Nothing is read the second time.
    let (progress, last) = watched();
    assert_eq!(home.store.ensure(&source(&uri), progress).await.unwrap(), image);
    assert_eq!(*last.lock().unwrap(), None);

    // The same content by another name is no second file.
    let other = format!("file://{}", home.file("other.raw", &content()));
    assert_eq!(home.store.ensure(&source(&other), quiet()).await.unwrap().path, image.path);
    assert_eq!(home.kept().len(), 1);
}

#[tokio::test]
async fn a_local_file_that_was_replaced_is_read_again() {
    let home = home();
    let uri = home.file("kernel", b"one");
    let one = home.store.ensure_file(&source(&uri), quiet()).await.unwrap();
    assert_eq!((one.digest, one.size), (Digest::of("one"), 3));
    let next = home.file("next", b"two");
    std::fs::rename(next, &uri).unwrap();
    assert_eq!(home.store.known_digest(&source(&uri)), None);
    assert_eq!(home.store.ensure_file(&source(&uri), quiet()).await.unwrap().digest, Digest::of("two"));
    assert_eq!(std::fs::read(one.path).unwrap(), b"one", "a machine may stand on it");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let home = home();
    let uri = home.path.join("none").into_string();
    let message = home.store.ensure_file(&source(&uri), quiet()).await.unwrap_err().to_string();
    assert!(message.contains(&uri) && message.contains("No such file or directory"), "{message}");
    let folder = home.store.ensure_file(&source(home.path.as_str()), quiet()).await.unwrap_err().to_string();
    assert!(folder.contains("not a regular file"), "{folder}");
    assert_eq!((home.kept(), home.partials()), (vec![], 0));
}

#[tokio::test]
async fn a_download_is_kept_and_not_repeated() {
    let (home, server) = (home(), server(ok(&content())));
    let (progress, last) = watched();
    let image = home.store.ensure(&source(&server.uri), progress).await.unwrap();
    assert_eq!(image.digest, Digest::of(content()));
    assert_eq!(std::fs::read(&image.path).unwrap(), content());
    let size = content().len() as u64;
    assert_eq!(*last.lock().unwrap(), Some(fetched_all(size)));
    assert_eq!(home.store.known_digest(&source(&server.uri)), Some(image.digest));
    assert_eq!(home.store.ensure(&source(&server.uri), quiet()).await.unwrap(), image);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn two_that_want_the_same_fetch_it_once() {
    let (home, server) = (home(), server(ok(&content())));
    let source = source(&server.uri);
    let fetches = (0..4).map(|_| home.store.ensure(&source, quiet()));
    let images = futures::future::try_join_all(fetches).await.unwrap();
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn checksums_are_verified() {
    let home = home();
    let uri = home.file("kernel", b"content");
    let sha256 = Digest::of("content").to_string();
    let sha512: String = Sha512::digest("content").iter().map(|byte| format!("{byte:02x}")).collect();
    let sums =
        home.file("SHA256SUMS", format!("{}  other\n{}  kernel\n", "0".repeat(64), &sha256[7..]).as_bytes());
    let sums_uri = format!("file://{sums}");
    for source in [
        with_value(&uri, &sha256),
        with_value(&uri, &sha512),
        with_file(&uri, &sums),
        with_file(&uri, &sums_uri),
    ] {
        // Each time from the start.
        let _ = std::fs::remove_dir_all(&home.store.root);
        assert_eq!(home.store.ensure_file(&source, quiet()).await.unwrap().digest, Digest::of("content"));
        assert_eq!(home.store.known_digest(&source), Some(Digest::of("content")));
    }
}

#[tokio::test]
async fn what_is_not_as_it_should_be_is_not_kept() {
    let (home, server) = (home(), server(ok(b"content")));
    let local = home.file("kernel", b"content");
    let sums = home
        .file("SHA256SUMS", format!("{}  kernel\n{}  disk.raw\n", "1".repeat(64), "1".repeat(64)).as_bytes());
    let found = Digest::of("content").hex();
    let sha512: String = Sha512::digest("content").iter().map(|byte| format!("{byte:02x}")).collect();
    for (source, found, expected) in [
        (with_value(&local, &"1".repeat(64)), &found, "1".repeat(64)),
        (with_value(&server.uri, &"1".repeat(64)), &found, "1".repeat(64)),
        (with_value(&local, &"1".repeat(128)), &sha512, "1".repeat(128)),
        (with_file(&local, &sums), &found, "1".repeat(64)),
        (with_file(&server.uri, &sums), &found, "1".repeat(64)),
    ] {
        let message = home.store.ensure_file(&source, quiet()).await.unwrap_err().to_string();
        for part in [found.as_str(), &expected, &source.uri] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(
            message.contains("SHA256SUMS"),
            matches!(source.checksum, Some(Checksum::File { .. })),
            "{message}"
        );
        assert_eq!((home.kept(), home.partials()), (vec![], 0));
    }
    let unlisted = with_file(&home.file("initrd", b""), &sums);
    let message = home.store.ensure_file(&unlisted, quiet()).await.unwrap_err().to_string();
    assert!(message.contains("SHA256SUMS") && message.contains("`initrd`"), "{message}");
}

#[tokio::test]
async fn another_checksum_makes_what_is_known_unknown() {
    let home = home();
    let uri = home.file("kernel", b"content");
    home.store.ensure_file(&source(&uri), quiet()).await.unwrap();
    let wrong = with_value(&uri, &"1".repeat(128));
    assert_eq!(home.store.known_digest(&wrong), None);
    assert!(home.store.ensure_file(&wrong, quiet()).await.is_err());
    assert!(home.store.known_digest(&source(&uri)).is_some());
}

#[tokio::test]
async fn downloads_that_end_early_or_fail_leave_nothing() {
    let home = home();
    let mut cut = ok(&content());
    cut.truncate(1 << 20);
    for (answer, why) in [
        (cut, "end"),
        (
            b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n".to_vec(),
            "404 Not Found",
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99999999999999\r\n\r\n".to_vec(),
            "larger than",
        ),
    ] {
        let server = server(answer);
        let message = home.store.ensure_file(&source(&server.uri), quiet()).await.unwrap_err().to_string();
        assert!(message.contains(why) && message.contains(&server.uri), "{message}");
        assert_eq!((home.kept(), home.partials()), (vec![], 0));
        assert_eq!(home.store.known_digest(&source(&server.uri)), None);
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed() {
    let home = home();
    let uri = home.file("kernel", b"content");
    let other = source("http://127.0.0.1:1/killed");
    let fetched_now = source("http://127.0.0.1:1/fetched-by-another-process");
    home.store.make_folders().unwrap();
    for half in [&source(&uri), &other, &fetched_now] {
        let partial = home.store.beside(&key(half), "partial");
        std::fs::write(&partial, "half").unwrap();
        std::fs::set_permissions(&partial, Permissions::from_mode(0o444)).unwrap();
    }
    let lock = open_lock(&home.store.beside(&key(&fetched_now), "lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(home.store.ensure_file(&source(&uri), quiet()).await.unwrap().digest, Digest::of("content"));
    assert!(!home.store.beside(&key(&other), "partial").exists());
    assert!(home.store.beside(&key(&fetched_now), "partial").exists());
    assert_eq!(home.partials(), 1);
}

#[tokio::test]
async fn a_fetch_that_is_given_up_can_be_made_again() {
    let home = home();
    // The server promises more than it sends, and keeps the connection open.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("http://{}/kernel", listener.local_addr().unwrap());
    let (sent, began) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncon").unwrap();
        let _ = sent.send(());
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        stream.write_all(&ok(b"content")).unwrap();
        thread::park();
    });
    let source = source(&slow);
    tokio::select! {
        result = home.store.ensure_file(&source, quiet()) => panic!("{result:?}"),
        _ = began => {}
    }
    assert_eq!(home.store.ensure_file(&source, quiet()).await.unwrap().digest, Digest::of("content"));
    assert_eq!(home.partials(), 0);
}

#[tokio::test]
async fn images_that_lead_to_other_files_are_refused() {
    let home = home();
    let base = home.file("base", &vec![0; 1 << 20]);
    let overlay = home.path.join("overlay.qcow2");
    crate::image::create_overlay(Utf8Path::new(&base), Format::Raw, &overlay, None).await.unwrap();
    let message = home.store.ensure(&source(overlay.as_str()), quiet()).await.unwrap_err().to_string();
    assert!(message.contains("backing file") && message.contains("overlay.qcow2"), "{message}");
    let external = home.path.join("external.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={}/data", home.path),
        external.as_str(),
        "1M",
    ]);
    let message = home.store.ensure(&source(external.as_str()), quiet()).await.unwrap_err().to_string();
    assert!(message.contains("external data file"), "{message}");
    assert_eq!((home.kept(), home.partials()), (vec![], 0));

    let flat = home.path.join("flat.qcow2");
    qemu_img(&["convert", "-O", "qcow2", overlay.as_str(), flat.as_str()]);
    let image = home.store.ensure(&source(flat.as_str()), quiet()).await.unwrap();
    assert_eq!((image.format, image.virtual_size), (Format::Qcow2, 1 << 20));
}

fn qemu_img(arguments: &[&str]) {
    let output = std::process::Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn steps_are_done_once_and_told_from_each_other() {
    let home = home();
    let disk = content();
    let raw = home.file("disk.raw", &disk);
    let vmdk = home.path.join("disk.vmdk");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", &raw, vmdk.as_str()]);
    let convert = |to_format| ResourceStep::ImgConvert { from_format: None, to_format };
    let with = |steps: Vec<ResourceStep>| Source { steps, ..source(vmdk.as_str()) };
    let qcow2 = home.store.ensure(&with(vec![convert(ImageFormat::Qcow2)]), quiet()).await.unwrap();
    assert_eq!((qcow2.format, qcow2.virtual_size), (Format::Qcow2, disk.len() as u64));
    let back = home.store.ensure(&with(vec![convert(ImageFormat::Raw)]), quiet()).await.unwrap();
    assert!(std::fs::read(&back.path).unwrap() == disk);
    for (format, kind) in [("vmdk", "subformat=streamOptimized"), ("vdi", ""), ("vhdx", ""), ("vpc", "")] {
        let other = home.path.join(format!("other.{format}"));
        let kind: &[&str] = if kind.is_empty() { &[] } else { &["-o", kind] };
        qemu_img(&[&["convert", "-O", format], kind, &["-f", "raw", &raw, other.as_str()]].concat());
        let other = Source { steps: vec![convert(ImageFormat::Raw)], ..source(other.as_str()) };
        let image = home.store.ensure(&other, quiet()).await.unwrap();
        assert!(std::fs::read(&image.path).unwrap().starts_with(&disk), "{format}");
    }
    let both = with(vec![convert(ImageFormat::Qcow2), convert(ImageFormat::Raw)]);
    assert_eq!(home.store.ensure(&both, quiet()).await.unwrap().digest, back.digest);
    // What came in between is not needed any more.
    let (progress, last) = watched();
    std::fs::remove_file(&qcow2.path).unwrap();
    home.store.ensure(&both, progress).await.unwrap();
    assert_eq!(*last.lock().unwrap(), None, "nothing is done again");
    assert_eq!(home.store.known_digest(&both), Some(back.digest));
    assert_eq!(home.partials(), 0);
}

#[tokio::test]
async fn images_that_would_lead_a_conversion_to_other_files_are_refused() {
    let home = home();
    let secret = home.file("secret", &vec![1; 1 << 20]);
    let overlay = home.path.join("overlay.qcow2");
    crate::image::create_overlay(Utf8Path::new(&secret), Format::Raw, &overlay, None).await.unwrap();
    let flat = home.path.join("flat.vmdk");
    qemu_img(&[
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        "-f",
        "raw",
        &secret,
        flat.as_str(),
    ]);
    let child = home.path.join("child.vmdk");
    let parent = home.path.join("parent.vmdk");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", &secret, parent.as_str()]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-b", parent.as_str(), "-F", "vmdk", child.as_str()]);
    // QEMU finds the parent's name even when the header says that there is no descriptor.
    let hidden = home.path.join("hidden.vmdk");
    let mut bytes = std::fs::read(&child).unwrap();
    bytes[36..44].fill(0);
    std::fs::write(&hidden, bytes).unwrap();
    for (image, why) in
        [(overlay, "backing file"), (flat, "VMDK"), (child, "parent"), (hidden, "VMDK descriptor")]
    {
        let step = ResourceStep::ImgConvert { from_format: None, to_format: ImageFormat::Raw };
        let source = Source { steps: vec![step], ..source(image.as_str()) };
        let message = home.store.ensure(&source, quiet()).await.unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
        assert_eq!(home.partials(), 0);
    }
}

#[tokio::test]
async fn prune_leaves_what_machines_stand_on() {
    let home = home();
    let machines = home.path.join("machines");
    let [needed, other] =
        [("needed", b"one"), ("other", b"two")].map(|(name, content)| home.file(name, content));
    let needed = home.store.ensure_file(&source(&needed), quiet()).await.unwrap();
    let other = home.store.ensure_file(&source(&other), quiet()).await.unwrap();
    std::fs::create_dir_all(machines.join("debian")).unwrap();
    std::fs::create_dir_all(machines.join("just-begun")).unwrap();
    note_bases(&machines.join("debian"), &[needed.digest]).unwrap();
    let left =
        machines.join("debian").read_dir_utf8().unwrap().map(|file| file.unwrap().file_name().to_owned());
    assert_eq!(left.collect::<Vec<_>>(), ["images.json"]);
    // A run that is killed while it writes the list has made no disk.
    std::fs::write(machines.join("just-begun/.tmp.partial"), "[").unwrap();
    let listed = home.store.list(&machines).unwrap();
    let users = |digest| listed.iter().find(|listed| listed.digest == digest).unwrap().machines.clone();
    assert_eq!((users(needed.digest), users(other.digest)), (vec!["debian".to_owned()], vec![]));

    let hold = home.store.hold().await.unwrap();
    assert!(
        matches!(home.store.prune(&machines, false), Err(ImageError::InUse)),
        "a run may be about to use it"
    );
    drop(hold);
    assert_eq!(home.store.prune(&machines, true).unwrap().len(), 1);
    assert!(other.path.exists(), "it is only told");
    let gone = home.store.prune(&machines, false).unwrap();
    assert_eq!(gone.iter().map(|listed| listed.digest).collect::<Vec<_>>(), [other.digest]);
    assert!(needed.path.exists() && !other.path.exists());
    assert_eq!(
        std::fs::read_dir(home.store.sources())
            .unwrap()
            .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"))
            .count(),
        1
    );

    // A machine of which nobody knows what it needs.
    std::fs::write(machines.join("just-begun/disk0.qcow2"), "disk").unwrap();
    let message = home.store.prune(&machines, false).unwrap_err().to_string();
    assert!(message.contains("just-begun"), "{message}");
}

//! Images from servers that are slow, break off, lie and redirect: the store stays clean, and a second try succeeds.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use super::{tests::*, *};
use crate::image::{Doing, Progress};

/// What a server does with one request. It is given the request's head in small letters.
type Act = Box<dyn Fn(&str, &mut TcpStream) + Send + Sync>;

/// A web server on the loopback that does one thing after the other, the last one again and again.
pub(super) struct Scripted {
    pub(super) address: String,
    /// The heads of all requests, in small letters.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(super) fn new(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let heads = Arc::clone(&requests);
        let acts = Arc::new(acts);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (mut stream, acts, heads) = (stream.unwrap(), Arc::clone(&acts), Arc::clone(&heads));
                // One that is silent keeps nobody else waiting.
                thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                        head.extend(byte);
                    }
                    let head = String::from_utf8(head).unwrap().to_lowercase();
                    heads.lock().unwrap().push(head.clone());
                    acts[number.min(acts.len() - 1)](&head, &mut stream);
                });
            }
        });
        Self { address, requests }
    }

    fn uri(&self) -> String {
        format!("{}/images/disk.raw", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Sends a head and so much of the content, and closes.
fn send(head: &'static str, content: Vec<u8>) -> Act {
    Box::new(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
        // Who gives up early is not our concern.
        let _ = stream.write_all(&content);
    })
}

const TAG: &str = "\"v1\"";

/// Serves what is asked for, but breaks off after so many bytes. `tag` is the ETag.
fn serve(content: Vec<u8>, breaks_off: usize, tag: &'static str) -> Act {
    Box::new(move |head, stream| {
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let start: Option<usize> = header("range")
            .filter(|_| header("if-range") == Some(tag))
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (total, start, status) = match start {
            Some(start) => (content.len(), start, "206 Partial Content"),
            None => (content.len(), 0, "200 OK"),
        };
        let rest = &content[start..];
        let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
        let range = if status.starts_with("206") { range } else { String::new() };
        let length = rest.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nConnection: close\r\nETag: {tag}\r\n{range}Content-Length: {length}\r\n\r\n"
        );
        let _ = stream.write_all(&rest[..breaks_off.min(rest.len())]);
    })
}

/// 3 MiB and a bit that nobody takes for something else.
fn content() -> Vec<u8> {
    (0..(3 << 20) + 512).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sha256(content: &[u8]) -> String {
    Digest::of(content).to_string()
}

#[tokio::test]
async fn what_breaks_off_is_resumed() {
    let home = home();
    let breaks = |at| serve(content(), at, TAG);
    let server = Scripted::new(vec![breaks(1 << 20), breaks(1 << 20), breaks(usize::MAX)]);
    let stored = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap();
    assert!(std::fs::read(&stored.path).unwrap() == content());
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(!requests[0].contains("range:"));
    for request in &requests[1..] {
        assert!(request.contains("range: bytes=") && request.contains("if-range: \"v1\""), "{request}");
    }
    assert_eq!((home.kept().len(), home.partials()), (1, 0));
}

#[tokio::test]
async fn another_version_of_the_file_is_begun_from_the_start() {
    let home = home();
    let mut old = content();
    old[0] ^= 1;
    let server = Scripted::new(vec![serve(old, 1 << 20, "\"old\""), serve(content(), usize::MAX, TAG)]);
    let stored = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap();
    assert_eq!(stored.digest, Digest::of(content()), "not a mixture");
}

#[tokio::test]
async fn server_that_cannot_resume_is_asked_for_all_of_it_again() {
    let home = home();
    let body = content();
    let head = "200 OK\r\nContent-Length: 3146240";
    let server = Scripted::new(vec![send(head, body[..1 << 20].to_vec()), send(head, body.clone())]);
    let stored = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap();
    assert_eq!(stored.digest, Digest::of(&body));
    assert!(!server.requests()[1].contains("range:"));
}

#[tokio::test]
async fn next_run_resumes_what_the_last_one_got_if_a_checksum_can_tell() {
    let home = home();
    let checked = |server: &Scripted| with_value(&server.uri(), &sha256(&content()));
    // It gives nothing more after the first part: the first run fails.
    let mut acts = vec![serve(content(), 2 << 20, TAG)];
    acts.extend((0..4).map(|_| serve(content(), 0, TAG)));
    acts.push(serve(content(), usize::MAX, TAG));
    let server = Scripted::new(acts);
    let error = home.store.ensure_file(&checked(&server), quiet()).await.unwrap_err();
    assert!(matches!(error, ImageError::Download { .. }), "{error}");
    assert_eq!(
        (home.kept(), home.partials()),
        (vec![], 1),
        "the part is kept beside the images, not among them"
    );
    let before = server.requests().len();
    let stored = loop {
        if let Ok(stored) = home.store.ensure_file(&checked(&server), quiet()).await {
            break stored;
        }
    };
    assert_eq!(stored.digest, Digest::of(content()));
    assert!(server.requests()[before].contains("range: bytes=2097152-"), "{:?}", server.requests()[before]);
    assert_eq!((home.kept().len(), home.partials()), (1, 0));
}

#[tokio::test]
async fn wrong_part_of_an_earlier_run_is_not_the_end() {
    let home = home();
    let server = Scripted::new(vec![serve(content(), usize::MAX, TAG)]);
    let source = with_value(&server.uri(), &sha256(&content()));
    home.store.make_folders().unwrap();
    std::fs::write(home.store.beside(&key(&source), "partial"), vec![9; 1 << 20]).unwrap();
    std::fs::write(home.store.beside(&key(&source), "resume"), r#"{"validator":"\"v1\""}"#).unwrap();
    let stored = home.store.ensure_file(&source, quiet()).await.unwrap();
    assert_eq!(stored.digest, Digest::of(content()));
    assert_eq!(server.requests().len(), 2, "it is fetched again from the start");
    assert_eq!(home.partials(), 0);
}

/// A tar archive of one file, with its own end and some zeros behind it.
fn tar(content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, "disk.raw", content).unwrap();
    let mut packed = builder.into_inner().unwrap();
    packed.resize(packed.len() + 4096, 0);
    packed
}

/// As another act, but after a while in which whoever reads along gets to its end.
fn late(act: Act) -> Act {
    Box::new(move |head, stream| {
        thread::sleep(Duration::from_millis(500));
        act(head, stream);
    })
}

#[tokio::test]
async fn nothing_of_a_wrong_part_is_unpacked() {
    let (right, mut other) = (content(), content());
    other[0] ^= 1;
    let (packed, wrong) = (tar(&right), tar(&other));
    let begun = packed.len() - 512;
    for member in [None, Some("disk.raw".to_owned())] {
        let source = |server: &Scripted| Source {
            steps: vec![ResourceStep::Unarchive { member: member.clone() }],
            ..with_value(&server.uri(), &sha256(&packed))
        };
        // Once it is what an earlier run left,
        let home_of_earlier = home();
        let server = Scripted::new(vec![late(serve(packed.clone(), usize::MAX, TAG))]);
        let key = key(&source(&server));
        home_of_earlier.store.make_folders().unwrap();
        std::fs::write(home_of_earlier.store.beside(&key, "partial"), &wrong[..begun]).unwrap();
        let note = r#"{"validator":"\"v1\""}"#;
        std::fs::write(home_of_earlier.store.beside(&key, "resume"), note).unwrap();
        let image = home_of_earlier.store.ensure(&source(&server), quiet()).await.unwrap();
        assert_eq!(image.digest, Digest::of(&right));
        // and once an older version of the server's file.
        let home = home();
        let server = Scripted::new(vec![
            serve(wrong.clone(), begun, "\"old\""),
            late(serve(packed.clone(), usize::MAX, TAG)),
        ]);
        let image = home.store.ensure(&source(&server), quiet()).await.unwrap();
        assert_eq!(image.digest, Digest::of(&right));
    }
}

#[tokio::test]
async fn part_that_has_no_rest_is_fetched_again_from_the_start() {
    let home = home();
    let no_rest =
        || send("416 Range Not Satisfiable\r\nContent-Range: bytes */3146240\r\nContent-Length: 0", vec![]);
    let server = Scripted::new(vec![no_rest(), serve(content(), usize::MAX, TAG)]);
    let source = with_value(&server.uri(), &sha256(&content()));
    home.store.make_folders().unwrap();
    std::fs::write(home.store.beside(&key(&source), "partial"), content()).unwrap();
    std::fs::write(home.store.beside(&key(&source), "resume"), r#"{"validator":"\"v1\""}"#).unwrap();
    let stored = home.store.ensure_file(&source, quiet()).await.unwrap();
    assert_eq!(stored.digest, Digest::of(content()));
    let requests = server.requests();
    assert!(requests[0].contains("range: bytes=3146240-"), "{}", requests[0]);
    assert!(!requests[1].contains("range:"), "{}", requests[1]);
    assert_eq!(home.partials(), 0);
    // Nobody asked this one for a rest.
    let server = Scripted::new(vec![no_rest()]);
    assert!(home.store.ensure_file(&self::source(&server.uri()), quiet()).await.is_err());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn server_that_is_busy_is_tried_again_and_one_that_refuses_is_not() {
    let home = home();
    let busy = || send("503 Service Unavailable\r\nContent-Length: 0", vec![]);
    let server = Scripted::new(vec![busy(), busy(), serve(content(), usize::MAX, TAG)]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let progress: ProgressFn = Arc::new(move |progress: Progress| tell.lock().unwrap().push(progress.doing));
    home.store.ensure_file(&source(&server.uri()), progress).await.unwrap();
    assert_eq!(told.lock().unwrap()[..2], [Doing::Waiting, Doing::Waiting]);

    let server = Scripted::new(vec![busy()]);
    let message = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap_err().to_string();
    assert!(message.contains("503 Service Unavailable"), "{message}");
    assert_eq!(server.requests().len(), 4, "a first time and three more");
    let server = Scripted::new(vec![send("403 Forbidden\r\nContent-Length: 0", vec![])]);
    assert!(home.store.ensure_file(&source(&server.uri()), quiet()).await.is_err());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn slow_server_is_waited_for_and_silent_one_is_not() {
    let home = home();
    let slow: Act = Box::new(|_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n");
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(150));
            let _ = stream.write_all(b"x");
        }
    });
    let server = Scripted::new(vec![slow]);
    let stored = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap();
    assert_eq!(stored.digest, Digest::of("xxxxxxxxxx"), "it takes longer in all than a server may be silent");

    let silent: Act = Box::new(|_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxxx");
        thread::sleep(Duration::from_secs(5));
    });
    let server = Scripted::new(vec![silent, serve(content(), usize::MAX, TAG)]);
    let other = format!("{}/other", server.address);
    assert_eq!(home.store.ensure_file(&source(&other), quiet()).await.unwrap().digest, Digest::of(content()));
}

#[tokio::test]
async fn wrong_lengths_and_contents_keep_nothing_and_a_second_try_succeeds() {
    let body = content();
    let good = sha256(&body);
    let longer = || send("200 OK\r\nContent-Length: 3146241", body.clone());
    let short: Vec<u8> = body[..body.len() - 1].to_vec();
    let shorter = send("200 OK\r\nContent-Length: 3146239", short);
    let mut changed = body.clone();
    changed[5] ^= 1;
    let other = serve(changed, usize::MAX, TAG);
    // Each server is right from its second answer on; a length that is too great is an error of the transfer, and tried again.
    for (wrong, fails) in [(longer(), false), (shorter, true), (other, true)] {
        let home = home();
        let server = Scripted::new(vec![wrong, serve(body.clone(), usize::MAX, TAG)]);
        let source = with_value(&server.uri(), &good);
        if fails {
            let message = home.store.ensure_file(&source, quiet()).await.unwrap_err().to_string();
            assert!(message.contains(&good[7..]) && message.contains("nothing of it was kept"), "{message}");
            assert_eq!((home.kept(), home.partials()), (vec![], 0));
        }
        assert_eq!(home.store.ensure_file(&source, quiet()).await.unwrap().digest, Digest::of(&body));
        assert_eq!(home.partials(), 0);
    }
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let home = home();
    let to = |place: &'static str| -> Act {
        Box::new(move |_, stream| {
            let _ = write!(
                stream,
                "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
            );
        })
    };
    let server = Scripted::new(vec![to("/mirror/disk.raw"), serve(content(), usize::MAX, TAG)]);
    assert_eq!(
        home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap().digest,
        Digest::of(content())
    );
    assert!(server.requests()[1].starts_with("get /mirror/disk.raw "));

    let server = Scripted::new(vec![to("/again")]);
    let message = home.store.ensure_file(&source(&server.uri()), quiet()).await.unwrap_err().to_string();
    assert!(message.contains("redirected more than 10 times"), "{message}");
    let server = Scripted::new(vec![to("file:///etc/passwd")]);
    assert!(home.store.ensure_file(&source(&server.uri()), quiet()).await.is_err());
    assert_eq!(home.kept().len(), 1);
}

fn xz(content: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("xz").args(["-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, content) = (child.stdin.take().unwrap(), content.to_vec());
    let writer = thread::spawn(move || stdin.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

fn unpacked(source: Source) -> Source {
    Source { steps: vec![ResourceStep::Unarchive { member: None }], ..source }
}

#[tokio::test]
async fn what_is_packed_is_unpacked_once_while_it_comes() {
    let home = home();
    let (disk, packed) = (content(), xz(&content()));
    // It comes in two parts, so that it is read along over a break.
    let server = Scripted::new(vec![
        serve(packed.clone(), packed.len() / 2, TAG),
        serve(packed.clone(), usize::MAX, TAG),
    ]);
    let source = unpacked(with_value(&server.uri(), &sha256(&packed)));
    assert_eq!(home.store.known_digest(&source), None, "the checksum is that of the packed file");
    let images =
        futures::future::try_join_all((0..3).map(|_| home.store.ensure(&source, quiet()))).await.unwrap();
    for image in images {
        assert_eq!(
            (image.digest, image.format, image.virtual_size),
            (Digest::of(&disk), Format::Raw, disk.len() as u64)
        );
        assert!(std::fs::read(&image.path).unwrap() == disk);
    }
    assert_eq!(server.requests().len(), 2);
    assert_eq!(home.store.known_digest(&source), Some(Digest::of(&disk)));
    assert_eq!((home.kept().len(), home.partials()), (2, 0));
}

#[tokio::test]
async fn bombs_and_wrong_packed_files_leave_nothing_unpacked() {
    let mut home = home();
    home.store.bounds = Bounds { allowance: 1 << 20, ..Bounds::default() };
    let bomb = xz(&vec![7; 8 << 20]);
    let server = Scripted::new(vec![serve(bomb, usize::MAX, TAG)]);
    let message = home.store.ensure(&unpacked(source(&server.uri())), quiet()).await.unwrap_err().to_string();
    assert!(message.contains("can't unpack") && message.contains("too many for its size"), "{message}");
    assert_eq!(home.partials(), 0);
    assert_eq!(home.kept().len(), 1, "the packed file alone, which is what it should be");

    home.store.bounds = Bounds::default();
    let packed = xz(&content());
    let server = Scripted::new(vec![serve(packed.clone(), usize::MAX, TAG)]);
    let wrong = unpacked(with_value(&server.uri(), &"1".repeat(64)));
    let message = home.store.ensure(&wrong, quiet()).await.unwrap_err().to_string();
    assert!(message.contains("was expected"), "{message}");
    assert_eq!((home.kept().len(), home.partials()), (1, 0));
    let right = unpacked(with_value(&server.uri(), &sha256(&packed)));
    home.store.ensure(&right, quiet()).await.unwrap();
}

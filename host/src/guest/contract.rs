//! What every guest promises, as tests: run against the simulated guest and against a real SSH server.

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use tokio::sync::Notify;

use super::{Captured, Command, Exit, Guest, GuestError, OutputSink, Stream, capture};

/// A guest to test.
pub(super) struct Subject {
    /// An open connection.
    pub(super) guest: Arc<dyn Guest>,
    /// A folder in it in which files can be made.
    pub(super) folder: String,
    /// What has to live as long as the test.
    pub(super) _keep: Box<dyn Any + Send>,
}

/// Makes a test of each promise, run on what the expression gives.
macro_rules! contract_tests {
    ($subject:expr) => {
        $crate::guest::contract::contract_tests! { $subject;
            arguments_arrive_exactly, environment_arrives_exactly, runs_in_the_folder, input_arrives_whole,
            input_that_nobody_reads_does_no_harm, exit_status_is_told, signal_is_told, both_streams_arrive_whole,
            time_out_ends_the_command, what_is_left_unread_holds_up_nothing, dropping_ends_the_command, commands_run_beside_each_other, files_come_back,
            files_that_are_missing_or_too_large, large_files_stream, a_file_that_is_not_finished_leaves_nothing, what_cannot_be_sent_is_refused, closed_is_disconnected,
        }
    };
    ($subject:expr; $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::guest::contract::$name($subject.await).await;
            }
        )*
    };
}
pub(super) use contract_tests;

/// A program that is not there.
pub(super) const MISSING: &str = "farmhand-no-such-program";
/// A shell text that fills both streams with [`MANY`] bytes each.
pub(super) const FILL: &str = "head -c 6000000 /dev/zero & head -c 6000000 /dev/zero >&2; wait";
const MANY: usize = 6_000_000;

async fn run(guest: &dyn Guest, command: Command) -> Captured {
    capture(guest, &command, 64 << 20).await.unwrap()
}

pub(super) async fn arguments_arrive_exactly(subject: Subject) {
    let arguments = [
        "",
        " a  b ",
        "'",
        "\"",
        "`id`$(id)$HOME${x}",
        "\\",
        "a\nb\n",
        "*?[]{}~#&|;<>()!",
        "-n",
        "ä€😀",
        "\r\t\u{1}",
    ];
    let mut argv = vec!["printf", "[%s]"];
    argv.extend(arguments);
    let output = run(&*subject.guest, Command::new(argv)).await;
    let expected: String = arguments.map(|argument| format!("[{argument}]")).concat();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!((output.exit, output.stderr), (Exit::Status(0), vec![]));
}

pub(super) async fn environment_arrives_exactly(subject: Subject) {
    let value = "a 'b' \"c\" $d\n\\e ä";
    let env = vec![("FARMHAND_TEST".to_owned(), value.to_owned())];
    let command = Command { env, ..Command::new(["printenv", "FARMHAND_TEST"]) };
    assert_eq!(String::from_utf8(run(&*subject.guest, command).await.stdout).unwrap(), format!("{value}\n"));
}

pub(super) async fn runs_in_the_folder(subject: Subject) {
    let command = Command { cwd: Some("/usr/bin".into()), ..Command::new(["pwd"]) };
    assert_eq!(run(&*subject.guest, command).await.stdout, b"/usr/bin\n");
}

pub(super) async fn input_arrives_whole(subject: Subject) {
    let stdin: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let command = Command { stdin: stdin.clone(), ..Command::new(["cat"]) };
    let output = run(&*subject.guest, command).await;
    assert!(output.stdout == stdin, "{} of {} bytes, or others", output.stdout.len(), stdin.len());
}

pub(super) async fn input_that_nobody_reads_does_no_harm(subject: Subject) {
    let command = Command { stdin: vec![b'x'; 5_000_000], ..Command::new(["true"]) };
    assert_eq!(run(&*subject.guest, command).await.exit, Exit::Status(0));
}

pub(super) async fn exit_status_is_told(subject: Subject) {
    for (argv, status) in [(vec!["sh", "-c", "exit 3"], 3), (vec!["true"], 0), (vec![MISSING], 127)] {
        let output = run(&*subject.guest, Command::new(argv.clone())).await;
        assert_eq!(output.exit, Exit::Status(status), "{argv:?}");
    }
}

pub(super) async fn signal_is_told(subject: Subject) {
    let output = run(&*subject.guest, Command::new(["sh", "-c", "kill -KILL $$"])).await;
    assert_eq!(output.exit, Exit::Signal("KILL".into()));
}

pub(super) async fn both_streams_arrive_whole(subject: Subject) {
    let output = run(&*subject.guest, Command::new(["sh", "-c", FILL])).await;
    assert_eq!((output.stdout.len(), output.stderr.len(), output.exit), (MANY, MANY, Exit::Status(0)));
}

pub(super) async fn time_out_ends_the_command(subject: Subject) {
    let limit = Duration::from_millis(500);
    let command = Command { timeout: Some(limit), ..Command::new(["sleep", "30"]) };
    let result = capture(&*subject.guest, &command, 0).await;
    assert!(matches!(result, Err(GuestError::TimedOut(told)) if told == limit), "{result:?}");
    // The connection serves on.
    assert_eq!(run(&*subject.guest, Command::new(["true"])).await.exit, Exit::Status(0));
}

pub(super) async fn what_is_left_unread_holds_up_nothing(subject: Subject) {
    let guest = &subject.guest;
    let commands = vec![Command::new(["sh", "-c", FILL]); 3];
    let mut unread = Vec::new();
    for command in &commands {
        let (begun, mut output) = First::new();
        let mut running = Box::pin(async move {
            guest.apart().await?.unwrap_or_else(|| guest.clone()).exec(command, &mut output).await
        });
        tokio::select! {
            ended = &mut running => drop(ended.unwrap()),
            () = begun.notified() => unread.push(running),
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let command = Command::new(["true"]);
    let mut output = Discard;
    let other = tokio::time::timeout(Duration::from_secs(10), guest.exec(&command, &mut output));
    assert_eq!(other.await.unwrap().unwrap(), Exit::Status(0));
    // They go on where they were left.
    for running in unread {
        assert_eq!(running.await.unwrap(), Exit::Status(0));
    }
}

pub(super) async fn dropping_ends_the_command(subject: Subject) {
    // More than the connection has channels: those of dropped commands must be free again.
    for _ in 0..12 {
        let command = Command::new(["sleep", "30"]);
        let mut output = Discard;
        let running = subject.guest.exec(&command, &mut output);
        tokio::time::timeout(Duration::from_millis(100), running).await.unwrap_err();
    }
    assert_eq!(run(&*subject.guest, Command::new(["true"])).await.exit, Exit::Status(0));
}

pub(super) async fn commands_run_beside_each_other(subject: Subject) {
    let guest = &*subject.guest;
    let commands = (0..30u8).map(|i| async move {
        let stdin = vec![i; 50_000];
        let output = run(guest, Command { stdin: stdin.clone(), ..Command::new(["cat"]) }).await;
        assert_eq!(output.stdout, stdin);
    });
    join_all(commands).await;
}

pub(super) async fn files_come_back(subject: Subject) {
    let path = format!("{}/a file's name", subject.folder);
    for (content, mode, shown) in
        [(&b"\0\xff'\n"[..], 0o640, "640\n"), (&[b'x'; 200_000], 0o755, "755\n"), (b"", 0o600, "600\n")]
    {
        subject.guest.write_file(&path, content, mode, false).await.unwrap();
        assert_eq!(subject.guest.read_file(&path, 200_000, false).await.unwrap(), content);
        let output = run(&*subject.guest, Command::new(["stat", "-c", "%a", &path])).await;
        assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
    }
}

pub(super) async fn files_that_are_missing_or_too_large(subject: Subject) {
    let path = format!("{}/file", subject.folder);
    let result = subject.guest.read_file(&path, 10, false).await;
    let Err(GuestError::File { path: told, message }) = result else { panic!("{result:?}") };
    assert_eq!(told, path);
    assert!(message.contains("No such file"), "{message}");
    subject.guest.write_file(&path, b"0123456789", 0o600, false).await.unwrap();
    assert_eq!(subject.guest.read_file(&path, 10, false).await.unwrap(), b"0123456789");
    let result = subject.guest.read_file(&path, 9, false).await;
    assert!(matches!(result, Err(GuestError::TooLarge { max_size: 9, .. })), "{result:?}");
}

pub(super) async fn large_files_stream(subject: Subject) {
    let path = format!("{}/large", subject.folder);
    let guest = &*subject.guest;
    let pieces: Vec<Bytes> =
        (0..50u32).map(|i| Bytes::from(vec![i as u8; 90_000 + (i as usize) * 333])).collect();
    let whole = pieces.concat();
    guest.stream_to_file(&path, &mut stream::iter(pieces), 0o600, false).await.unwrap();
    let read = async |max_size: usize| {
        let (mut content, mut count) = (Vec::new(), 0);
        let mut sink = |piece: &[u8]| {
            assert!(!piece.is_empty());
            content.extend_from_slice(piece);
            count += 1;
        };
        let ended = guest.stream_from_file(&path, max_size as u64, false, &mut sink).await;
        (ended, content, count)
    };
    let (ended, content, count) = read(whole.len()).await;
    ended.unwrap();
    assert!(content == whole, "{} of {} bytes, or others", content.len(), whole.len());
    assert!(count > 1, "it came at once");
    let (ended, content, _) = read(100_000).await;
    assert!(matches!(ended, Err(GuestError::TooLarge { max_size: 100_000, .. })), "{ended:?}");
    assert!(content == whole[..100_000], "{} bytes", content.len());
}

pub(super) async fn a_file_that_is_not_finished_leaves_nothing(subject: Subject) {
    let guest = &*subject.guest;
    let path = format!("{}/file", subject.folder);
    guest.write_file(&path, b"as it was", 0o600, false).await.unwrap();
    let mut content = stream::iter([Bytes::from(vec![b'x'; 100_000])]).chain(stream::pending());
    let writing = guest.stream_to_file(&path, &mut content, 0o600, false);
    tokio::time::timeout(Duration::from_millis(300), writing).await.unwrap_err();
    let list = || run(guest, Command::new(["ls", "-A", &subject.folder]));
    let mut left = list().await.stdout;
    for _ in 0..100 {
        if left == b"file\n" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = list().await.stdout;
    }
    assert_eq!(String::from_utf8(left).unwrap(), "file\n");
    assert_eq!(guest.read_file(&path, 100, false).await.unwrap(), b"as it was");
}

pub(super) async fn what_cannot_be_sent_is_refused(subject: Subject) {
    let commands = [
        Command::default(),
        Command::new(["a\0"]),
        Command::new(["-c"]),
        Command { env: vec![("A=B".into(), "".into())], ..Command::new(["true"]) },
    ];
    for command in commands {
        let result = capture(&*subject.guest, &command, 0).await;
        assert!(matches!(result, Err(GuestError::Invalid(_))), "{result:?}");
    }
}

pub(super) async fn closed_is_disconnected(subject: Subject) {
    let waiting = Command::new(["sleep", "30"]);
    let (mut output, guest) = (Discard, subject.guest.clone());
    let running = std::pin::pin!(guest.exec(&waiting, &mut output));
    let running = started(running).await;
    subject.guest.close().await;
    assert!(matches!(running.await, Err(GuestError::Disconnected(_))));
    let result = capture(&*subject.guest, &Command::new(["true"]), 0).await;
    assert!(matches!(result, Err(GuestError::Disconnected(_))), "{result:?}");
}

/// Gives a command time to start.
async fn started<F: Future + Unpin>(mut running: F) -> F
where
    F::Output: std::fmt::Debug,
{
    tokio::time::timeout(Duration::from_millis(300), &mut running).await.unwrap_err();
    running
}

/// Tells when the first output comes.
pub(super) struct First(Arc<Notify>);

impl First {
    pub(super) fn new() -> (Arc<Notify>, Self) {
        let begun = Arc::new(Notify::new());
        (begun.clone(), Self(begun))
    }
}

impl OutputSink for First {
    fn write(&mut self, _: Stream, _: &[u8]) {
        self.0.notify_one();
    }
}

struct Discard;

impl OutputSink for Discard {
    fn write(&mut self, _: Stream, _: &[u8]) {}
}

mod simulated {
    use super::*;
    use crate::{
        base::{Become, BecomeMethod, Login},
        guest::{
            Connector as _, Endpoint,
            simulated::{Answer, SimulatedConnector, SimulatedGuest},
        },
    };

    fn shell(text: &'static str) -> impl Fn(&Command) -> bool {
        move |command| command.argv.iter().map(String::as_str).eq(["sh", "-c", text])
    }

    fn program(name: &'static str) -> impl Fn(&Command) -> bool {
        move |command| command.argv[0] == name
    }

    /// A guest that knows the programs which the contract uses.
    async fn subject() -> Subject {
        let guest = SimulatedGuest::new();
        guest.on_any(program("printf"), |command, _| {
            Answer::ok()
                .stdout(command.argv[2..].iter().map(|argument| format!("[{argument}]")).collect::<String>())
        });
        guest
            .on_any(program("printenv"), |command, _| Answer::ok().stdout(format!("{}\n", command.env[0].1)));
        guest.on_any(program("pwd"), |command, _| {
            Answer::ok().stdout(format!("{}\n", command.cwd.as_deref().unwrap()))
        });
        guest.on_any(program("cat"), |command, _| Answer::ok().stdout(command.stdin.clone()));
        guest.on_any(program("stat"), |command, files| {
            Answer::ok().stdout(format!("{:o}\n", files[&command.argv[3]].mode))
        });
        guest.on_any(program("ls"), |command, files| {
            let folder = format!("{}/", command.argv[2]);
            let names = files.keys().filter_map(|path| path.strip_prefix(&folder));
            Answer::ok().stdout(names.map(|name| format!("{name}\n")).collect::<String>())
        });
        guest.on(["true"], Answer::ok());
        guest.on_any(program("sleep"), |_, _| Answer::hang());
        guest.on_any(shell("exit 3"), |_, _| Answer::status(3));
        guest.on_any(shell("kill -KILL $$"), |_, _| Answer::signal("KILL"));
        guest.on_any(shell(FILL), |_, _| Answer::ok().stdout(vec![0; MANY]).stderr(vec![0; MANY]));
        let connector = SimulatedConnector::new();
        connector.add("simulated", 22, &guest);
        let endpoint = Endpoint { host: "simulated".into(), port: 22, jump: None, host_key: None };
        let r#become = Become { method: BecomeMethod::Sudo, user: "root".into(), password: None };
        let login = Login { user: "tester".into(), credentials: vec![], r#become };
        let connection = connector.connect(&endpoint, &login, Duration::from_secs(1)).await.unwrap();
        Subject { guest: connection.guest, folder: "/tmp".into(), _keep: Box::new(guest) }
    }

    contract_tests!(subject());
}

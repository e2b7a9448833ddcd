//! Against a real SSH server.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    SshConnector,
    testing::{Sshd, TestUser, becoming, current_user, is_root, processes, run},
};
use crate::{
    base::{BecomeMethod, Credential, Login, Secret},
    guest::{
        Captured, Command, Connector as _, Endpoint, Exit, Guest, GuestError, capture,
        contract::{First, Subject, contract_tests},
        facts,
    },
};

/// A process argument that no other process has.
fn unique() -> String {
    format!("1000.{}", uuid::Uuid::new_v4().as_u128())
}

async fn shell(guest: &dyn Guest, text: &str) -> Captured {
    capture(guest, &Command::new(["sh", "-c", text]), 1 << 20).await.unwrap()
}

/// Waits until no process has `text` in its arguments. Fails after some time: an ended command must go.
async fn gone(text: &str) {
    for _ in 0..300 {
        if processes(text) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the process is still there");
}

/// Waits until a process has `text` in its arguments.
async fn there(text: &str) {
    for _ in 0..300 {
        if processes(text) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the process never came");
}

mod contract {
    use super::*;

    async fn subject() -> Subject {
        let sshd = Sshd::start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        Subject { guest: sshd.connect().await.guest, folder: path, _keep: Box::new((sshd, folder)) }
    }

    contract_tests!(subject());
}

mod connecting {
    use super::*;

    fn login(sshd: &Sshd) -> Login {
        sshd.key_login(&current_user(), becoming(BecomeMethod::Sudo, "root", None))
    }

    #[tokio::test]
    async fn the_first_connection_takes_the_key_and_later_ones_insist_on_it() {
        let sshd = Sshd::start();
        let first = sshd.connect().await.host_key;
        assert_eq!(first, sshd.host_key("ed25519"), "ed25519 is preferred");
        for kind in ["ed25519", "rsa"] {
            let pinned = sshd.host_key(kind);
            let endpoint = Endpoint { host_key: Some(pinned.clone()), ..sshd.endpoint() };
            let connection =
                SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(30)).await.unwrap();
            assert_eq!(connection.host_key, pinned);
        }
    }

    #[tokio::test]
    async fn another_host_key_is_refused_at_once() {
        let (sshd, other) = (Sshd::start(), Sshd::start());
        let folder = tempfile::tempdir().unwrap();
        let ecdsa = folder.path().join("k").to_str().unwrap().to_owned();
        run("ssh-keygen", &["-q", "-t", "ecdsa", "-N", "", "-f", &ecdsa], "");
        let ecdsa = fs::read_to_string(format!("{ecdsa}.pub")).unwrap();
        for pinned in [other.host_key("ed25519"), other.host_key("rsa"), ecdsa] {
            let endpoint = Endpoint { host_key: Some(pinned.clone()), ..sshd.endpoint() };
            let result = SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(3600)).await;
            let Err(GuestError::HostKeyChanged { found, pinned: told, .. }) = result else {
                panic!("{pinned}")
            };
            let fingerprint = run("ssh-keygen", &["-l", "-f", "-"], &pinned);
            assert!(told.starts_with("SHA256:") && fingerprint.contains(&told), "{told} {fingerprint}");
            assert!(found.starts_with("SHA256:") || found.starts_with("of another type"), "{found}");
            assert_ne!(found, told);
        }
    }

    #[tokio::test]
    async fn a_refused_login_ends_it_at_once_and_names_what_was_tried() {
        let (sshd, other) = (Sshd::start(), Sshd::start());
        let mut login = login(&sshd);
        login.credentials =
            vec![Credential::Key(other.key()), Credential::Password(Secret::new("wrong-s3cret"))];
        let result = SshConnector.connect(&sshd.endpoint(), &login, Duration::from_secs(3600)).await;
        let Err(error @ GuestError::LoginRefused { .. }) = result else { panic!() };
        let text = error.to_string();
        assert!(text.contains(other.key().as_str()) && text.contains("password"), "{text}");
        assert!(!text.contains("s3cret") && !format!("{error:?}").contains("s3cret"));
        // The next one in order is tried after it.
        login.credentials = vec![Credential::Key(other.key()), Credential::Key(sshd.key())];
        sshd.connect_as(&login).await.unwrap();
    }

    #[tokio::test]
    async fn keys_that_cannot_be_used_are_named() {
        let sshd = Sshd::start();
        let (locked, rsa) = (sshd.path("locked"), sshd.path("rsa"));
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "passphrase", "-f", locked.as_str()], "");
        for (path, words) in [
            (locked, "passphrase"),
            (sshd.path("missing"), "No such file"),
            (sshd.path("sshd_config"), "not a private key"),
        ] {
            let mut login = login(&sshd);
            login.credentials = vec![Credential::Key(path.clone())];
            let Err(GuestError::Key { path: told, message }) = sshd.connect_as(&login).await else {
                panic!()
            };
            assert_eq!(told, path);
            assert!(message.contains(words), "{message}");
        }
        run("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa.as_str()], "");
        fs::copy(format!("{rsa}.pub"), sshd.path("authorized_keys")).unwrap();
        let mut login = login(&sshd);
        login.credentials = vec![Credential::Key(rsa)];
        sshd.connect_as(&login).await.unwrap();
    }

    /// What a user-mode network does after a revert: the first connection hangs, the next one is answered.
    #[tokio::test]
    async fn a_connection_that_hangs_is_given_up_for_a_second_one() {
        let sshd = Sshd::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { port: listener.local_addr().unwrap().port(), ..sshd.endpoint() };
        let port = sshd.port;
        let network = tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            let (mut second, _) = listener.accept().await.unwrap();
            let mut said = vec![];
            let mut guest = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let serve = copy_bidirectional(&mut second, &mut guest);
            let (read, _) = tokio::join!(first.read_to_end(&mut said), serve);
            read.unwrap();
            said
        });
        let connection =
            SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(60)).await.unwrap();
        connection.guest.close().await;
        drop(connection);
        let said = network.await.unwrap();
        assert!(said.starts_with(b"SSH-2.0-"), "the client speaks first, and its end closes the connection");
    }

    /// An emulated guest: its first word comes after a second or so, and the key exchange takes as long again.
    #[tokio::test]
    async fn a_slow_guest_is_waited_for() {
        let sshd = Sshd::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { port: listener.local_addr().unwrap().port(), ..sshd.endpoint() };
        let port = sshd.port;
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let guest = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_guest, mut to_guest) = guest.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_guest).await });
                    let mut buffer = vec![0; 64 << 10];
                    // Its first words come one at a time.
                    for answer in 0.. {
                        let Ok(count @ 1..) = from_guest.read(&mut buffer).await else { break };
                        if answer < 4 {
                            tokio::time::sleep(Duration::from_millis(800)).await;
                        }
                        if to_client.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let connection =
            SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(60)).await.unwrap();
        assert_eq!(shell(&*connection.guest, "echo ok").await.stdout, b"ok\n");
    }

    #[tokio::test]
    async fn a_guest_that_is_not_there_is_tried_until_the_limit() {
        let sshd = Sshd::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut endpoint = Endpoint { port, ..sshd.endpoint() };
        for words in ["no word from it", "refused"] {
            let result = SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(3)).await;
            let Err(GuestError::Unreachable { message, address, .. }) = result else { panic!() };
            assert!(message.contains(words), "{message}");
            assert_eq!(address, format!("127.0.0.1:{}", endpoint.port));
            endpoint.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        }
    }

    #[tokio::test]
    async fn a_guest_that_comes_up_late_is_found() {
        let sshd = Sshd::start();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint { port: free.local_addr().unwrap().port(), ..sshd.endpoint() };
        drop(free);
        let (address, port) = (("127.0.0.1", endpoint.port), sshd.port);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let listener = TcpListener::bind(address).await.unwrap();
            let (mut client, _) = listener.accept().await.unwrap();
            let mut guest = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            copy_bidirectional(&mut client, &mut guest).await
        });
        SshConnector.connect(&endpoint, &login(&sshd), Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_connection_is_told() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        // The parent of the command's shell is the server's process for this connection.
        let command = Command::new(["sh", "-c", "kill -KILL $PPID; sleep 30"]);
        let result = timeout(Duration::from_secs(30), capture(&*guest, &command, 0)).await.unwrap();
        assert!(matches!(result, Err(GuestError::Disconnected(_))), "{result:?}");
    }

    #[tokio::test]
    async fn dropping_the_guest_ends_the_connection() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let output = shell(&*guest, "echo $PPID").await.stdout;
        let server = format!("/proc/{}", String::from_utf8(output).unwrap().trim());
        assert!(fs::exists(&server).unwrap());
        drop(guest);
        for _ in 0..300 {
            if !fs::exists(&server).unwrap() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the connection is still open");
    }
}

mod ending {
    use super::*;

    #[tokio::test]
    async fn after_its_time_out_a_command_is_gone_with_its_children_even_when_it_takes_no_term() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let mark = unique();
        let text = format!("trap '' TERM; sleep {mark} & sleep {mark}; sleep {mark}");
        let command = Command { timeout: Some(Duration::from_secs(1)), ..Command::new(["sh", "-c", &text]) };
        let result = capture(&*guest, &command, 0).await;
        assert!(matches!(result, Err(GuestError::TimedOut(_))), "{result:?}");
        gone(&mark).await;
    }

    #[tokio::test]
    async fn term_comes_first() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let (folder, mark) = (tempfile::tempdir().unwrap(), unique());
        let file = folder.path().join("ended");
        let text =
            format!("trap 'echo in order >{}; exit' TERM; sleep {mark} & wait", file.to_str().unwrap());
        let command = Command { timeout: Some(Duration::from_secs(1)), ..Command::new(["sh", "-c", &text]) };
        capture(&*guest, &command, 0).await.unwrap_err();
        gone(&mark).await;
        assert_eq!(fs::read_to_string(file).unwrap(), "in order\n");
    }

    #[tokio::test]
    async fn a_command_that_is_no_longer_waited_for_is_gone() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let mark = unique();
        let task = tokio::spawn({
            let (guest, mark) = (guest.clone(), mark.clone());
            async move { capture(&*guest, &Command::new(["sleep", &mark]), 0).await }
        });
        there(&mark).await;
        task.abort();
        gone(&mark).await;
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_output_open_is_not_waited_for_and_lives_on() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let mark = unique();
        let output =
            timeout(Duration::from_secs(60), shell(&*guest, &format!("sleep {mark} & echo started")))
                .await
                .unwrap();
        assert_eq!((output.exit, output.stdout.as_slice()), (Exit::Status(0), &b"started\n"[..]));
        assert_eq!(processes(&mark), 1);
        shell(&*guest, &format!("pkill -f 'sleep {mark}'")).await;
    }

    /// What nobody reads holds up the whole connection, and with it what would end the command.
    #[tokio::test]
    async fn a_command_that_was_left_unread_is_gone_when_it_is_dropped() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let mark = unique();
        let command = Command::new(["yes", &mark]);
        let (begun, mut output) = First::new();
        {
            let mut running = guest.exec(&command, &mut output);
            tokio::select! {
                ended = &mut running => panic!("{ended:?}"),
                () = begun.notified() => {}
            }
            // More comes meanwhile than the connection keeps.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let dropped = Instant::now();
        gone(&mark).await;
        assert!(dropped.elapsed() < Duration::from_secs(2), "{:?}", dropped.elapsed());
        assert_eq!(shell(&*guest, "echo ok").await.stdout, b"ok\n");
    }

    #[tokio::test]
    async fn more_output_than_is_kept_flows_past() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let output =
            capture(&*guest, &Command::new(["head", "-c", "300000000", "/dev/zero"]), 1000).await.unwrap();
        assert_eq!((output.stdout.len(), output.truncated, output.exit), (1000, true, Exit::Status(0)));
    }
}

/// The promises that need many channels, kept with a server that has few.
#[tokio::test]
async fn a_server_with_few_sessions_serves_many_commands() {
    let sshd = Sshd::with("UsePAM no\nPasswordAuthentication no\nMaxSessions 3\n");
    let guest = sshd.connect().await.guest;
    let subject = Subject { guest, folder: String::new(), _keep: Box::new(sshd) };
    crate::guest::contract::commands_run_beside_each_other(subject).await;
}

mod files {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_behind_where_a_file_cannot_be_written() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        for (target, words) in [
            (path.to_owned(), "Is a directory"),
            (format!("{path}/missing/file"), "No such file"),
            (format!("{path}/new/"), ""),
        ] {
            let result = guest.write_file(&target, b"content", 0o600, false).await;
            let Err(GuestError::File { message, .. }) = result else { panic!("{target}: {result:?}") };
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        let result = guest.read_file(path, 10, false).await;
        assert!(matches!(result, Err(GuestError::File { .. })), "{result:?}");
        let result = guest.read_file("/dev/zero", 10, false).await;
        assert!(matches!(result, Err(GuestError::TooLarge { .. })), "{result:?}");
        assert!(matches!(guest.read_file("", 10, false).await, Err(GuestError::Invalid(_))));
    }

    #[tokio::test]
    async fn names_that_look_like_options_are_files_in_the_home_folder() {
        let sshd = Sshd::start();
        let guest = sshd.connect().await.guest;
        let name = format!("-farmhand-test-{}", unique());
        guest.write_file(&name, b"content", 0o600, false).await.unwrap();
        assert_eq!(guest.read_file(&name, 10, false).await.unwrap(), b"content");
        let home = shell(&*guest, "pwd").await.stdout;
        fs::remove_file(format!("{}/{name}", String::from_utf8(home).unwrap().trim())).unwrap();
    }
}

#[tokio::test]
async fn facts_of_this_system() {
    let sshd = Sshd::start();
    let facts = facts::probe(&*sshd.connect().await.guest).await.unwrap();
    assert_eq!(facts.architecture, run("uname", &["-m"], "").trim());
    assert_eq!(facts.kernel, run("uname", &["-r"], "").trim());
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert!(release.contains(&facts.os_pretty_name), "{facts:?}");
}

/// The clock itself is left alone: `date` is one that only writes down how it was called.
#[tokio::test]
async fn clock_is_set_with_the_words_that_busybox_knows() {
    use crate::guest::{clock::set_clock, simulated};
    let guest = simulated::SimulatedGuest::new();
    let connector = simulated::SimulatedConnector::new();
    connector.add("g", 22, &guest);
    let endpoint = Endpoint { host: "g".into(), port: 22, jump: None, host_key: None };
    let login = Login {
        user: "root".into(),
        credentials: vec![],
        r#become: becoming(BecomeMethod::Sudo, "root", None),
    };
    let connection = connector.connect(&endpoint, &login, Duration::ZERO).await.unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_999);
    set_clock(&*connection.guest, now).await.unwrap();
    let calls = guest.calls();
    assert_eq!(calls[0].argv, ["date", "-u", "-s", "@1234567890"]);
    assert!(calls[0].r#become);
    // Both programs read those words; without the right to set the clock they print the time and fail, or say so.
    for program in [&["date"][..], &["busybox", "date"]] {
        let output = std::process::Command::new(program[0])
            .args(&program[1..])
            .args(["-u", "-d", "@1234567890"])
            .output()
            .unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("23:31:30"));
    }
    guest.on_any(
        |command| command.argv[0] == "date",
        |_, _| simulated::Answer::status(1).stderr("date: not permitted\n"),
    );
    let error = set_clock(&*connection.guest, now).await.unwrap_err();
    assert!(error.to_string().contains("not permitted"), "{error}");
}

mod hostile;
mod through;
mod users;

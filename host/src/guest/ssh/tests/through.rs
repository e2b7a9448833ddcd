//! Guests behind another host.

use super::*;
use crate::guest::{Jump, Way};

/// A host to go through that greets whoever comes, and the way through it.
fn gate(sockets: &tempfile::TempDir) -> (Sshd, Jump) {
    let banner = sockets.path().join("banner");
    fs::write(&banner, "Authorized uses only.\n").unwrap();
    let config = format!("UsePAM no\nPasswordAuthentication no\nBanner {}\n", banner.display());
    let sshd = Sshd::with(&config);
    let uri = format!(
        "qemu+ssh://{}@127.0.0.1:{}/system?keyfile={}&known_hosts=/dev/null&no_verify=1",
        current_user(),
        sshd.port,
        sshd.key()
    );
    let way = Way::to(&uri, None, sockets.path().to_str().unwrap().into());
    let jump = way.jump().unwrap().clone();
    (sshd, jump)
}

async fn connect(endpoint: &Endpoint, guest: &Sshd, limit: Duration) -> Result<(), GuestError> {
    let login = guest.key_login(&current_user(), becoming(BecomeMethod::Sudo, "root", None));
    let connection = SshConnector.connect(endpoint, &login, limit).await?;
    assert_eq!(shell(&*connection.guest, "echo ok").await.stdout, b"ok\n");
    Ok(())
}

/// Whatever the way's host has to say, its banner and OpenSSH's warnings are no reason why it can't be gone through.
#[tokio::test]
async fn a_guest_that_is_not_up_yet_is_waited_for() {
    let sockets = tempfile::tempdir().unwrap();
    let ((_gate, jump), guest) = (gate(&sockets), Sshd::start());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest_port = guest.port;
    tokio::spawn(async move {
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut guest = TcpStream::connect(("127.0.0.1", guest_port)).await.unwrap();
                copy_bidirectional(&mut client, &mut guest).await
            });
        }
    });
    let endpoint = Endpoint { port, jump: Some(jump), ..guest.endpoint() };
    connect(&endpoint, &guest, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_tried_until_the_limit() {
    let sockets = tempfile::tempdir().unwrap();
    let ((_gate, jump), guest) = (gate(&sockets), Sshd::start());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = Endpoint { port, jump: Some(jump), ..guest.endpoint() };
    let failed = connect(&endpoint, &guest, Duration::from_secs(3)).await;
    let Err(GuestError::Unreachable { message, .. }) = failed else { panic!("{failed:?}") };
    assert!(message.contains("forwarding"), "{message}");
}

#[tokio::test]
async fn a_way_that_leads_nowhere_is_told_at_once() {
    let sockets = tempfile::tempdir().unwrap();
    let ((gate, jump), guest) = (gate(&sockets), Sshd::start());
    fs::write(gate.path("authorized_keys"), "").unwrap();
    let endpoint = Endpoint { jump: Some(jump.clone()), ..guest.endpoint() };
    let failed = connect(&endpoint, &guest, Duration::from_secs(3600)).await;
    let Err(GuestError::Jump { message, .. }) = failed else { panic!("{failed:?}") };
    assert!(message.contains("Permission denied"), "{message}");
    drop(gate);
    let failed = connect(&endpoint, &guest, Duration::from_secs(3600)).await;
    let Err(GuestError::Jump { message, .. }) = failed else { panic!("{failed:?}") };
    assert!(message.contains("refused"), "{message}");
}

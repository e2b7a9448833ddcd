//! Guests whose SSH server is after farmhand.

use std::sync::Arc;

use russh::{
    Error, keys,
    server::{self, Auth},
};
use tokio::sync::Notify;

use super::*;
use crate::guest::keypair::ensure_login_key;

/// A server that lets everybody in.
struct Open(Arc<Notify>);

impl server::Handler for Open {
    type Error = Error;

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, Error> {
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _: &mut server::Session) -> Result<(), Error> {
        self.0.notify_one();
        Ok(())
    }
}

#[tokio::test]
async fn a_guest_opens_no_channels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host").to_str().unwrap().to_owned();
    ensure_login_key(path.as_str().into()).unwrap();
    let key = keys::decode_secret_key(&fs::read_to_string(&path).unwrap(), None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let entered = Arc::new(Notify::new());
    let serving = tokio::spawn({
        let entered = entered.clone();
        async move {
            let (stream, _) = listener.accept().await.unwrap();
            let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
            let running = server::run_stream(config, stream, Open(entered)).await.unwrap();
            (running.handle(), running)
        }
    });
    let endpoint = Endpoint { host: "127.0.0.1".into(), port, jump: None, host_key: None };
    let r#become = becoming(BecomeMethod::Sudo, "root", None);
    let credentials = vec![Credential::Password(Secret::new("any"))];
    let login = Login { user: "tester".into(), credentials, r#become };
    let connection = SshConnector.connect(&endpoint, &login, Duration::from_secs(30)).await.unwrap();
    entered.notified().await;
    let (server, _running) = serving.await.unwrap();
    for refused in [
        server.channel_open_session().await,
        server.channel_open_agent().await,
        server.channel_open_x11("host", 1).await,
        server.channel_open_direct_tcpip("host", 1, "host", 1).await,
        server.channel_open_direct_streamlocal("/socket").await,
        server.channel_open_forwarded_tcpip("host", 1, "host", 1).await,
        server.channel_open_forwarded_streamlocal("/socket").await,
    ] {
        assert!(matches!(refused, Err(Error::ChannelOpenFailure(_))), "{:?}", refused.err());
    }
    connection.guest.close().await;
}

//! Connecting: tries until the guest can be reached.

use std::{borrow::Cow, io, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::select_ok;
use russh::{
    AlgorithmKind, Preferred,
    client::{Config, Handle, connect_stream},
    keys::{Algorithm, HashAlg, PublicKey},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    client::{Client, ClientError, Notes, fingerprint},
    guest::{Link, SshGuest},
    login::{Outcome, Proof, log_in, proofs},
    stream::{Carrier, KeepOpen, WatchedStream},
    through::{self, Complaint},
};
use crate::{
    base::Login,
    guest::{Connection, Connector, Endpoint, GuestError, one_line},
};

/// When a connection has brought no word for this long, a second one is made beside it. The first packet after a revert is lost
/// in a user-mode network, and its connection hangs, while the next one is answered, however soon it comes.
const KNOCK_AGAIN: Duration = Duration::from_millis(60);
/// The same for a connection through another host, which has to start an SSH client and log in there first.
const KNOCK_AGAIN_THROUGH: Duration = Duration::from_millis(500);
/// How long the first try waits for the guest's first word. Just after a revert an emulated guest, which has to translate its
/// code anew, needs half a second for it, and more when the host is busy.
const FIRST_SILENCE: Duration = Duration::from_secs(2);
/// Each further try waits twice as long, up to this: an emulated guest that is booting may need seconds.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// How long the key exchange may take once the guest has spoken, and then the login. Both take seconds in an emulated guest,
/// and PAM may delay a login.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The pause before the second try, and the longest: each is twice as long as the one before. A try counts as part of its pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A guest that says nothing is asked for a sign of life this often, and given up after the fourth time.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES: usize = 3;
/// The same for a guest that no longer takes what is sent to it: the kernel gives up after this.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Opens SSH connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct SshConnector;

/// Why a try failed.
enum Failure {
    /// Another try would fail as well.
    Final(GuestError),
    /// The guest may not be up yet.
    Again(String),
}

#[async_trait]
impl Connector for SshConnector {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        limit: Duration,
    ) -> Result<Connection, GuestError> {
        let (link, host_key) = connect(endpoint, login, limit).await?;
        let endpoint = Endpoint { host_key: Some(host_key.clone()), ..endpoint.clone() };
        Ok(Connection { guest: Arc::new(SshGuest::new(link, endpoint)), host_key })
    }
}

/// Tries until there is a connection. Gives the host key that the guest has shown, too.
pub(super) async fn connect(
    endpoint: &Endpoint,
    login: &Login,
    limit: Duration,
) -> Result<(Arc<Link>, String), GuestError> {
    let start = Instant::now();
    let attempt = Attempt::new(endpoint, login).await?;
    let mut silence = if endpoint.jump.is_some() { LONGEST_SILENCE } else { FIRST_SILENCE };
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let tried = Instant::now();
        // What the last try said tells more than that there was no time for another.
        match timeout_at(start + limit, attempt.run(silence)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::Again(message))) => last = Some(message),
            Err(_) => {}
        }
        let next = tried + pause;
        if next.max(Instant::now()) >= start + limit {
            let message = last.unwrap_or_else(|| "it did not answer".into());
            return Err(GuestError::Unreachable {
                address: attempt.address,
                waited: start.elapsed(),
                message,
            });
        }
        sleep_until(next).await;
        silence = (silence * 2).min(LONGEST_SILENCE);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A connection on which the guest has spoken, in the middle of its key exchange.
struct Spoken {
    connecting: Connecting,
    keep_open: KeepOpen,
    notes: Arc<Notes>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Handle<Client>, ClientError>> + Send>>;

/// What every try needs.
struct Attempt {
    endpoint: Endpoint,
    address: String,
    login: Login,
    pinned: Option<PublicKey>,
    proofs: Vec<Proof>,
    config: Arc<Config>,
}

impl Attempt {
    async fn new(endpoint: &Endpoint, login: &Login) -> Result<Self, GuestError> {
        let pinned = match &endpoint.host_key {
            None => None,
            Some(line) => Some(PublicKey::from_openssh(line).map_err(|error| {
                GuestError::Invalid(format!(
                    "the pinned host key is not a public key in OpenSSH's form ({error})"
                ))
            })?),
        };
        let mut preferred = Preferred::DEFAULT;
        if let Some(key) = &pinned {
            preferred.key = Cow::Owned(algorithms(key));
        }
        let config = Config {
            preferred,
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: KEEPALIVES,
            nodelay: true,
            ..Config::default()
        };
        Ok(Self {
            address: endpoint.address(),
            endpoint: endpoint.clone(),
            login: login.clone(),
            pinned,
            proofs: proofs(login).await?,
            config: Arc::new(config),
        })
    }

    /// One try. Waits `silence` for the guest's first word, and then as long as a slow guest needs.
    async fn run(&self, silence: Duration) -> Result<(Arc<Link>, String), Failure> {
        let again = |message: String| Failure::Again(message);
        let spoken = timeout(silence, self.knock()).await;
        let Spoken { connecting, keep_open, notes } =
            spoken.map_err(|_| again(format!("no word from it within {} s", silence.as_secs())))??;
        let connected = timeout(HANDSHAKE, connecting).await.map_err(|_| {
            again(format!("it did not end the key exchange within {} s", HANDSHAKE.as_secs()))
        })?;
        let mut handle = connected.map_err(|error| self.no_connection(error))?;

        let outcome = timeout(HANDSHAKE, log_in(&mut handle, &self.login.user, &self.proofs))
            .await
            .map_err(|_| again(format!("it did not end the login within {} s", HANDSHAKE.as_secs())))?;
        match outcome {
            Ok(Outcome::In) => {}
            Ok(Outcome::Refused(tried)) => return Err(self.refused(&tried)),
            // Too many wrong tries end in a goodbye, while a guest that is still booting (pam_nologin), or reverted just now,
            // goes away without one.
            Ok(Outcome::Lost(tried)) if notes.lock().goodbye && !tried.is_empty() => {
                return Err(self.refused(&tried));
            }
            Ok(Outcome::Lost(_)) | Err(_) => {
                return Err(again(format!("the connection ended during login: {}", notes.end())));
            }
        }

        let shown = notes.lock().host_key.clone();
        let host_key =
            shown.and_then(|key| one_line_form(&key)).ok_or_else(|| again("it showed no host key".into()))?;
        Ok((Link::new(handle, keep_open, notes, self.login.clone()), host_key))
    }

    /// Gets the guest to speak: by one connection, or by a second one beside it.
    async fn knock(&self) -> Result<Spoken, Failure> {
        let mut first = Box::pin(self.open());
        let patience = if self.endpoint.jump.is_some() { KNOCK_AGAIN_THROUGH } else { KNOCK_AGAIN };
        match timeout(patience, &mut first).await {
            Ok(result) => result,
            Err(_) => Ok(select_ok([first, Box::pin(self.open())]).await?.0),
        }
    }

    /// Opens a connection, sends the client's identification and waits for the guest's first word.
    async fn open(&self) -> Result<Spoken, Failure> {
        let (stream, complaint) =
            self.carrier().await.map_err(|error: io::Error| Failure::Again(error.to_string()))?;
        let opened = self.begin(stream).await;
        match (opened, complaint, &self.endpoint.jump) {
            (Err(Failure::Again(message)), Some(complaint), Some(jump)) => {
                let host = jump.host().to_owned();
                match complaint.words().await {
                    // It got to the host, and that does not get to the guest yet.
                    Some(words) if words.to_ascii_lowercase().contains("forwarding") => {
                        Err(Failure::Again(format!("through {host}: {words}")))
                    }
                    Some(message) => Err(Failure::Final(GuestError::Jump { host, message })),
                    None => Err(Failure::Again(format!("through {host}: {message}"))),
                }
            }
            (opened, ..) => opened,
        }
    }

    /// What carries the connection, and what tells why another host could not.
    async fn carrier(&self) -> io::Result<(Box<dyn Carrier>, Option<Complaint>)> {
        let Endpoint { host, port, jump, .. } = &self.endpoint;
        if let Some(jump) = jump {
            let (through, complaint) = through::connect(jump, host, *port)?;
            return Ok((Box::new(through), Some(complaint)));
        }
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        Ok((Box::new(tcp), None))
    }

    /// Sends the client's identification and waits for the guest's first word.
    async fn begin(&self, stream: Box<dyn Carrier>) -> Result<Spoken, Failure> {
        // russh sends its identification at once, without which some user-mode networks deliver nothing.
        let (stream, first_byte, keep_open) = WatchedStream::new(stream);
        let notes = Arc::new(Notes::default());
        let client = Client::new(self.pinned.clone(), notes.clone());
        let mut connecting: Connecting = Box::pin(connect_stream(self.config.clone(), stream, client));
        tokio::select! {
            biased;
            // Also when it fails because the stream is gone: then `connecting` says why.
            _ = first_byte => Ok(Spoken { connecting, keep_open, notes }),
            // It ends before the first word by failing.
            early = &mut connecting => match early {
                Ok(handle) => Ok(Spoken { connecting: Box::pin(async { Ok(handle) }), keep_open, notes }),
                Err(error) => Err(self.no_connection(error)),
            },
        }
    }

    fn no_connection(&self, error: ClientError) -> Failure {
        let changed = |found, pinned| {
            Failure::Final(GuestError::HostKeyChanged { address: self.address.clone(), found, pinned })
        };
        match (error, &self.pinned) {
            (ClientError::HostKey { found, pinned }, _) => changed(found, pinned),
            (
                ClientError::Ssh(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. }),
                Some(pinned),
            ) => changed(
                format!("of another type ({})", one_line(theirs.join(", ").as_bytes())),
                fingerprint(pinned.key_data()),
            ),
            (ClientError::Ssh(error), _) => Failure::Again(error.to_string()),
        }
    }

    fn refused(&self, tried: &[String]) -> Failure {
        let tried =
            if tried.is_empty() { "nothing: the login has no credentials".into() } else { tried.join(", ") };
        let (address, user) = (self.address.clone(), self.login.user.clone());
        Failure::Final(GuestError::LoginRefused { address, user, tried })
    }
}

/// The algorithms with which a server can prove that it holds `key`.
fn algorithms(key: &PublicKey) -> Vec<Algorithm> {
    match key.algorithm() {
        Algorithm::Rsa { .. } => {
            [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }).to_vec()
        }
        other => vec![other],
    }
}

fn one_line_form(key: &PublicKey) -> Option<String> {
    let mut key = key.clone();
    key.set_comment("");
    key.to_openssh().ok().map(|line| line.trim_end().to_owned())
}

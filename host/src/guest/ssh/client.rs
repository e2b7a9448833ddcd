//! What farmhand does when the guest's SSH server speaks: checks its key, and notes why it went away.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use russh::{
    Channel,
    client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session},
    keys::{HashAlg, PublicKey, PublicKeyOrCertificate, ssh_key},
};

use crate::guest::capture::one_line;

/// The server's half of a connection, as far as farmhand listens to it.
pub(super) struct Client {
    pinned: Option<PublicKey>,
    notes: Arc<Notes>,
}

/// What was learnt of the server while the connection lasted.
#[derive(Default)]
pub(super) struct Notes(Mutex<Noted>);

#[derive(Default)]
pub(super) struct Noted {
    /// The key that it proved to hold.
    pub(super) host_key: Option<PublicKey>,
    /// What it said before the login.
    pub(super) banner: String,
    /// Why the connection ended.
    pub(super) end: Option<String>,
    /// Whether it said goodbye, rather than just going away.
    pub(super) goodbye: bool,
}

impl Notes {
    pub(super) fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection ended, in words.
    pub(super) fn end(&self) -> String {
        let noted = self.lock();
        let end = noted.end.as_deref().unwrap_or(CLOSED);
        if noted.banner.is_empty() { end.to_owned() } else { format!("{end} (it said: {})", noted.banner) }
    }
}

const CLOSED: &str = "the guest closed it";

/// Whether an error says no more than that the connection was closed.
fn closes(error: &russh::Error) -> bool {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => true,
        russh::Error::IO(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}

/// Why the connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("it has another host key")]
    HostKey { found: String, pinned: String },
}

impl Client {
    pub(super) fn new(pinned: Option<PublicKey>, notes: Arc<Notes>) -> Self {
        Self { pinned, notes }
    }
}

/// A key's fingerprint, as OpenSSH shows it.
pub(super) fn fingerprint(key: &ssh_key::public::KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Refuses a channel: that is what dropping the question does.
fn refuse(question: ChannelOpenHandle) -> Result<(), ClientError> {
    drop(question);
    Ok(())
}

impl Handler for Client {
    type Error = ClientError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, ClientError> {
        // No certificates are offered to the server, so it shows none.
        let PublicKeyOrCertificate::PublicKey { key: shown, .. } = shown else { return Ok(false) };
        // Later key exchanges must show the key of the first one.
        let expected = self.pinned.get_or_insert_with(|| shown.clone());
        if expected.key_data() != shown.key_data() {
            let (found, pinned) = (fingerprint(shown.key_data()), fingerprint(expected.key_data()));
            return Err(ClientError::HostKey { found, pinned });
        }
        self.notes.lock().host_key = Some(shown.clone());
        Ok(true)
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut Session) -> Result<(), ClientError> {
        self.notes.lock().banner = one_line(banner.as_bytes());
        Ok(())
    }

    // A server has no reason to open a channel. russh accepts all kinds that it knows, and keeps each.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), ClientError> {
        refuse(reply)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<ClientError>) -> Result<(), ClientError> {
        let mut noted = self.notes.lock();
        let (end, goodbye) = match &reason {
            DisconnectReason::ReceivedDisconnect(goodbye) => (one_line(goodbye.message.as_bytes()), true),
            DisconnectReason::Error(ClientError::Ssh(russh::Error::KeepaliveTimeout)) => {
                ("the guest no longer answers".to_owned(), false)
            }
            DisconnectReason::Error(ClientError::Ssh(error)) if closes(error) => (CLOSED.to_owned(), false),
            DisconnectReason::Error(error) => (one_line(error.to_string().as_bytes()), false),
        };
        noted.end.get_or_insert(end);
        noted.goodbye = goodbye;
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

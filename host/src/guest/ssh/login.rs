//! Logging in: the login's credentials, in order.

use std::sync::Arc;

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{self, PrivateKey, PrivateKeyWithHashAlg},
};

use super::client::Client;
use crate::{
    base::{Credential, Login, Secret},
    guest::{GuestError, keypair},
};

/// A credential made ready.
pub(super) enum Proof {
    /// A private key, and the file that it is from.
    Key(Arc<PrivateKey>, String),
    /// A password.
    Password(Secret),
}

/// How an attempt to log in ended.
pub(super) enum Outcome {
    /// The guest let the user in.
    In,
    /// It did not; these methods were tried.
    Refused(Vec<String>),
    /// The connection ended first; these methods were refused before.
    Lost(Vec<String>),
}

/// Reads the key files. A key that can't be used is an error, also when other credentials follow: it would be tried in vain
/// each time.
pub(super) async fn proofs(login: &Login) -> Result<Vec<Proof>, GuestError> {
    let mut proofs = Vec::new();
    for credential in &login.credentials {
        proofs.push(match credential {
            Credential::Password(password) => Proof::Password(password.clone()),
            Credential::Key(path) => {
                let error = |message: String| GuestError::Key { path: path.clone(), message };
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || keypair::read(&file)).await;
                let text = read.map_err(|task| error(task.to_string()))?.map_err(|io| error(io.to_string()))?;
                let key = keys::decode_secret_key(&text, None).map_err(|reason| match reason {
                    keys::Error::KeyIsEncrypted => error(
                        "it is protected by a passphrase; name a key without one (`ssh-keygen -p` removes it)".into(),
                    ),
                    other => error(format!("it is not a private key in OpenSSH's format ({other})")),
                })?;
                Proof::Key(Arc::new(key), path.to_string())
            }
        });
    }
    Ok(proofs)
}

/// Tries the credentials in order until the guest lets the user in.
pub(super) async fn log_in(
    handle: &mut Handle<Client>,
    user: &str,
    proofs: &[Proof],
) -> Result<Outcome, russh::Error> {
    let mut tried = Vec::new();
    for proof in proofs {
        let left = match proof {
            Proof::Key(key, path) => {
                let hash = match key.algorithm() {
                    keys::Algorithm::Rsa { .. } => handle.best_supported_rsa_hash().await?.flatten(),
                    _ => None,
                };
                let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
                let result = handle.authenticate_publickey(user, key).await?;
                step(handle, result, &mut tried, || format!("key {path}"))
            }
            Proof::Password(password) => {
                let result = handle.authenticate_password(user, password.reveal()).await?;
                match step(handle, result, &mut tried, || "password".into()) {
                    Err(methods) if methods.contains(&MethodKind::KeyboardInteractive) => {
                        let result = keyboard_interactive(handle, user, password).await?;
                        step(handle, result, &mut tried, || "keyboard-interactive with the password".into())
                    }
                    other => other,
                }
            }
        };
        if left.is_ok() {
            return Ok(Outcome::In);
        }
        if handle.is_closed() {
            // The last one was not refused: it found nobody.
            tried.pop();
            return Ok(Outcome::Lost(tried));
        }
    }
    Ok(Outcome::Refused(tried))
}

/// Takes note of a method that was tried; when it was refused, `Err` holds those that the server would still take.
fn step(
    handle: &Handle<Client>,
    result: AuthResult,
    tried: &mut Vec<String>,
    name: impl FnOnce() -> String,
) -> Result<(), MethodSet> {
    match result {
        AuthResult::Success => Ok(()),
        AuthResult::Failure { remaining_methods, partial_success } => {
            let more = if partial_success { " (accepted, but more is asked for)" } else { "" };
            tried.push(format!("{}{more}", name()));
            // Methods are worth nothing on a connection that is closed.
            Err(if handle.is_closed() { MethodSet::empty() } else { remaining_methods })
        }
    }
}

/// Answers the one prompt of the server with the password. A second one means that the answer was wrong, or that it asks for
/// something else: it is given up.
async fn keyboard_interactive(
    handle: &mut Handle<Client>,
    user: &str,
    password: &Secret,
) -> Result<AuthResult, russh::Error> {
    let mut response = handle.authenticate_keyboard_interactive_start(user, None).await?;
    let mut answered = false;
    // PAM may send requests without a prompt, to say something; their number is bounded.
    for _ in 0..8 {
        let answers = match response {
            KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                return Ok(AuthResult::Failure { remaining_methods, partial_success });
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => match prompts.as_slice() {
                [] => vec![],
                [_] if !answered => {
                    answered = true;
                    vec![password.reveal().to_owned()]
                }
                _ => break,
            },
        };
        response = handle.authenticate_keyboard_interactive_respond(answers).await?;
    }
    Ok(AuthResult::Failure { remaining_methods: MethodSet::empty(), partial_success: false })
}

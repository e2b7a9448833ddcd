//! Downloads over HTTP: tried again with backoff, and resumed where the connection broke.
//!
//! The rest of a file is asked for only where the server can say that it is still the same file (RFC 9110, If-Range: a strong
//! ETag, else Last-Modified). What an earlier process left is taken up only where a checksum will tell whether it is right.

use std::{error::Error as _, fs::File, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt as _;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER},
    redirect,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, mpsc};

use super::{
    Doing, ImageError, Progress, ProgressFn,
    checksum::Hasher,
    fetch::{Fetched, MAX_SIZE, blocking, write_error, write_sparse},
    growth::Growth,
    location::shown,
};
use crate::base::ChecksumValue;

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Chunks that may wait to be written.
const CHUNKS_WAITING: usize = 16;
const CHUNK: usize = 1 << 20;
/// The longest time that a server may ask to be waited for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How often, and how long, a server is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The first pause; each one after it is twice as long, and up to half as long again by chance.
    pub(super) first: Duration,
    /// How often it is tried again without getting any further.
    pub(super) times: usize,
    /// How long a server may send nothing.
    pub(super) silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), times: 5, silence: Duration::from_secs(60) }
    }
}

impl Patience {
    fn pauses(self) -> impl Iterator<Item = Duration> {
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_times(self.times)
            .with_jitter()
            .build()
    }
}

/// The file that a download goes into.
pub(super) struct Target {
    pub(super) file: File,
    /// Where it is noted how it can be resumed by another process, if it may be.
    pub(super) note: Option<Utf8PathBuf>,
    /// Who reads along.
    pub(super) growth: Option<Arc<Growth>>,
}

/// How a download that broke off can be resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// What tells that the server's file is still the same.
    validator: String,
}

/// Downloads, with one HTTP client. Proxies are those of `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    client: OnceCell<Client>,
    patience: Patience,
}

/// What is handed to the thread that writes.
enum Piece {
    /// The next bytes.
    Chunk(Bytes),
    /// The server begins from the start: what there is counts no more.
    Restart,
    /// That was all.
    End,
}

/// Why one try failed.
enum Failure {
    /// It may go better next time.
    Transient {
        error: ImageError,
        retry_after: Option<Duration>,
    },
    Final(ImageError),
}

/// How far a download is.
struct State {
    /// Bytes that have come.
    at: u64,
    validator: Option<String>,
    total: Option<u64>,
}

impl Downloads {
    #[cfg(test)]
    pub(super) fn with_patience(patience: Patience) -> Self {
        Self { client: OnceCell::new(), patience }
    }

    /// Downloads into a file. What the file holds already is the start of the same content.
    pub(super) async fn download(
        &self,
        url: &Url,
        target: Target,
        expected: Option<ChecksumValue>,
        progress: &ProgressFn,
    ) -> Result<Fetched, ImageError> {
        let Target { file, note, growth } = target;
        let noted: Option<Note> = note.as_deref().and_then(read_note);
        let have = match &noted {
            Some(_) => file.metadata().map_err(write_error)?.len(),
            None => 0,
        };
        let mut state = State { at: have, validator: noted.map(|note| note.validator), total: None };
        let (pieces, received) = mpsc::channel(CHUNKS_WAITING);
        let writer = blocking(move || write_down(received, file, have, expected.as_ref(), growth.as_deref()));
        // It owns the sender: when it fails, the writer ends too.
        let reader = async move {
            let mut pauses = self.patience.pauses();
            loop {
                let before = state.at;
                match self.attempt(url, &mut state, &pieces, note.as_deref(), progress).await {
                    Ok(()) => break,
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Transient { error, retry_after }) => {
                        if state.at > before {
                            pauses = self.patience.pauses();
                        }
                        let Some(pause) = pauses.next() else { return Err(error) };
                        let pause = pause.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
                        progress(Progress { doing: Doing::Waiting, done: state.at, total: state.total });
                        tokio::time::sleep(pause).await;
                    }
                }
            }
            let _ = pieces.send(Piece::End).await;
            Ok(())
        };
        let (written, read) = tokio::join!(writer, reader);
        read?;
        written
    }

    /// Asks once, from where the download is.
    async fn attempt(
        &self,
        url: &Url,
        state: &mut State,
        pieces: &mpsc::Sender<Piece>,
        note: Option<&Utf8Path>,
        progress: &ProgressFn,
    ) -> Result<(), Failure> {
        let resumes = state.validator.clone().filter(|_| state.at > 0);
        let response = self.get(url, resumes.map(|validator| (state.at, validator))).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // Asked again, from the start.
            state.validator = None;
            return Err(transient(url, "the server has nothing from there on".to_owned()));
        }
        let rest = response.status() == StatusCode::PARTIAL_CONTENT;
        if rest {
            let (start, total) = content_range(response.headers())
                .filter(|(start, _)| *start == state.at)
                .ok_or_else(|| {
                    // Asked again, from the start.
                    state.validator = None;
                    transient(
                        url,
                        "the server sends another part of the file than it was asked for".to_owned(),
                    )
                })?;
            state.total = total.or_else(|| response.content_length().map(|length| start + length));
        } else {
            if state.at > 0 && pieces.send(Piece::Restart).await.is_err() {
                return Ok(());
            }
            state.at = 0;
            state.total = response.content_length();
            state.validator = validator(response.headers());
            if let Some(note) = note {
                write_note(note, state.validator.as_deref())
                    .map_err(|error| Failure::Final(write_error(error)))?;
            }
        }
        if state.total.is_some_and(|total| total > MAX_SIZE) {
            return Err(Failure::Final(too_large(url, MAX_SIZE)));
        }
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk =
                chunk.map_err(|error| Failure::Transient { error: failed(url, error), retry_after: None })?;
            state.at += chunk.len() as u64;
            if state.at > MAX_SIZE {
                return Err(Failure::Final(too_large(url, MAX_SIZE)));
            }
            if pieces.send(Piece::Chunk(chunk)).await.is_err() {
                // The writer failed; it says why.
                return Ok(());
            }
            progress(Progress { doing: Doing::Fetching, done: state.at, total: state.total });
        }
        Ok(())
    }

    /// Reads a small file whole.
    pub(super) async fn read_small(&self, url: &Url, max_size: u64) -> Result<Vec<u8>, ImageError> {
        let mut pauses = self.patience.pauses();
        loop {
            let error = match self.try_small(url, max_size).await {
                Ok(content) => return Ok(content),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient { error, .. }) => error,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_small(&self, url: &Url, max_size: u64) -> Result<Vec<u8>, Failure> {
        let response = self.get(url, None).await?;
        let (mut body, mut content) = (response.bytes_stream(), Vec::new());
        while let Some(chunk) = body.next().await {
            let chunk =
                chunk.map_err(|error| Failure::Transient { error: failed(url, error), retry_after: None })?;
            content.extend_from_slice(&chunk);
            if content.len() as u64 > max_size {
                return Err(Failure::Final(too_large(url, max_size)));
            }
        }
        Ok(content)
    }

    /// Asks for a URL, or for the rest of it from an offset on if it is still the same. That there is no rest is an answer.
    async fn get(&self, url: &Url, rest: Option<(u64, String)>) -> Result<Response, Failure> {
        let client = self.client().await.map_err(|error| Failure::Final(failed(url, error)))?;
        let mut request = client.get(url.clone());
        let asks_for_rest = rest.is_some();
        if let Some((at, validator)) = rest {
            request = request.header(RANGE, format!("bytes={at}-")).header(IF_RANGE, validator);
        }
        let response = request.send().await.map_err(|error| {
            let for_good = error.is_redirect() || error.is_builder();
            let error = failed(url, error);
            if for_good { Failure::Final(error) } else { Failure::Transient { error, retry_after: None } }
        })?;
        let status = response.status();
        if status.is_success() || (asks_for_rest && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(response);
        }
        let message = format!("the server answers {status}");
        let error = ImageError::Download { uri: shown(url.as_str()), message };
        Err(match status {
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Failure::Transient { error, retry_after: retry_after(response.headers()) }
            }
            _ => Failure::Final(error),
        })
    }

    async fn client(&self) -> Result<&Client, reqwest::Error> {
        let make = async || {
            Client::builder()
                .connect_timeout(CONNECT_LIMIT)
                .read_timeout(self.patience.silence)
                .redirect(redirect::Policy::custom(follow))
                .user_agent(concat!("farmhand/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        self.client.get_or_try_init(make).await
    }
}

/// Redirects are followed, but never from HTTPS to where others can listen and change.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    match refusal(attempt.previous(), attempt.url()) {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}

/// Why a redirect is not followed.
fn refusal(previous: &[Url], next: &Url) -> Option<String> {
    let was_secure = previous.last().is_some_and(|url| url.scheme() == "https");
    if previous.len() > REDIRECTS {
        Some(format!("it is redirected more than {REDIRECTS} times"))
    } else if was_secure && next.scheme() != "https" {
        Some("it is redirected from HTTPS to a connection that is not secure".to_owned())
    } else {
        None
    }
}

/// What tells that a file is still the same: a strong ETag, else when it was changed (RFC 9110, section 13.1.5).
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// Where a part of a file begins, and how large the file is (`bytes 5-9/10`).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Writes what comes, after the `have` bytes that are there.
fn write_down(
    mut received: mpsc::Receiver<Piece>,
    into: File,
    have: u64,
    expected: Option<&ChecksumValue>,
    growth: Option<&Growth>,
) -> Result<Fetched, ImageError> {
    let (mut hasher, mut size, mut buffer) = (Hasher::new(expected), 0, vec![0; CHUNK]);
    while size < have {
        let length = into.read_at(&mut buffer, size).map_err(write_error)?;
        hasher.update(buffer.get(..length).unwrap_or_default());
        size += length as u64;
        if length == 0 {
            return Err(write_error(std::io::Error::other("the file became shorter")));
        }
    }
    let tell = |size: u64| growth.iter().for_each(|growth| growth.grown(size));
    tell(size);
    loop {
        match received.blocking_recv() {
            Some(Piece::Chunk(chunk)) => {
                hasher.update(&chunk);
                write_sparse(&into, &chunk, size).map_err(write_error)?;
                size += chunk.len() as u64;
                tell(size);
            }
            Some(Piece::Restart) => {
                into.set_len(0).map_err(write_error)?;
                (hasher, size) = (Hasher::new(expected), 0);
                growth.iter().for_each(|growth| growth.restarted());
            }
            Some(Piece::End) => break,
            None => return Err(write_error(std::io::Error::other("the download was given up"))),
        }
    }
    into.set_len(size).map_err(write_error)?;
    Ok(Fetched { file: into, size, stat: None, digest: hasher.finish(expected) })
}

fn read_note(path: &Utf8Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write_note(path: &Utf8Path, validator: Option<&str>) -> std::io::Result<()> {
    match validator {
        Some(validator) => {
            std::fs::write(path, serde_json::to_vec(&Note { validator: validator.to_owned() })?)
        }
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn transient(url: &Url, message: String) -> Failure {
    Failure::Transient {
        error: ImageError::Download { uri: shown(url.as_str()), message },
        retry_after: None,
    }
}

fn too_large(url: &Url, max_size: u64) -> ImageError {
    ImageError::TooLarge { uri: shown(url.as_str()), max_size }
}

/// The client's error with its causes, without the URL, which may hold secrets.
fn failed(url: &Url, error: reqwest::Error) -> ImageError {
    let error = error.without_url();
    let (mut message, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    ImageError::Download { uri: shown(url.as_str()), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_no_less_secure_place() {
        let url = |scheme: &str| Url::parse(&format!("{scheme}://example.org/disk.raw")).unwrap();
        for (from, to, is_followed) in [
            ("https", "https", true),
            ("https", "http", false),
            ("https", "ftp", false),
            ("http", "http", true),
            ("http", "https", true),
        ] {
            assert_eq!(refusal(&[url(from)], &url(to)).is_none(), is_followed, "{from} {to}");
        }
        // What was once secure stays so on the way.
        assert!(refusal(&[url("http"), url("https")], &url("http")).is_some());
    }
}

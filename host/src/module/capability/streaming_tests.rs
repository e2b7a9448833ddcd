//! Files piece by piece, on the simulated guest.

use std::collections::BTreeMap;

use futures::FutureExt as _;

use super::*;
use crate::module::transcript::Replay;

async fn read_all(reader: &mut FileReader) -> Told<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!((1..=64 << 10).contains(&piece.len()), "{} bytes", piece.len());
        whole.extend(piece);
    }
    Ok(whole)
}

async fn write(state: &mut State, writer: &Resource<FileWriter>, content: &[u8]) -> Told<()> {
    writer::write(state, writer, wit::Content::Bytes(content.to_vec())).await.unwrap()
}

async fn finish(state: &mut State, writer: Resource<FileWriter>) -> Told<()> {
    wit::HostFileWriter::finish(state, writer).await.unwrap()
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_in_pieces() {
    let simulated = SimulatedGuest::new();
    let lent = connect(&simulated).await;
    let mut state = state(all(), Limits { file_size: 10, ..Limits::default() });
    let writer = create(&mut state, &lent, "/f").unwrap();
    let piece = [b'x'; 70_000];
    for _ in 0..20 {
        write(&mut state, &writer, &piece).await.unwrap();
    }
    assert!(simulated.files().is_empty(), "it is put in its place at the end");
    finish(&mut state, writer).await.unwrap();
    assert_eq!(simulated.files()["/f"].content, piece.repeat(20));

    let mut reader = reader::open(&mut state, &lent, "/f".to_owned(), false).await.unwrap();
    assert_eq!(read_all(&mut reader).await.unwrap(), piece.repeat(20));
    assert_eq!(reader.next().await.unwrap(), None, "after the end it gives the same again");
    let error = reader::open(&mut state, &lent, "/missing".to_owned(), false).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, wit::GuestError::NotFound(_)), "{error:?}");
    // As large as it is, it is kept without passing through memory as a whole.
    let home = tempfile::tempdir().unwrap();
    let home = Utf8Path::from_path(home.path()).unwrap();
    state.artifacts = Some(home.to_owned());
    artifacts::save_file(&mut state, &lent, "f".to_owned(), "/f".to_owned(), false).await.unwrap();
    assert_eq!(std::fs::read(home.join("f")).unwrap(), piece.repeat(20));
}

#[tokio::test]
async fn streams_are_bounded_and_an_error_stays() {
    let simulated = SimulatedGuest::new();
    let lent = connect(&simulated).await;
    let limits = Limits { streamed_file_size: 10, open_files: 2, artifact_data: 10, ..Limits::default() };
    let mut state = state(grants("{ files: ['/**'], artifacts: true }"), limits);
    let limited = |error: wit::GuestError, name: &str| {
        let wit::GuestError::LimitExceeded(text) = error else { panic!("{error:?}") };
        assert!(text.contains(name), "{text}");
    };
    let writer = create(&mut state, &lent, "/f").unwrap();
    write(&mut state, &writer, b"0123456789").await.unwrap();
    limited(write(&mut state, &writer, b"x").await.unwrap_err(), "limit: streamed file size");
    limited(write(&mut state, &writer, b"").await.unwrap_err(), "limit: streamed file size");
    limited(finish(&mut state, writer).await.unwrap_err(), "limit: streamed file size");
    let writer = create(&mut state, &lent, "/f").unwrap();
    let denied = writer::write(&mut state, &writer, secret()).await.unwrap();
    assert!(matches!(denied, Err(wit::GuestError::Denied(_))), "{denied:?}");
    finish(&mut state, writer).await.unwrap_err();
    assert!(simulated.files().is_empty());

    let file = SimulatedFile { content: vec![b'x'; 11], mode: 0o600, root_only: false };
    simulated.set_files(BTreeMap::from([("/large".to_owned(), file)]));
    let mut reader = reader::open(&mut state, &lent, "/large".to_owned(), false).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), [b'x'; 10]);
    limited(reader.next().await.unwrap_err(), "limit: streamed file size");
    limited(reader.next().await.unwrap_err(), "limit: streamed file size");
    let home = tempfile::tempdir().unwrap();
    state.artifacts = Utf8Path::from_path(home.path()).map(Utf8Path::to_owned);
    let kept = artifacts::save_file(&mut state, &lent, "f".to_owned(), "/large".to_owned(), false).await;
    limited(kept.unwrap_err(), "limit: artifact data");
    assert_eq!(home.path().read_dir().unwrap().count(), 0, "nothing is left of it");

    let _writer = create(&mut state, &lent, "/g").unwrap();
    let error = create(&mut state, &lent, "/h").unwrap_err();
    limited(error, "more than 2 open files at once (limit: open files)");
    drop(reader);
    create(&mut state, &lent, "/h").unwrap();
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_the_file_as_it_was() {
    let simulated = SimulatedGuest::new();
    let lent = connect(&simulated).await;
    let mut state = state(all(), Limits::default());
    files::write(&mut state, &lent, "/f".to_owned(), bytes(b"as it was"), 0o600, false).await.unwrap();
    let writer = create(&mut state, &lent, "/f").unwrap();
    write(&mut state, &writer, b"half of").await.unwrap();
    wit::HostFileWriter::drop(&mut state, writer).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(simulated.files()["/f"].content, b"as it was");
}

#[tokio::test]
async fn a_secret_goes_into_a_stream_and_never_comes_out() {
    let simulated = SimulatedGuest::new();
    let mut lent = connect(&simulated).await;
    let recording = Arc::new(Recording::default());
    if let Lent::Live { notes, .. } = &mut lent {
        *notes = Notes::new(Some(recording.clone()), None);
    }
    let mut state = state(all(), Limits::default());
    state.secrets = Secrets::new(BTreeMap::from([("TOKEN".to_owned(), Secret::new("hunter2"))]));
    let writer = create(&mut state, &lent, "/f").unwrap();
    write(&mut state, &writer, b"token: ").await.unwrap();
    writer::write(&mut state, &writer, secret()).await.unwrap().unwrap();
    finish(&mut state, writer).await.unwrap();
    assert_eq!(simulated.files()["/f"].content, b"token: hunter2");
    let mut reader = reader::open(&mut state, &lent, "/f".to_owned(), false).await.unwrap();
    assert_eq!(read_all(&mut reader).await.unwrap(), b"token: ***");
    let recorded = serde_json::to_string_pretty(&recording.take().0).unwrap();
    insta::assert_snapshot!(recorded);
}

#[tokio::test]
async fn streams_are_played_back_without_a_guest() {
    async fn copy(state: &mut State, lent: &Lent) -> Told<Vec<u8>> {
        let mut reader = reader::open(state, lent, "/from".to_owned(), false).await?;
        let writer = create(state, lent, "/to")?;
        let content = read_all(&mut reader).await?;
        // More than a transcript has of it.
        for _ in 0..10 {
            write(state, &writer, &content).await?;
        }
        finish(state, writer).await?;
        Ok(content)
    }
    let simulated = SimulatedGuest::new();
    let file = SimulatedFile { content: vec![b'x'; 100_000], mode: 0o600, root_only: false };
    simulated.set_files(BTreeMap::from([("/from".to_owned(), file)]));
    let mut lent = connect(&simulated).await;
    let recording = Arc::new(Recording::default());
    if let Lent::Live { notes, .. } = &mut lent {
        *notes = Notes::new(Some(recording.clone()), None);
    }
    let live = copy(&mut state(all(), Limits::default()), &lent).await.unwrap();
    assert_eq!(simulated.files()["/to"].content.len(), 1_000_000);

    let replay = Replay::new(recording.take().0);
    let played = copy(&mut state(all(), Limits::default()), &Lent::Answered(replay.clone())).await.unwrap();
    assert_eq!((played, replay.difference()), (live, None));
}

/// Gives megabytes at once and takes nothing, and counts how often it was asked for more.
struct Behind(Arc<std::sync::atomic::AtomicUsize>);

#[async_trait::async_trait]
impl Guest for Behind {
    async fn exec(
        &self,
        _: &crate::guest::Command,
        _: &mut dyn crate::guest::OutputSink,
    ) -> Result<crate::guest::Exit, GuestError> {
        unreachable!("nothing is run")
    }

    async fn stream_from_file(
        &self,
        _: &str,
        _: u64,
        _: bool,
        sink: &mut crate::guest::FileSink<'_>,
    ) -> Result<(), GuestError> {
        for _ in 0..100 {
            sink(&[b'x'; 100_000]);
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn stream_to_file(
        &self,
        _: &str,
        _: crate::guest::FileContent<'_>,
        _: u32,
        _: bool,
    ) -> Result<(), GuestError> {
        std::future::pending().await
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn who_is_behind_is_waited_for() {
    let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let lent = Lent::Live { guest: Arc::new(Behind(given.clone())), notes: Notes::default() };
    let mut state = state(all(), Limits::default());
    let mut reader = reader::open(&mut state, &lent, "/f".to_owned(), false).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let held_up = given.load(std::sync::atomic::Ordering::Relaxed);
    assert!(held_up <= 4, "{held_up}");
    assert_eq!(read_all(&mut reader).await.unwrap().len(), 10_000_000);

    let writer = create(&mut state, &lent, "/f").unwrap();
    let mut taken = 0;
    let piece = [b'x'; 64 << 10];
    while taken < 100 {
        tokio::task::yield_now().await;
        match write(&mut state, &writer, &piece).now_or_never() {
            Some(written) => written.unwrap(),
            None => break,
        }
        taken += 1;
    }
    assert!(taken <= 5, "{taken} pieces wait for a guest that takes none");
}

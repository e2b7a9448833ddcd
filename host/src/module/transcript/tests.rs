use std::sync::Arc;

use super::*;

fn exec(argv: &[&str]) -> GuestCall {
    let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
    GuestCall::Exec(CommandCall { argv, ..CommandCall::default() })
}

fn recorded() -> Vec<RecordedCall> {
    let ended = |stdout: &[u8]| Answer::Ended {
        exit: Exit::Status(0),
        stdout: Bytes(stdout.to_vec()),
        stderr: Bytes::default(),
        truncated: false,
    };
    vec![
        RecordedCall { call: exec(&["dpkg-query", "-W"]), answer: Some(ended(b"bash\n")) },
        RecordedCall { call: exec(&["apt-get", "install", "curl"]), answer: Some(ended(b"\xff")) },
        RecordedCall {
            call: GuestCall::WriteFile {
                path: "/etc/motd".to_owned(),
                content: vec![
                    Content::Bytes(Bytes(b"hello ".to_vec())),
                    Content::Secret { secret: "NAME".to_owned() },
                ],
                mode: 0o644,
                r#become: true,
            },
            answer: Some(Answer::Failed(CallError::NotFound("no such folder".to_owned()))),
        },
    ]
}

#[test]
fn written_and_read_back() {
    let transcript = Transcript {
        version: VERSION,
        module: "test".to_owned(),
        digest: Digest::of("test"),
        context: RecordedContext {
            phase: Phase::Main,
            platform: "debian_vs".to_owned(),
            target: "amd64".to_owned(),
            machine: "debian_vs_amd64".to_owned(),
            settings: serde_json::json!({ "packages": ["curl"] }),
            r#become: true,
        },
        facts: Facts { os_id: "debian".to_owned(), ..Facts::default() },
        calls: recorded(),
        ended: Ended::Done { changed: true, summary: "installed curl 8".to_owned() },
        truncated: false,
    };
    let text = serde_json::to_string_pretty(&transcript).unwrap();
    assert_eq!(serde_json::from_str::<Transcript>(&text).unwrap(), transcript);
    insta::assert_snapshot!(text);
}

fn play(replay: &Arc<Replay>, calls: &[GuestCall]) -> Option<String> {
    for call in calls {
        replay.answer(call);
    }
    replay.difference()
}

#[test]
fn the_first_difference_is_told() {
    let calls: Vec<GuestCall> = recorded().into_iter().map(|recorded| recorded.call).collect();
    let replay = || Replay::new(recorded());
    assert_eq!(play(&replay(), &calls), None);
    assert_eq!(replay().answer(&calls[0]), recorded()[0].answer.clone().unwrap());

    let mut other = calls.clone();
    other[1] = exec(&["apt-get", "install", "wget"]);
    let mut more = calls.clone();
    more.push(exec(&["sync"]));
    let differences = [&other[..], &more[..], &calls[..2]].map(|calls| play(&replay(), calls).unwrap());
    insta::assert_snapshot!(differences.join("\n"));
}

#[test]
fn a_transcript_does_not_grow_without_bounds() {
    let recording = Recording::default();
    let large = Answer::Content(Bytes(vec![b'x'; MAX_DATA / 2 + 1]));
    for _ in 0..2 {
        let number = recording.call(GuestCall::ReadFile { path: "/f".to_owned(), r#become: false });
        recording.answer(number.unwrap(), &large);
    }
    let (calls, truncated) = recording.take();
    assert!(truncated && calls[0].answer.is_some() && calls[1].answer.is_none());

    // Calls count, too: those that carry much, and many that carry nothing.
    for (size, most) in [(MAX_DATA / 2, 1), (0, 100_000)] {
        let recording = Recording::default();
        let content = vec![Content::Bytes(Bytes(vec![b'x'; size]))];
        let stdin = CommandCall { stdin: content, ..CommandCall::default() };
        let taken =
            (0..most * 2).filter(|_| recording.call(GuestCall::Exec(stdin.clone())).is_some()).count();
        let (calls, truncated) = recording.take();
        assert!(truncated && calls.len() == taken && (1..=most).contains(&taken), "{taken} of {size} bytes");
    }
}

#[test]
fn a_call_in_words_has_no_control_codes_and_hides_nothing() {
    let text = "/a\x1b]0;b\x07\r\n\u{9b}2J\u{202e}c".to_owned();
    let content = vec![Content::Bytes(Bytes(text.clone().into_bytes()))];
    let r#become = false;
    for call in [
        exec(&["cat", &text]),
        GuestCall::ReadFile { path: text.clone(), r#become },
        GuestCall::WriteFile { path: text.clone(), content, mode: 0o644, r#become },
        GuestCall::SaveFile { name: text.clone(), path: text.clone(), r#become },
        GuestCall::SaveArtifact { name: text.clone(), digest: Digest::of("") },
    ] {
        let words = in_words(&call);
        assert!(!words.contains(|c: char| c.is_control() || c == '\u{202e}'), "{words:?}");
        assert!(words.contains(r"'/a\u{1b}]0;b\u{7}\r\n\u{9b}2Jc'"), "{words}");
    }
}

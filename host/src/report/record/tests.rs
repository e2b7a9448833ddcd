use std::{fs, io::Write as _, num::NonZeroUsize, os::unix::fs::PermissionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

use super::*;
use crate::{
    base::Phase,
    guest::Stream,
    report::{
        Format, Hub, Selection, replay,
        tests::{events, started, timed},
    },
    run::{EVENT_FORMAT, Event, EventSink as _, Level, RunId, TimedEvent},
};

struct World {
    folder: TempDir,
    records: Records,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("data/runs");
        Self { folder, records: Records::new(path) }
    }

    fn path(&self, run: &RunId) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join("data/runs").join(run.as_str())
    }

    fn begin(&self, run: &RunId, project: &str, keep: usize) -> Record {
        let (record, error) = self.records.begin(run, project, NonZeroUsize::new(keep).unwrap()).unwrap();
        assert!(error.is_none(), "{error:?}");
        record
    }

    /// A run that took place.
    fn record(&self, id: &str, project: &str, keep: usize, events: &[Event]) -> RunId {
        let run: RunId = id.parse().unwrap();
        let mut record = self.begin(&run, project, keep);
        for mut event in timed(events.to_vec()) {
            if let Event::RunStarted { run: name, project: of, .. } = &mut event.event {
                (*name, *of) = (run.clone(), project.to_owned());
            }
            record.take(&event).unwrap();
        }
        record.flush().unwrap();
        run
    }
}

/// The name of the run that began in this minute.
fn id(minute: usize) -> String {
    format!("2026-11-25T18-{minute:02}-03.412Z-4f1c")
}

fn shown(world: &World, run: &RunId, format: Format, machines: &[&str]) -> String {
    let events = world.records.events(run).unwrap();
    let names = machines.iter().map(|name| (*name).to_owned()).collect();
    let selection = Selection::new(names, &events).unwrap();
    let state = world.records.outline(run).unwrap().state;
    let mut output = Vec::new();
    replay(events, format, &selection, state, &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

const TEXT: Format = Format::Text { verbose: false };

#[test]
fn a_record_has_all_events_and_is_private() {
    let world = World::new();
    let run = world.record(&id(1), "p", 50, &events());
    let read: Vec<_> =
        world.records.events(&run).unwrap().map(|event| event.unwrap().event.unwrap()).collect();
    assert_eq!(read.len(), events().len());
    assert_eq!(read[1..], timed(events())[1..]);
    let mut files = 0;
    let mut folders = vec![world.path(&run)];
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder}");
        for entry in folder.read_dir_utf8().unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.into_path());
            } else {
                files += 1;
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", entry.path());
            }
        }
    }
    assert_eq!(files, 3, "events, and the output of a step of each machine");
    insta::assert_snapshot!(
        "outputs",
        ["debian_vs_amd64/main-1-Run_the_tests.log", "Arch-Linux_amd64/main-1-Build.log"]
            .map(|path| format!("{path}:\n{}", fs::read_to_string(world.path(&run).join(path)).unwrap()))
            .join("\n")
    );
}

#[test]
fn a_run_is_shown_again_as_it_was() {
    let world = World::new();
    let run = world.record(&id(1), "p", 50, &events());
    insta::assert_snapshot!("shown", shown(&world, &run, TEXT, &[]));
    let one = shown(&world, &run, TEXT, &["debian_vs_amd64"]);
    assert!(one.contains("[debian_vs_amd64] passed") && !one.contains("Arch"), "{one}");
    let json = shown(&world, &run, Format::Json, &[]);
    assert_eq!(json, fs::read_to_string(world.path(&run).join("events.jsonl")).unwrap());
    let outline = world.records.outline(&run).unwrap();
    assert_eq!((outline.passed, outline.failed, outline.unfinished), (1, 1, 0));
    assert_eq!((outline.state, outline.seconds), (State::Finished, 63.2));
}

#[test]
fn a_run_that_was_killed_is_readable_up_to_there() {
    let world = World::new();
    let whole = world.record(&id(1), "p", 50, &events());
    let text = fs::read(world.path(&whole).join("events.jsonl")).unwrap();
    let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let run = world.record(&id(2), "p", 50, &[]);
    // Wherever it is cut.
    for end in (first..text.len()).step_by(97) {
        fs::write(world.path(&run).join("events.jsonl"), &text[..end]).unwrap();
        let lines = text[..end].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(world.records.events(&run).unwrap().map(Result::unwrap).count(), lines);
        let outline = world.records.outline(&run).unwrap();
        assert_eq!(outline.state, State::CutOff);
        assert_eq!(outline.passed + outline.failed + outline.unfinished, 2);
        assert!(shown(&world, &run, TEXT, &[]).contains("this run was cut off: "), "{end}");
    }
    // Within a character.
    fs::write(world.path(&run).join("events.jsonl"), [&text[..first], b"{\"line\":\"gr\xc3"].concat())
        .unwrap();
    assert!(shown(&world, &run, TEXT, &[]).contains("this run was cut off: "));
    // Before its first event was written, there is nothing to show.
    fs::write(world.path(&run).join("events.jsonl"), &text[..first - 1]).unwrap();
    assert!(matches!(world.records.events(&run), Err(RecordError::NoRecord { .. })));
}

#[test]
fn what_has_happened_is_written_when_an_operation_ends_and_when_nothing_happens() {
    let world = World::new();
    let run: RunId = id(1).parse().unwrap();
    let hub = Hub::default();
    let (record, feed) = (world.begin(&run, "p", 50), hub.listen());
    let writing = std::thread::spawn(move || record.write(feed));
    let events = events();
    events[..9].iter().cloned().for_each(|event| hub.emit(event));
    let path = world.path(&run).join("events.jsonl");
    // The writer is idle in the end; until then there is only to wait.
    while fs::read_to_string(&path).unwrap().lines().count() < 9 {
        std::thread::yield_now();
    }
    assert_eq!(world.records.outline(&run).unwrap().state, State::Running);
    assert!(shown(&world, &run, TEXT, &[]).contains("this run still goes on; so far: "));
    drop(hub);
    writing.join().unwrap().unwrap();
    assert_eq!(world.records.outline(&run).unwrap().state, State::CutOff);

    let run: RunId = id(2).parse().unwrap();
    let mut record = world.begin(&run, "p", 50);
    let path = world.path(&run).join("events.jsonl");
    let end = events.iter().position(|event| matches!(event, Event::OperationFinished { .. })).unwrap();
    for (number, event) in timed(events).iter().enumerate().take(end + 1) {
        record.take(event).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written.lines().count(), if number == end { end + 1 } else { 0 });
    }
}

#[test]
fn a_step_that_is_carried_out_again_goes_on_in_its_file() {
    let world = World::new();
    let machine = || "m".to_owned();
    let step = || Event::StepStarted {
        machine: machine(),
        phase: Phase::Main,
        index: 2,
        count: 2,
        name: "../../etc/passwd \u{e4}".into(),
    };
    let output = |line: &str| Event::Output { machine: machine(), stream: Stream::Stdout, line: line.into() };
    let log = Event::Log { machine: machine(), level: Level::Warn, line: "outside".into() };
    let events = [started(vec![]), log, step(), output("first"), step(), output("second")];
    let run = world.record(&id(1), "p", 50, &events);
    let file = world.path(&run).join("m/main-2-.._.._etc_passwd__.log");
    assert_eq!(fs::read_to_string(file).unwrap(), "first\nsecond\n");
}

#[test]
fn old_records_are_removed_but_not_those_of_others_or_of_runs_that_go_on() {
    let world = World::new();
    let first = [events()[0].clone()];
    let other = world.record(&id(0), "other", 2, &first);
    let running: RunId = id(1).parse().unwrap();
    let mut running_record = world.begin(&running, "p", 2);
    running_record.take(&TimedEvent::now(started(vec![]))).unwrap();
    let runs: Vec<_> = (2..6).map(|minute| world.record(&id(minute), "p", 2, &first)).collect();
    let kept = |world: &World| world.records.folders().unwrap();
    assert_eq!(kept(&world), [&runs[3], &runs[2], &running, &other].map(Clone::clone));

    // Killed before its first event, or while it was removed.
    fs::write(world.path(&runs[3]).join("events.jsonl"), "").unwrap();
    fs::remove_file(world.path(&runs[2]).join("events.jsonl")).unwrap();
    // Of a later version, and damaged: they stay.
    let later = world.record(&id(7), "p", 50, &first);
    let line = fs::read_to_string(world.path(&later).join("events.jsonl")).unwrap();
    let format = format!("\"format\":{EVENT_FORMAT}");
    fs::write(world.path(&later).join("events.jsonl"), line.replace(&format, "\"format\":9")).unwrap();
    drop(running_record);
    let last = world.record(&id(8), "p", 1, &first);
    assert_eq!(kept(&world), [last, later.clone(), other]);
    let error = world.records.events(&later).unwrap_err();
    assert!(error.to_string().contains("recorded by farmhand 0.1.0 in format 9"), "{error}");
}

#[test]
fn runs_are_found_by_parts_of_their_names() {
    let world = World::new();
    assert!(matches!(world.records.find("last"), Err(RecordError::NoRuns)));
    assert!(matches!(world.records.find("2026"), Err(RecordError::NoRuns)));
    let first = [events()[0].clone()];
    let runs: Vec<_> = (1..6).map(|minute| world.record(&id(minute), "p", 50, &first)).collect();
    let odd = world.record("2027-01-01T00-00-00.000Z-abcd", "p", 50, &first);
    assert_eq!(world.records.find("last").unwrap(), odd);
    assert_eq!(world.records.find("2026-11-25T18-03").unwrap(), runs[2]);
    assert_eq!(world.records.find(runs[2].as_str()).unwrap(), runs[2]);
    assert_eq!(world.records.find("abcd").unwrap(), odd);
    for wanted in ["2026", "2026-11-25T19", "../../data", ""] {
        let error = world.records.find(wanted).unwrap_err();
        insta::assert_snapshot!(
            format!("find_{}", wanted.replace(['/', '.'], "_")),
            format!("{error}\n{}", error.help().unwrap())
        );
    }
}

#[test]
fn events_that_are_not_known_are_passed_over() {
    let world = World::new();
    let run = world.record(&id(1), "p", 50, &events()[..1]);
    let mut file = fs::OpenOptions::new().append(true).open(world.path(&run).join("events.jsonl")).unwrap();
    writeln!(file, r#"{{"at":"2026-11-25T18:27:04.000Z","event":"machine-admired","machine":"m"}}"#).unwrap();
    let events = world.records.events(&run).unwrap();
    let selection = Selection::default();
    let mut output = Vec::new();
    assert_eq!(replay(events, TEXT, &selection, State::CutOff, &mut output).unwrap(), 1);
    assert!(shown(&world, &run, Format::Json, &[]).contains("machine-admired"));
}

#[test]
fn an_error_with_outputs_is_told_and_events_go_on() {
    let world = World::new();
    let run: RunId = id(1).parse().unwrap();
    let hub = Hub::default();
    let (record, feed) = (world.begin(&run, "p", 50), hub.listen());
    // The machine's folder can't be made: there is a file.
    fs::write(world.path(&run).join("debian_vs_amd64"), "").unwrap();
    events().into_iter().for_each(|event| hub.emit(event));
    drop(hub);
    let error = record.write(feed).unwrap_err();
    assert!(error.to_string().contains("main-1-Run_the_tests.log"), "{error}");
    // The other machine's outputs are not written any more, but all events are.
    assert!(!world.path(&run).join("Arch-Linux_amd64").exists());
    assert_eq!(world.records.events(&run).unwrap().map(Result::unwrap).count(), events().len());
}

//! `farmhand report` on records that lie in `runs`: one that is whole, one that was cut off, and one of another project.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A home with copies of the records.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cli/runs");
    for run in fs::read_dir(records).unwrap().map(Result::unwrap) {
        let folder = home.path().join("data/runs").join(run.file_name());
        fs::create_dir_all(&folder).unwrap();
        fs::copy(run.path().join("events.jsonl"), folder.join("events.jsonl")).unwrap();
    }
    home
}

fn report(home: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farmhand"))
        .arg("report")
        .args(arguments)
        .current_dir(home.path())
        .env("FARMHAND_HOME", home.path())
        .env("NO_COLOR", "1")
        .env("TZ", "UTC")
        .output()
        .unwrap()
}

/// Exit code, standard output, standard error.
fn all(output: Output) -> String {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    format!("{}\n{}\n{}", output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn runs_are_shown_again() {
    let home = home();
    insta::assert_snapshot!("report-last-cut-off", all(report(&home, &[])));
    insta::assert_snapshot!("report-verbose", all(report(&home, &["4f1c", "--verbose"])));
    let arguments = ["2026-11-25", "--machine", "debian_vs_amd64"];
    insta::assert_snapshot!("report-machine", all(report(&home, &arguments)));
}

#[test]
fn runs_are_listed() {
    let home = home();
    insta::assert_snapshot!("report-list", all(report(&home, &["--list"])));
    insta::assert_snapshot!("report-list-json", all(report(&home, &["--list", "--json"])));
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("report-list-empty", all(report(&empty, &["--list"])));
}

#[test]
fn events_are_printed_as_they_were_recorded() {
    let home = home();
    for run in ["2026-11-25T18-27-03.412Z-4f1c", "2026-11-26T07-00-00.000Z-0b2e"] {
        let output = report(&home, &[run, "--json"]);
        assert!(output.status.success());
        let recorded = fs::read(home.path().join("data/runs").join(run).join("events.jsonl")).unwrap();
        let whole_lines = recorded.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        assert_eq!(output.stdout, recorded[..whole_lines]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("was cut off"), run.ends_with("0b2e"), "{stderr}");
    }
}

#[test]
fn junit_xml_is_written_to_a_file() {
    let home = home();
    let output = report(&home, &["4f1c", "--junit", "junit.xml"]);
    assert_eq!(all(output), "0\n\n");
    let xml = fs::read_to_string(home.path().join("junit.xml")).unwrap();
    assert!(xml.contains("<testsuites name=\"p\" tests=\"8\" skipped=\"3\" failures=\"1\""), "{xml}");
    let output = report(&home, &["4f1c", "--junit", "nowhere/junit.xml"]);
    insta::assert_snapshot!("report-junit-nowhere", all(output));
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let home = home();
    insta::assert_snapshot!("report-unknown", all(report(&home, &["2026-12"])));
    insta::assert_snapshot!("report-ambiguous", all(report(&home, &["2026"])));
    insta::assert_snapshot!("report-unknown-machine", all(report(&home, &["--machine", "debian"])));
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("report-no-runs", all(report(&empty, &[])));
    fs::write(home.path().join("data/runs/2026-11-26T07-00-00.000Z-0b2e/events.jsonl"), "no\n").unwrap();
    insta::assert_snapshot!(
        "report-damaged",
        all(report(&home, &[])).replace(home.path().to_str().unwrap(), "HOME")
    );
}

#[test]
fn output_that_can_not_be_written_is_an_error() {
    let home = home();
    for command in ["schema", "report", "report --list"] {
        let output = Command::new("sh")
            .args(["-c", &format!("\"$0\" {command} > /dev/full"), env!("CARGO_BIN_EXE_farmhand")])
            .env("FARMHAND_HOME", home.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("No space left on device"), "{command}: {stderr}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = home();
    // More than fits into a pipe.
    let path = home.path().join("data/runs/2026-11-25T18-27-03.412Z-4f1c/events.jsonl");
    let events = fs::read_to_string(&path).unwrap();
    let output = events.lines().find(|line| line.contains("\"output\"")).unwrap();
    fs::write(&path, events.replace(output, format!("{output}\n").repeat(2_000).trim_end())).unwrap();
    let script = "\"$0\" report 4f1c --json | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_farmhand")])
        .env("FARMHAND_HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(all(output), "0\n0\n\n");
}

#![allow(clippy::unwrap_used, clippy::panic)]

use farmhand_sdk::testing::{Script, context};
use serde_json::json;

use super::*;

const PATH: &str = "/etc/motd";

const ABSENT: &str = "stat: cannot statx '/etc/motd': No such file or directory\n";

/// What is there, behind links.
fn stat(guest: &Script, answer: Option<&str>) {
    let expected = guest.expect(["stat", "--format=%f %U %G %s", "--dereference", "--", PATH]).as_root();
    match answer {
        Some(answer) => drop(expected.stdout(answer)),
        None => drop(expected.exits(1).stderr(ABSENT)),
    }
}

fn run(guest: &Script, settings: serde_json::Value) -> Result<Outcome, Failure> {
    guest.run_module::<File>(&context().as_root(), settings)
}

#[test]
fn a_file_is_written_once() {
    let settings =
        || json!({ "path": PATH, "content": "hello\n", "mode": "0600", "owner": "ci", "group": "ci" });
    let guest = Script::new();
    stat(&guest, None);
    guest.expect(["chown", "--no-dereference", "ci:ci", "--", PATH]).as_root();
    assert_eq!(run(&guest, settings()).unwrap(), Outcome::changed("wrote /etc/motd"));
    assert_eq!(guest.file(PATH).unwrap(), b"hello\n");

    stat(&guest, Some("8180 ci ci 6\n"));
    assert_eq!(run(&guest, settings()).unwrap(), Outcome::unchanged("/etc/motd is as it should be"));
}

#[test]
fn only_what_differs_is_set() {
    let guest = Script::new();
    guest.add_file(PATH, "hello\n");
    stat(&guest, Some("81a4 root root 6\n"));
    guest.expect(["chown", "--dereference", ":adm", "--", PATH]).as_root();
    guest.expect(["chmod", "0640", "--", PATH]).as_root();
    let outcome =
        run(&guest, json!({ "path": PATH, "content": "hello\n", "mode": "0640", "group": "adm" })).unwrap();
    assert_eq!(outcome, Outcome::changed("set mode or owner of /etc/motd"));
}

#[test]
fn a_file_that_is_replaced_keeps_its_owner() {
    let guest = Script::new();
    guest.add_file(PATH, "old\n");
    stat(&guest, Some("81a4 www www 4\n"));
    guest.expect(["chown", "--no-dereference", "www:www", "--", PATH]).as_root();
    assert_eq!(
        run(&guest, json!({ "path": PATH, "content": "new!\n" })).unwrap(),
        Outcome::changed("wrote /etc/motd")
    );
}

#[test]
fn a_template_is_rendered() {
    let guest = Script::new();
    stat(&guest, None);
    let template = "{% for name in hosts %}127.0.0.1 {{ name }}\n{% endfor %}";
    let settings = json!({ "path": PATH, "template": template, "vars": { "hosts": ["a", "b"] } });
    run(&guest, settings).unwrap();
    assert_eq!(guest.file(PATH).unwrap(), b"127.0.0.1 a\n127.0.0.1 b\n");

    let failure = run(&Script::new(), json!({ "path": PATH, "template": "{{ missing }}" })).unwrap_err();
    assert!(matches!(&failure, Failure::InvalidSettings(text) if text.contains("undefined")), "{failure:?}");
}

#[test]
fn a_secret_is_written_each_time() {
    let guest = Script::new();
    for _ in 0..2 {
        stat(&guest, Some("8180 root root 6\n"));
        guest.expect(["chown", "…"]).as_root();
        let outcome = run(&guest, json!({ "path": PATH, "content": { "secret": "TOKEN" } })).unwrap();
        assert!(outcome.changed);
    }
    assert_eq!(guest.file(PATH).unwrap(), b"<secret TOKEN>");
}

#[test]
fn a_folder_is_made_once() {
    let settings = || json!({ "path": PATH, "state": "directory", "mode": "0700" });
    let guest = Script::new();
    stat(&guest, None);
    guest.expect(["mkdir", "--parents", "--", PATH]).as_root();
    guest.expect(["chmod", "0700", "--", PATH]).as_root();
    assert_eq!(run(&guest, settings()).unwrap(), Outcome::changed("made /etc/motd"));
    stat(&guest, Some("41c0 root root 4096\n"));
    assert!(!run(&guest, settings()).unwrap().changed);
}

#[test]
fn bits_that_chown_clears_are_set_after_it() {
    for (there, settings, owner) in [
        // Written: as a whole, or with another content.
        (None, json!({ "content": "new", "mode": "4755", "owner": "ci" }), "ci"),
        (Some("89ed ci ci 6\n"), json!({ "content": "new", "mode": "4755" }), "ci:ci"),
        (Some("89ed ci ci 6\n"), json!({ "content": "new" }), "ci:ci"),
        // Left as it is but for its owner.
        (Some("89ed root root 6\n"), json!({ "mode": "4755", "owner": "ci" }), "ci"),
        (Some("89ed root root 6\n"), json!({ "owner": "ci" }), "ci"),
    ] {
        let guest = Script::new();
        stat(&guest, there);
        guest.expect(["chown", "…", owner, "--", PATH]).as_root();
        guest.expect(["chmod", "4755", "--", PATH]).as_root();
        let mut with = json!({ "path": PATH });
        with.as_object_mut().unwrap().append(&mut settings.as_object().unwrap().clone());
        assert!(run(&guest, with).unwrap().changed);
    }
}

#[test]
fn a_folder_behind_a_link_is_a_folder() {
    let guest = Script::new();
    stat(&guest, Some("41ed root root 4096\n"));
    let outcome = run(&guest, json!({ "path": PATH, "state": "directory", "mode": "0755" })).unwrap();
    assert!(!outcome.changed);
}

/// What is there, links themselves.
fn stat_itself(guest: &Script, status: u32, stdout: &str, stderr: &str) {
    let expected = guest.expect(["stat", "--format=%f %U %G %s", "--", PATH]).as_root();
    expected.exits(status).stdout(stdout).stderr(stderr);
}

#[test]
fn what_is_there_is_removed_once() {
    let settings = || json!({ "path": PATH, "state": "absent" });
    // A folder; a link.
    for seen in ["41ed root root 4096\n", "a1ff root root 4\n"] {
        let guest = Script::new();
        stat_itself(&guest, 0, seen, "");
        guest.expect(["rm", "--recursive", "--force", "--one-file-system", "--", PATH]).as_root();
        assert_eq!(run(&guest, settings()).unwrap(), Outcome::changed("removed /etc/motd"));
        for words in [ABSENT, "stat: cannot statx '/etc/motd': Not a directory\n"] {
            stat_itself(&guest, 1, "", words);
            assert!(!run(&guest, settings()).unwrap().changed);
        }
    }
}

#[test]
fn what_can_not_be_seen_is_not_taken_for_absent() {
    let guest = Script::new();
    let words = "stat: cannot statx '/etc/motd': Permission denied";
    stat_itself(&guest, 1, "", words);
    let failure = run(&guest, json!({ "path": PATH, "state": "absent" })).unwrap_err();
    assert!(matches!(&failure, Failure::CommandFailed(text) if text.ends_with(words)), "{failure:?}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for settings in [
        json!({ "path": PATH, "content": "a", "template": "b" }),
        json!({ "path": PATH, "state": "directory", "content": "a" }),
    ] {
        assert!(matches!(run(&Script::new(), settings), Err(Failure::InvalidSettings(_))));
    }
    let guest = Script::new();
    stat(&guest, Some("41ed root root 4096\n"));
    assert!(matches!(run(&guest, json!({ "path": PATH })), Err(Failure::UnsupportedGuest(_))));
}

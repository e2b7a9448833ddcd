#![allow(clippy::unwrap_used, clippy::panic)]

use farmhand_sdk::testing::{Script, context};
use serde_json::json;

use super::*;

const BASH: &str = "bash 5.2.037-1\n";

fn list(guest: &Script, list: &str) {
    guest.expect(["pacman", "-Q"]).as_root().stdout(list);
}

fn run(guest: &Script, settings: serde_json::Value) -> Result<Outcome, Failure> {
    guest.run_module::<ArchPacman>(&context().as_root(), settings)
}

#[test]
fn installed_packages_are_left_alone() {
    let guest = Script::new();
    list(&guest, BASH);
    list(&guest, BASH);
    let outcome = run(&guest, json!({ "packages": ["bash", "bash=5.2.037", "bash=5.2.037-1"] })).unwrap();
    assert_eq!(outcome, Outcome::unchanged("nothing to do"));
}

#[test]
fn missing_packages_are_installed() {
    let guest = Script::new();
    list(&guest, BASH);
    guest
        .expect(["pacman", "--noconfirm", "--noprogressbar", "-S", "--needed", "--", "wget", "base-devel"])
        .as_root();
    list(&guest, &format!("{BASH}wget 1.25.0-1\nmake 4.4.1-2\n"));
    let outcome = run(&guest, json!({ "packages": ["bash", "wget", "base-devel"] })).unwrap();
    assert_eq!(outcome, Outcome::changed("installed wget 1.25.0-1, make 4.4.1-2"));
}

#[test]
fn another_version_is_asked_for() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["pacman", "…", "-S", "--needed", "--", "bash=5.3"]).as_root();
    list(&guest, "bash 5.3-1\n");
    assert_eq!(
        run(&guest, json!({ "packages": ["bash=5.3"] })).unwrap(),
        Outcome::changed("upgraded bash 5.3-1")
    );
}

#[test]
fn the_system_is_upgraded_as_a_whole() {
    for (settings, command) in [
        (json!({ "update": true, "upgrade": true, "cache_valid_time": 3600 }), "-Syu"),
        (json!({ "update": true, "upgrade": "dist" }), "-Syu"),
        (json!({ "upgrade": true }), "-Su"),
        (json!({ "update": true }), "-Sy"),
    ] {
        let guest = Script::new();
        list(&guest, BASH);
        guest.expect(["pacman", "--noconfirm", "--noprogressbar", command]).as_root();
        list(&guest, BASH);
        assert!(!run(&guest, settings).unwrap().changed);
    }
}

#[test]
fn absent_packages_are_removed_once() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["pacman", "…", "-R", "--", "bash"]).as_root();
    list(&guest, "");
    let outcome = run(&guest, json!({ "packages": ["bash", "never-there"], "state": "absent" })).unwrap();
    assert_eq!(outcome, Outcome::changed("removed bash"));
}

#[test]
fn fresh_lists_are_not_updated() {
    let folder = "/var/lib/pacman/sync";
    let fresh = format!("1000\n950 {folder}\n20 {folder}/core.db\n");
    let old = format!("1000\n900 {folder}\n999 {folder}/core.db\n");
    let empty = format!("1000\n999 {folder}\n");
    for (answer, updates) in [(fresh, false), (old, true), (empty, true), (String::new(), true)] {
        let guest = Script::new();
        list(&guest, BASH);
        guest.expect(["sh", "-c", LISTS]).as_root().stdout(answer);
        if updates {
            guest.expect(["pacman", "…", "-Sy"]).as_root();
        }
        list(&guest, BASH);
        run(&guest, json!({ "update": true, "cache_valid_time": 60 })).unwrap();
    }
}

#[test]
fn a_failure_says_command_status_and_last_words() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["pacman", "…"]).as_root().exits(1).stderr("error: target not found: wgte\n");
    let Err(Failure::CommandFailed(text)) = run(&guest, json!({ "packages": ["wgte"] })) else {
        panic!("it must fail");
    };
    assert!(text.ends_with("-- wgte` exited with status 1\nerror: target not found: wgte"), "{text}");
}

#[test]
fn an_option_is_not_a_package() {
    let failure = run(&Script::new(), json!({ "packages": ["--root=/"] })).unwrap_err();
    assert!(matches!(failure, Failure::InvalidSettings(_)));
}

#[test]
fn the_keyring_comes_before_an_upgrade() {
    let guest = Script::new();
    list(&guest, "archlinux-keyring 20240101-1\n");
    for command in [&["-Sy"][..], &["-S", "--needed", "--", "archlinux-keyring"], &["-Su"]] {
        let pacman = ["pacman", "--noconfirm", "--noprogressbar"];
        guest.expect(pacman.iter().chain(command).copied()).as_root();
    }
    list(&guest, "archlinux-keyring 20260101-1\n");
    let outcome = run(&guest, json!({ "update": true, "upgrade": true })).unwrap();
    assert_eq!(outcome, Outcome::changed("upgraded archlinux-keyring 20260101-1"));
}

#[test]
fn what_an_upgrade_brought_is_seen() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["pacman", "…", "-Su"]).as_root();
    list(&guest, "bash 5.3-1\n");
    guest.expect(["pacman", "…", "-S", "--needed", "--", "bash=5.2.037"]).as_root();
    list(&guest, BASH);
    let outcome = run(&guest, json!({ "upgrade": true, "packages": ["bash=5.2.037"] })).unwrap();
    assert_eq!(outcome, Outcome::unchanged("nothing to do"));
}

const MAIN: &str = "/etc/pacman.conf";
const CORE: &str = "[options]\n\n[core]\nServer = x\n";
const SHOWN: &str = "pub:-:255:22:AA:1:::-:::scESC::::::23::0:\nfpr:::::::::0123456789ABCDEF:\n";

fn file(name: &str) -> String {
    format!("/etc/pacman.d/farmhand/{name}.conf")
}

fn include(name: &str) -> String {
    format!("Include = {}\n", file(name))
}

fn repository(name: &str) -> serde_json::Value {
    json!({ "name": name, "uri": format!("https://example.org/{name}"), "key": "KEY\nOF IT\n" })
}

/// The file of such a repository.
fn section(name: &str) -> String {
    format!("# KEY\n# OF IT\n[{name}]\nServer = https://example.org/{name}\n")
}

fn takes_the_key(guest: &Script) {
    guest.expect(["gpg", "--show-keys", "--with-colons"]).as_root().stdout(SHOWN);
    guest.expect(["pacman-key", "--add", "-"]).as_root();
    guest.expect(["pacman-key", "--lsign-key", "0123456789ABCDEF"]).as_root();
}

fn writes(guest: &Script, path: &str, text: String) {
    guest.expect(["install", "-D", "-m", "0644", "/dev/stdin", path]).as_root().check(move |command| {
        assert_eq!(command.stdin, [text.as_str().into()]);
    });
}

#[test]
fn repositories_are_added_with_their_keys_in_the_order_in_which_they_are_named() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["cat", "--", MAIN]).as_root().stdout(CORE);
    for name in ["own", "a"] {
        guest.expect(["cat", "--", &file(name)]).as_root().exits(1);
        takes_the_key(&guest);
        writes(&guest, &file(name), section(name));
    }
    writes(&guest, MAIN, format!("{CORE}\n{}{}", include("own"), include("a")));
    guest.expect(["pacman", "…", "-Sy"]).as_root();
    list(&guest, BASH);
    let outcome = run(&guest, json!({ "repositories": [repository("own"), repository("a")] })).unwrap();
    assert_eq!(outcome, Outcome::changed("configured repository own, a"));
}

#[test]
fn a_repository_is_added_to_those_of_other_steps() {
    let guest = Script::new();
    list(&guest, BASH);
    let main = format!("{CORE}\n{}", include("own"));
    guest.expect(["cat", "--", MAIN]).as_root().stdout(main.clone());
    guest.expect(["cat", "--", &file("own")]).as_root().stdout(section("own"));
    guest.expect(["cat", "--", &file("b")]).as_root().exits(1);
    writes(&guest, &file("b"), "[b]\nServer = file:///b\nSigLevel = Never\n".to_owned());
    writes(&guest, MAIN, format!("{main}\n{}", include("b")));
    guest.expect(["pacman", "…", "-Sy"]).as_root();
    list(&guest, BASH);
    let more = json!({ "name": "b", "uri": "file:///b", "trusted": true });
    let outcome = run(&guest, json!({ "repositories": [repository("own"), more] })).unwrap();
    assert_eq!(outcome, Outcome::changed("configured repository b"));
}

#[test]
fn repositories_that_are_there_are_left_alone() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["cat", "--", MAIN]).as_root().stdout(format!("{CORE}\n{}", include("own")));
    guest.expect(["cat", "--", &file("own")]).as_root().stdout(section("own"));
    list(&guest, BASH);
    let outcome = run(&guest, json!({ "repositories": [repository("own")] })).unwrap();
    assert_eq!(outcome, Outcome::unchanged("nothing to do"));
}

#[test]
fn a_key_that_is_not_taken_leaves_no_file_behind() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["cat", "--", MAIN]).as_root().stdout(CORE);
    guest.expect(["cat", "--", &file("own")]).as_root().exits(1);
    guest.expect(["gpg", "…"]).as_root().stdout(SHOWN);
    guest.expect(["pacman-key", "--add", "-"]).as_root().exits(1).stderr("==> ERROR: no keyring\n");
    let failure = run(&guest, json!({ "repositories": [repository("own")] })).unwrap_err();
    assert!(matches!(failure, Failure::CommandFailed(text) if text.contains("no keyring")));
}

#[test]
fn another_key_is_taken() {
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["cat", "--", MAIN]).as_root().stdout(format!("{CORE}\n{}", include("own")));
    let before = section("own").replace("OF IT", "BEFORE");
    guest.expect(["cat", "--", &file("own")]).as_root().stdout(before);
    takes_the_key(&guest);
    writes(&guest, &file("own"), section("own"));
    guest.expect(["pacman", "…", "-Sy"]).as_root();
    list(&guest, BASH);
    let outcome = run(&guest, json!({ "repositories": [repository("own")] })).unwrap();
    assert_eq!(outcome, Outcome::changed("configured repository own"));
}

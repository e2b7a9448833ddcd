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
fn a_repository_is_added_with_its_key() {
    const OURS: &str = "/etc/pacman.d/farmhand.conf";
    const MAIN: &str = "/etc/pacman.conf";
    let guest = Script::new();
    list(&guest, BASH);
    guest.expect(["cat", "--", OURS]).as_root().exits(1);
    guest.expect(["install", "…", OURS]).as_root().check(|command| {
        assert_eq!(command.stdin, ["[own]\nServer = https://example.org/$arch\n".into()]);
    });
    let shown = "pub:-:255:22:AA:1:::-:::scESC::::::23::0:\nfpr:::::::::0123456789ABCDEF:\n";
    guest.expect(["gpg", "--show-keys", "--with-colons"]).as_root().stdout(shown);
    guest.expect(["pacman-key", "--add", "-"]).as_root();
    guest.expect(["pacman-key", "--lsign-key", "0123456789ABCDEF"]).as_root();
    guest.expect(["cat", "--", MAIN]).as_root().stdout("[options]\n\n[core]\nServer = x\n");
    guest.expect(["cat", "--", MAIN]).as_root().stdout("[options]\n\n[core]\nServer = x\n");
    guest.expect(["install", "…", MAIN]).as_root().check(|command| {
        let text = "[options]\n\n[core]\nServer = x\n\nInclude = /etc/pacman.d/farmhand.conf\n";
        assert_eq!(command.stdin, [text.into()]);
    });
    guest.expect(["pacman", "…", "-Sy"]).as_root();
    list(&guest, BASH);
    let repository = json!({ "name": "own", "uri": "https://example.org/$arch", "key": "KEY" });
    let outcome = run(&guest, json!({ "repositories": [repository] })).unwrap();
    assert_eq!(outcome, Outcome::changed("configured repository own"));
}

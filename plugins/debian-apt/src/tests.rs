#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use farmhand_sdk::testing::{Script, context};
use serde_json::json;

use super::*;

const BASH: &str = "bash\tamd64\t5.2\tinstalled\n";

fn dpkg(guest: &Script, list: &str) {
    guest.expect(["dpkg-query", "…"]).as_root().stdout(list);
}

fn run(guest: &Script, settings: serde_json::Value) -> Result<Outcome, Failure> {
    guest.run_module::<DebianApt>(&context().as_root(), settings)
}

#[test]
fn installed_packages_are_left_alone() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    dpkg(&guest, BASH);
    let outcome = run(&guest, json!({ "packages": ["bash", "bash=5.2", "bash:amd64"] })).unwrap();
    assert_eq!(outcome, Outcome::unchanged("nothing to do"));
}

#[test]
fn missing_packages_are_installed() {
    let guest = Script::new();
    dpkg(&guest, &format!("{BASH}curl\tamd64\t7.88\tconfig-files\n"));
    guest.expect(["apt-get", "-y", "-q", "…", "install", "--", "curl"]).as_root().check(|command| {
        assert!(
            command.env.iter().any(|it| it.name == "DEBIAN_FRONTEND" && it.value == "noninteractive".into())
        );
        assert!(command.log_output);
    });
    dpkg(
        &guest,
        &format!("{BASH}curl\tamd64\t7.88.1-10\tinstalled\nlibcurl4\tamd64\t7.88.1-10\tinstalled\n"),
    );
    let outcome = run(&guest, json!({ "packages": ["bash", "curl"] })).unwrap();
    assert_eq!(outcome, Outcome::changed("installed curl 7.88.1-10, libcurl4 7.88.1-10"));
}

#[test]
fn another_version_is_installed() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    guest.expect(["apt-get", "…", "--allow-downgrades", "install", "--", "bash=5.1"]).as_root();
    dpkg(&guest, "bash\tamd64\t5.1\tinstalled\n");
    assert_eq!(
        run(&guest, json!({ "packages": ["bash=5.1"] })).unwrap(),
        Outcome::changed("upgraded bash 5.1")
    );
}

#[test]
fn absent_packages_are_removed_once() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    guest.expect(["apt-get", "…", "remove", "--", "bash"]).as_root();
    dpkg(&guest, "");
    let outcome = run(&guest, json!({ "packages": ["bash", "never-there"], "state": "absent" })).unwrap();
    assert_eq!(outcome, Outcome::changed("removed bash"));
}

#[test]
fn upgrade_without_news_changes_nothing() {
    for (upgrade, command) in
        [(json!(true), "upgrade"), (json!("yes"), "upgrade"), (json!("dist"), "dist-upgrade")]
    {
        let guest = Script::new();
        dpkg(&guest, BASH);
        updates(&guest);
        guest.expect(["apt-get", "…", command]).as_root();
        dpkg(&guest, BASH);
        assert!(!run(&guest, json!({ "update": true, "upgrade": upgrade })).unwrap().changed);
    }
}

#[test]
fn what_an_upgrade_brought_or_removed_is_seen() {
    for (upgrade, command, after, argument) in [
        (json!(true), "upgrade", "bash\tamd64\t5.3\tinstalled\n", "bash=5.2"),
        (json!("dist"), "dist-upgrade", "", "bash=5.2"),
    ] {
        let guest = Script::new();
        dpkg(&guest, BASH);
        guest.expect(["apt-get", "…", command]).as_root();
        dpkg(&guest, after);
        guest.expect(["apt-get", "…", "--allow-downgrades", "install", "--", argument]).as_root();
        dpkg(&guest, BASH);
        let outcome = run(&guest, json!({ "upgrade": upgrade, "packages": ["bash=5.2"] })).unwrap();
        assert_eq!(outcome, Outcome::unchanged("nothing to do"));
    }
}

fn updates(guest: &Script) {
    guest.expect(["apt-get", "…", "-o", "APT::Update::Error-Mode=any", "update"]).as_root();
    guest.expect(["touch", "--", lists::STAMP]).as_root();
}

/// What is seen of lists that were updated at a time, beside sources and lists.
fn stamped(time: &str, others: &str) -> String {
    format!("1000\n{time} {}\n{others}", lists::STAMP)
}

const THERE: &str = "1.0 /var/lib/apt/lists\n999.0 /var/lib/apt/lists/partial\n\
                     20.0 /var/lib/apt/lists/mirror_Packages.lz4\n900.0 /etc/apt/sources.list\n";

#[test]
fn fresh_lists_are_not_updated() {
    let new_source = format!("{THERE}950.75 /etc/apt/sources.list.d/docker.sources\n");
    for (seen, is_fresh) in [
        (stamped("950.5", THERE), true),
        (stamped("900.0", THERE), false),
        (stamped("950.5", &new_source), false),
        // None are there.
        (stamped("999.0", "999.0 /var/lib/apt/lists\n999.0 /var/lib/apt/lists/partial\n"), false),
        // The clock went backwards.
        (stamped("2000.0", THERE), false),
        // No update went well, or somebody else's did.
        (format!("1000\n{THERE}"), false),
        (String::new(), false),
    ] {
        let guest = Script::new();
        dpkg(&guest, BASH);
        guest.expect(["sh", "-c", &lists::query()]).as_root().stdout(seen.clone());
        if !is_fresh {
            updates(&guest);
        }
        dpkg(&guest, BASH);
        run(&guest, json!({ "update": true, "cache_valid_time": 60 })).expect(&seen);
    }
}

#[test]
fn an_update_that_fails_leaves_no_stamp() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    guest.expect(["apt-get", "…", "update"]).as_root().exits(100);
    assert!(matches!(run(&guest, json!({ "update": true })), Err(Failure::CommandFailed(_))));
}

#[test]
fn a_failure_says_command_status_and_last_words() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    guest
        .expect(["apt-get", "…"])
        .as_root()
        .exits(100)
        .stdout("Reading package lists...\n")
        .stderr("E: Unable to locate package culr\n");
    let Err(Failure::CommandFailed(text)) = run(&guest, json!({ "packages": ["culr"] })) else {
        panic!("it must fail");
    };
    assert!(text.starts_with("`apt-get -y -q"), "{text}");
    assert!(
        text.contains("install -- culr` exited with status 100\nE: Unable to locate package culr"),
        "{text}"
    );
}

#[test]
fn without_root_it_says_what_to_do() {
    let guest = Script::new();
    guest.expect(["dpkg-query", "…"]).stdout(BASH);
    guest.expect(["apt-get", "…"]).exits(100).stderr("E: Could not open lock file (13: Permission denied)\n");
    let failure = guest.run_module::<DebianApt>(&context(), json!({ "packages": ["curl"] })).unwrap_err();
    assert!(
        matches!(failure, Failure::CommandFailed(text) if text.ends_with("give the step `become: true`"))
    );
}

#[test]
fn what_apt_would_take_for_something_else_is_refused() {
    for name in ["bash-", "-oX=y"] {
        let failure = run(&Script::new(), json!({ "packages": [name] })).unwrap_err();
        assert!(matches!(failure, Failure::InvalidSettings(_)), "{failure:?}");
    }
}

const SOURCES: &str = "/etc/apt/sources.list.d/docker.sources";
const KEY: &str = "/etc/apt/keyrings/docker.asc";

#[test]
fn a_repository_is_added_with_its_key_and_the_lists_are_updated() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    guest.expect(["cat", "--", KEY]).as_root().exits(1);
    guest.expect(["install", "-D", "-m", "0644", "/dev/stdin", KEY]).as_root().check(|command| {
        assert_eq!(command.stdin, ["-----BEGIN PGP PUBLIC KEY BLOCK-----\n".into()]);
    });
    guest.expect(["cat", "--", SOURCES]).as_root().exits(1);
    guest.expect(["install", "…", SOURCES]).as_root().check(|command| {
        let text = "Types: deb\nURIs: https://example.org/debian\nSuites: bookworm\nComponents: stable\nSigned-By: \
                    /etc/apt/keyrings/docker.asc\n";
        assert_eq!(command.stdin, [text.into()]);
    });
    updates(&guest);
    dpkg(&guest, BASH);
    let repository = json!({
        "name": "docker", "uri": "https://example.org/debian", "suites": ["bookworm"], "components": ["stable"],
        "key": "-----BEGIN PGP PUBLIC KEY BLOCK-----",
    });
    let outcome = run(&guest, json!({ "repositories": [repository], "cache_valid_time": 3600 })).unwrap();
    assert_eq!(outcome, Outcome::changed("configured repository docker"));
}

#[test]
fn a_repository_that_is_there_is_left_alone() {
    let guest = Script::new();
    dpkg(&guest, BASH);
    let sources = "Types: deb\nURIs: http://127.0.0.1/x\nSuites: ./\nTrusted: yes\n";
    guest.expect(["cat", "--", SOURCES]).as_root().stdout(sources);
    guest.expect(["sh", "-c", &lists::query()]).as_root().stdout(stamped("950.5", THERE));
    dpkg(&guest, BASH);
    let repository =
        json!({ "name": "docker", "uri": "http://127.0.0.1/x", "suites": ["./"], "trusted": true });
    let outcome = run(&guest, json!({ "repositories": [repository], "cache_valid_time": 60 })).unwrap();
    assert_eq!(outcome, Outcome::unchanged("nothing to do"));
}

#[test]
fn a_repository_needs_suites_and_components() {
    for repository in [
        json!({ "name": "x", "uri": "http://x" }),
        json!({ "name": "x", "uri": "http://x", "suites": ["stable"] }),
        json!({ "name": "x", "uri": "http://x", "suites": ["./"], "components": ["main"] }),
    ] {
        let guest = Script::new();
        dpkg(&guest, BASH);
        let failure = run(&guest, json!({ "repositories": [repository] })).unwrap_err();
        assert!(matches!(failure, Failure::InvalidSettings(_)), "{failure:?}");
    }
}

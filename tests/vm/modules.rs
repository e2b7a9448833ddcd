//! The modules that come with farmhand, on real guests: each does its work once, and finds nothing to do the second time.
//! And what a farm's operator sees of grants and of `plan --deep`.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::farm::Farm;

/// Makes a farm's phases these, and no others; and its modules' grants.
fn replace(farm: &Farm, modules: &str, phases: &[(&str, &str)]) {
    let folder = farm.path("farm/provisioning_phases");
    fs::remove_dir_all(&folder).unwrap();
    for (file, text) in phases {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    farm.edit("farm/farm.yaml", |text| {
        let (before, _) = text.split_once("modules:").unwrap();
        // Guests boot slowly where many tests run beside each other.
        format!("{before}connection_timeout: 600\nmodules:\n{modules}")
    });
}

/// The line of a phase file for a step. JSON is YAML.
fn step(name: &str, uses: &str, with: &Value) -> String {
    format!("- {}\n", json!({ "name": name, "uses": uses, "with": with, "become": true }))
}

/// The same step twice: the second one is to find nothing to do.
fn twice(steps: &[(&str, &str, Value)]) -> String {
    let both = |(name, uses, with): &(&str, &str, Value)| {
        step(name, uses, with) + &step(&format!("{name}, again"), uses, with)
    };
    steps.iter().map(both).collect()
}

/// A script for the shell module, which makes a change each time.
fn script(name: &str, text: &str) -> String {
    format!("- {}\n", json!({ "name": name, "run": text, "become": true }))
}

#[track_caller]
fn did_each_once(run: &crate::farm::Run, machine: &str, steps: &[(&str, &str, Value)]) {
    for (name, ..) in steps {
        assert_eq!(run.step(machine, name), Some(true), "{name}");
        assert_eq!(run.step(machine, &format!("{name}, again")), Some(false), "{name}, again");
    }
}

/// Runs a script on this host, and gives what it prints.
fn on_host(folder: &Path, text: &str) -> String {
    let output = Command::new("sh").args(["-euc", text]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const ROOT: &str = "{ exec: true, become: true }";

/// A signed repository with one package, `own-hello`; prints it as Base64 of a tar, and leaves the key in `key.asc` and
/// another one, which it is not signed with, in `other.asc`.
const DEBIAN_REPOSITORY: &str = r#"
export GNUPGHOME=$PWD/gnupg
mkdir -m 700 gnupg
key() { gpg --quiet --batch --passphrase '' --quick-gen-key "$1" ed25519 sign never 2>/dev/null; gpg --armor --export "$1"; }
key 'Other <other@example.org>' >other.asc
key 'Own <own@example.org>' >key.asc
mkdir -p package/DEBIAN repository
printf 'Package: own-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: Own <own@example.org>\nDescription: x\n' >package/DEBIAN/control
dpkg-deb --root-owner-group --build package repository/own-hello.deb >/dev/null
cd repository
dpkg-scanpackages . 2>/dev/null >Packages
{
    echo 'Origin: own'
    date -Ru --date='1 hour ago' | sed 's/^/Date: /; s/+0000/UTC/'
    echo 'SHA256:'
    echo " $(sha256sum Packages | cut -d' ' -f1) $(wc -c <Packages) Packages"
} >Release
gpg --quiet --batch --local-user own@example.org --clearsign --output InRelease Release
rm Release
tar -cz . | base64
gpgconf --kill all
"#;

#[test]
fn shipped_modules_on_debian() {
    let farm = Farm::example();
    let host = tempfile::tempdir().unwrap();
    let repository = on_host(host.path(), DEBIAN_REPOSITORY);
    let read = |file: &str| fs::read_to_string(host.path().join(file)).unwrap();
    let own = |key: &str| {
        json!({
            "repositories": [{ "name": "own", "uri": "file:/srv/own", "suites": ["./"], "key": read(key) }],
            "packages": ["own-hello"],
        })
    };
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    let steps = [
        ("Install", "package", json!({ "packages": ["tree"] })),
        ("Install from a repository with a key", "package", own("key.asc")),
        ("Remove", "package", json!({ "packages": ["tree", "own-hello"], "state": "absent" })),
        ("Script", "shell", json!({ "run": "touch /srv/made", "creates": "/srv/made" })),
        ("Write", "file", json!({ "path": "/etc/systemd/system/own.service", "content": unit })),
        (
            "Render",
            "file",
            json!({
                "path": "/srv/hosts", "template": "{% raw %}{% for name in names %}{{ name }}\n{% endfor %}{% endraw %}",
                "vars": { "names": ["a", "b"] }, "mode": "0640", "owner": "tester", "group": "adm",
            }),
        ),
        ("Make a folder", "file", json!({ "path": "/srv/data/deep", "state": "directory", "mode": "0750" })),
        ("Remove a folder", "file", json!({ "path": "/srv/data", "state": "absent" })),
        (
            "Start",
            "service",
            json!({ "name": "own", "state": "started", "enabled": true, "daemon_reload": true }),
        ),
        ("Stop", "service", json!({ "name": "own", "state": "stopped", "enabled": false })),
        ("Add a user", "user", json!({ "name": "builder", "groups": ["adm"], "shell": "/bin/sh" })),
        (
            "Change a user",
            "user",
            json!({ "name": "builder", "groups": ["adm", "audio"], "shell": "/bin/bash" }),
        ),
        ("Remove a user", "user", json!({ "name": "builder", "state": "absent", "remove_home": true })),
        ("Set the zone", "clock", json!({ "timezone": "Europe/Berlin" })),
    ];
    let main = script("Only what lies in the image", "sed -i '/^deb http/d' /etc/apt/sources.list")
        + &script(
            "Unpack",
            &format!("mkdir /srv/own && base64 -d <<'E' | tar -xzC /srv/own\n{repository}E\n"),
        )
        + &twice(&steps)
        + &script("Let the clock go wrong", "date -s '2001-02-03 04:05:06'")
        + &twice(&[("Set the clock", "clock", json!({}))]);
    let modules = format!(
        "  debian-apt: {{ grants: {ROOT} }}\n  shell: {{ grants: {ROOT} }}\n  service: {{ grants: {ROOT} }}\n  user: {{ grants: {ROOT} }}\n  clock: {{ grants: {ROOT} }}\n  file:\n    grants: {{ exec: true, become: true, files: [/etc/systemd/system/*, '/srv/**'] }}\n"
    );
    replace(&farm, &modules, &[("main.yaml", &main)]);
    let machine = farm.machine("debian_vs");
    let run = farm.up(&[&machine]);
    run.passed();
    did_each_once(&run, &machine, &steps);
    did_each_once(&run, &machine, &[("Set the clock", "clock", json!({}))]);

    // The end of it all.
    let seen = farm.in_guest(
        "debian_vs",
        "cat /srv/hosts; stat -c '%a %U %G' /srv/hosts; ls -d /srv/data /home/builder 2>&1 | wc -l; \
         systemctl is-active own; systemctl is-enabled own; readlink -f /etc/localtime; date +%Y; true",
    );
    let lines: Vec<&str> = seen.lines().collect();
    let expected =
        ["a", "b", "640 tester adm", "2", "inactive", "disabled", "/usr/share/zoneinfo/Europe/Berlin"];
    assert_eq!(lines[..7], expected, "{seen}");
    assert!(lines[7].parse::<u32>().unwrap() > 2001, "{seen}");

    // A repository is only as good as its key.
    fs::write(
        farm.path("farm/provisioning_phases/main.yaml"),
        main.lines().take(2).map(|line| format!("{line}\n")).collect::<String>()
            + &step("Install with another key", "package", &own("other.asc")),
    )
    .unwrap();
    let refused = farm.up(&[&machine]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let failure = refused.failure(&machine).to_string();
    assert!(failure.contains("Install with another key") && failure.contains("NO_PUBKEY"), "{failure}");
}

/// Two versions of the keyring's package, of which the newer one is in the repository; prints it as Base64 of a tar.
const ARCH_REPOSITORY: &str = r#"
export GNUPGHOME=$PWD/gnupg
mkdir -m 700 gnupg
gpg --quiet --batch --passphrase '' --quick-gen-key 'Own <own@example.org>' ed25519 sign never 2>/dev/null
gpg --armor --export own@example.org >key.asc
mkdir repository
package() {
    mkdir -p p/usr/share/own
    echo "$2" >p/usr/share/own/"$1"
    printf 'pkgname = %s\npkgbase = %s\npkgver = %s\npkgdesc = x\narch = any\nsize = 1\n' "$1" "$1" "$2" >p/.PKGINFO
    bsdtar --zstd -cf "repository/$1-$2-any.pkg.tar.zst" -C p .PKGINFO usr
    rm -r p
}
package archlinux-keyring 1-1
package archlinux-keyring 2-1
package own-hello 1-1
cd repository
gpg --quiet --batch --local-user own@example.org --detach-sign own-hello-1-1-any.pkg.tar.zst
repo-add --quiet own.db.tar.gz archlinux-keyring-2-1-any.pkg.tar.zst own-hello-1-1-any.pkg.tar.zst >/dev/null
gpg --quiet --batch --local-user own@example.org --detach-sign --output own.db.sig own.db.tar.gz
# pacman-key needs these, which the stand-in for Arch Linux lacks.
cp -r /usr/share/makepkg/util .
tar -ch . | gzip | base64
gpgconf --kill all
"#;

#[test]
fn pacman_on_arch_linux() {
    let farm = Farm::example();
    let host = tempfile::tempdir().unwrap();
    let repository = on_host(host.path(), ARCH_REPOSITORY);
    let key = fs::read_to_string(host.path().join("key.asc")).unwrap();
    let own = json!({ "name": "own", "uri": "file:///srv/own", "key": key });
    let steps = [
        ("Install", "package", json!({ "update": true, "packages": ["tree"] })),
        (
            "Install from a repository with a key",
            "package",
            json!({ "repositories": [own], "packages": ["own-hello"] }),
        ),
        ("Upgrade", "package", json!({ "update": true, "upgrade": true })),
        ("Remove", "package", json!({ "packages": ["tree", "own-hello"], "state": "absent" })),
    ];
    // As in an old checkpoint: an old keyring is installed, and the mirror has a newer one.
    let dependencies = script(
        "An old system",
        &format!(
            "mkdir /srv/own && base64 -d <<'E' | tar -xzC /srv/own\n{repository}E\n\
             pacman --noconfirm -U /srv/own/archlinux-keyring-1-1-any.pkg.tar.zst\n\
             sed -i 's/^SigLevel.*/SigLevel = Optional TrustedOnly/' /etc/pacman.conf\n\
             sed -i 's/^\\[core\\]/[core]\\nSigLevel = Never/' /etc/pacman.conf\n\
             mkdir -p /usr/share/makepkg && mv /srv/own/util /usr/share/makepkg/ && pacman-key --init\n"
        ),
    );
    let modules = format!("  arch-pacman: {{ grants: {ROOT} }}\n  shell: {{ grants: {ROOT} }}\n");
    replace(&farm, &modules, &[("dependencies.yaml", &dependencies), ("main.yaml", &twice(&steps))]);
    let machine = farm.machine("Arch-Linux");
    let first = farm.up(&[&machine]);
    first.passed();
    did_each_once(&first, &machine, &steps);

    // After a restore the keyring is old again, and is brought up to date before anything else.
    let again = farm.up(&[&machine, "--record", farm.path("record").to_str().unwrap()]);
    again.passed();
    assert_eq!(again.operations(&machine)[..2], ["restore dependencies", "main"]);
    did_each_once(&again, &machine, &steps);
    let upgrades = effects(&farm.path("record").join(&machine).join("main-5-arch-pacman.json"));
    let verbs: Vec<&str> =
        upgrades.iter().map(|argv| argv.split_once("--noprogressbar ").unwrap().1).collect();
    assert_eq!(verbs, ["-Sy", "-S --needed -- archlinux-keyring", "-Su"]);
    assert_eq!(farm.in_guest("Arch-Linux", "pacman -Q archlinux-keyring").trim(), "archlinux-keyring 2-1");
}

/// The commands of a transcript that do not only look.
fn effects(transcript: &Path) -> Vec<String> {
    let text = fs::read_to_string(transcript).unwrap_or_else(|error| panic!("{transcript:?}: {error}"));
    let transcript: Value = serde_json::from_str(&text).unwrap();
    let calls = transcript["calls"].as_array().unwrap().iter();
    let commands = calls.filter_map(|recorded| recorded["call"].get("exec"));
    let changing = commands.filter(|command| command["read_only"] != true);
    changing.map(|command| words(&command["argv"])).collect()
}

fn words(argv: &Value) -> String {
    let words: Vec<&str> = argv.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    words.join(" ")
}

/// The commands that `plan --deep` says would be run in a phase of the machine.
fn planned(farm: &Farm, machine: &str, phase: &str) -> Vec<String> {
    let plans: Value = serde_json::from_str(&farm.prints(&["plan", "--deep", "--json", machine])).unwrap();
    let phases = plans[0]["phases"].as_array().unwrap();
    let phase = phases.iter().find(|it| it["phase"] == phase).unwrap();
    let steps = phase["steps"].as_array().unwrap().iter();
    let calls = steps.flat_map(|step| step["calls"].as_array().unwrap());
    let held_back = calls.filter(|call| call["answer"] == "held-back");
    held_back.map(|call| words(&call["call"]["exec"]["argv"])).collect()
}

#[test]
fn grants_and_a_deep_plan() {
    let farm = Farm::example();
    let machine = farm.machine("debian_vs");
    let install = |packages: Value| step("Install", "package", &json!({ "packages": packages }));
    let greet = step("Greet", "file", &json!({ "path": "/etc/motd", "content": "hello\n" }));
    replace(
        &farm,
        &format!("  debian-apt: {{ grants: {ROOT} }}\n  file: {{ grants: {ROOT} }}\n"),
        &[("dependencies.yaml", &install(json!(["tree"]))), ("main.yaml", &greet)],
    );

    // One grant is missing: nothing is touched, and the line to add is there.
    let refused = farm.farmhand(&["up", &machine]);
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    let line = "grants: { exec: true, become: true, files: [\"/etc/motd\"] }";
    assert!(stderr.contains(line), "{stderr}");
    assert_eq!(farm.traces(), Vec::<String>::new());

    // What nobody knows yet is said to be that.
    farm.edit("farm/farm.yaml", |text| {
        text.replace(&format!("file: {{ grants: {ROOT} }}"), &format!("file: {{ {line} }}"))
    });
    let before = farm.prints(&["plan", "--deep", &machine]);
    assert!(before.contains("not known  dpkg-query") && before.contains("what comes after that"), "{before}");
    assert_eq!(farm.traces(), Vec::<String>::new());

    // With the line it runs.
    let first = farm.up(&[&machine]);
    first.passed();
    assert_eq!(first.step(&machine, "Greet"), Some(true));

    // The plan's commands are those that are then run; what is done already is not planned again.
    fs::write(farm.path("farm/provisioning_phases/dependencies.yaml"), install(json!(["tree", "wget"])))
        .unwrap();
    let plan = planned(&farm, &machine, "dependencies");
    let on_off = farm.prints(&["status"]);
    assert!(plan.len() == 1 && plan[0].ends_with("install -- tree wget"), "{plan:?}");
    assert!(!on_off.contains("running"), "a deep plan starts no machine: {on_off}");
    let second = farm.up(&[&machine, "--record", farm.path("record").to_str().unwrap()]);
    second.passed();
    let record = farm.path("record").join(&machine);
    assert_eq!(effects(&record.join("dependencies-1-debian-apt.json")), plan);
    insta::assert_snapshot!("deep_plan", farm.prints(&["plan", "--deep", &machine]));
}

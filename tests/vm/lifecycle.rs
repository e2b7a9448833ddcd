//! The example, from nothing to nothing.

use crate::farm::{Farm, eventually};

const DEPENDENCIES: &str = "farm/provisioning_phases/debian_vs/dependencies.yaml";

#[test]
fn example_from_first_run_to_destroy() {
    let farm = Farm::example();
    // Other tests' machines may boot at the same time.
    farm.edit("farm/farm.yaml", |text| text + "\nconnection_timeout: 600\n");
    let [debian, arch] = ["debian_vs", "Arch-Linux"].map(|platform| farm.machine(platform));

    // The first run does everything.
    let first = farm.up(&["--jobs", "2"]);
    first.passed();
    let everything = [
        "install",
        "startup",
        "create clean",
        "dependencies",
        "create dependencies",
        "init",
        "create init",
        "main",
        "terminate",
        "shutdown",
    ];
    assert_eq!(first.operations(&debian), everything);
    assert_eq!(first.operations(&arch), everything);
    assert_eq!(first.step(&debian, "Install dependencies"), Some(true));
    assert_eq!(first.step(&arch, "Make sure the system is up to date"), Some(true), "greeter is upgraded");

    // The second run restores init.
    let second = farm.up(&["--jobs", "2"]);
    second.passed();
    let again = ["restore init", "main", "terminate", "shutdown"];
    assert_eq!(second.operations(&debian), again);
    assert_eq!(second.operations(&arch), again);
    assert_eq!(farm.newest_record(), second.events, "the record has what was printed");

    // What the phases did is there; a machine that is off is started.
    assert!(
        farm.in_guest("debian_vs", "dpkg-query -W -f '${Status}' curl && curl --version")
            .contains("install ok")
    );
    assert!(farm.in_guest("Arch-Linux", "pacman -Q wget && wget --version").contains("GNU Wget"));
    let refused = farm.farmhand(&["ssh", &debian, "--", "exit 7"]);
    assert_eq!(refused.status.code(), Some(7), "ssh's own exit code");

    // A console shows what a machine writes to its serial port, and starts it if need be.
    // The guest may hang up before the command has ended.
    let off = farm.farmhand(&["ssh", &arch, "--", "sudo poweroff"]).status.code();
    assert!(matches!(off, Some(0 | 255)), "{off:?}");
    eventually(|| farm.prints(&["status", &arch]).contains("shut off"));
    // It boots, which is waited for.
    let write = || drop(farm.in_guest("Arch-Linux", "echo so it is | sudo tee /dev/ttyS0"));
    assert!(farm.console("Arch-Linux", write, "so it is").contains("is off: starting it"));

    // A snapshot can be gone back to, and the clock is right afterwards.
    farm.prints(&["snapshot", "revert", &debian, "clean"]);
    assert_eq!(farm.in_guest("debian_vs", "command -v curl || echo none").trim(), "none");
    let guest_time: i64 = farm.in_guest("debian_vs", "date +%s").trim().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((now - guest_time).abs() < 30, "the guest's clock is {} s behind", now - guest_time);

    // A changed setting makes one machine's checkpoints stale, and only that is done again.
    farm.edit(DEPENDENCIES, |text| text.replace("[curl]", "[curl, tree]"));
    insta::assert_snapshot!("plan_with_one_more_package", farm.prints(&["plan"]));
    let changed = farm.up(&[]);
    changed.passed();
    assert_eq!(changed.operations(&debian)[..2], ["restore clean", "dependencies"]);
    assert_eq!(changed.operations(&arch), again);

    // One machine's failure leaves the other alone, and its terminate still runs.
    farm.edit("farm/provisioning_phases/Arch-Linux/dependencies.yaml", |text| {
        text.replace("[wget]", "[no-such-package]")
    });
    let broken = farm.up(&[]);
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    assert_eq!(broken.operations(&arch), ["restore clean", "dependencies", "terminate", "shutdown"]);
    let failure = broken.failure(&arch);
    assert_eq!(
        (failure["during"].as_str(), failure["step"].as_str()),
        (Some("dependencies"), Some("Install dependencies"))
    );
    assert!(failure.to_string().contains("no-such-package"), "{failure}");
    assert!(broken.failure(&debian).is_null());
    assert_eq!(broken.operations(&debian), again);

    // A login that is refused is said to be that.
    farm.edit("farm/setup_vm/platforms/debian_vs.yaml", |text| {
        text.replace("password: tester", "password: wrong")
    });
    let refused = farm.up(&[&debian]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let failure = refused.failure(&debian).to_string();
    assert!(failure.contains("login as tester") && failure.contains("vm.metadata.auth"), "{failure}");
    assert!(!failure.contains("wrong"), "the password is a secret: {failure}");

    // Nothing is left behind.
    assert!(!farm.traces().is_empty(), "the traces of machines are looked for in the right places");
    farm.prints(&["destroy"]);
    assert_eq!(farm.traces(), Vec::<String>::new());
}

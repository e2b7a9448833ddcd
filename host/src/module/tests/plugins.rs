//! The real modules, built from `plugins/`, and the library that finds them.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::support::*;
use crate::{
    base::{Grants, Phase},
    guest::Facts,
    module::*,
};

const PLUGINS: [&str; 3] = ["debian-apt", "arch-pacman", "shell"];

/// `target/modules`, with the modules in it: built once.
async fn folder() -> Utf8PathBuf {
    static BUILT: OnceCell<Utf8PathBuf> = OnceCell::const_new();
    let build_all = || async {
        let program = Utf8PathBuf::from_path_buf(std::env::current_exe().unwrap()).unwrap();
        let folder = program.ancestors().nth(3).unwrap().join("modules");
        for name in PLUGINS {
            let source = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name);
            build(&source, &folder.join(format!("{name}.wasm"))).await.unwrap();
        }
        folder
    };
    BUILT.get_or_init(build_all).await.clone()
}

pub(super) async fn library() -> Library {
    let folder = folder().await;
    let cache = folder.with_file_name("modules-cache");
    Library::new(Engine::new(Some(cache), Limits::default()).unwrap(), vec![folder])
}

async fn run(uses: &str, settings: Value, guest: &Arc<FakeGuest>) -> Result<Outcome, ModuleError> {
    let module = library().await.resolve(uses, "debian_vs", None).await.unwrap();
    let mut call = call_on(guest.clone());
    call.context.settings = settings;
    module.run(Call { grants: granted(), ..call }).await
}

#[tokio::test]
async fn they_describe_themselves() {
    let library = library().await;
    assert!(library.broken().await.is_empty());
    let of = async |name: &str| library.resolve(name, "plan9", None).await.unwrap().descriptor().clone();
    let asked =
        |descriptor: &Descriptor| descriptor.capabilities.iter().map(|request| request.capability).collect();

    let apt = of("debian-apt").await;
    assert_eq!((apt.provides.as_slice(), apt.phases.as_slice()), (&["package".to_owned()][..], &[][..]));
    assert_eq!(apt.platforms, ["debian*", "ubuntu*"]);
    let capabilities: Vec<Capability> = asked(&apt);
    assert_eq!(capabilities, [Capability::Exec, Capability::Become]);
    assert!(apt.can_carry_out(Phase::Terminate));

    assert_eq!(of("arch-pacman").await.platforms, ["Arch*", "arch*"]);
    let shell = of("shell").await;
    let capabilities: Vec<Capability> = asked(&shell);
    assert_eq!(capabilities, [Capability::Exec]);
    assert!(shell.platforms.is_empty());
}

#[tokio::test]
async fn settings_are_checked_by_their_schemas() {
    let library = library().await;
    for (uses, settings, expected) in [
        ("debian-apt", json!({}), None),
        (
            "debian-apt",
            json!({ "update": true, "cache_valid_time": 3600, "upgrade": "dist", "packages": ["a=1.2-3~x"] }),
            None,
        ),
        (
            "debian-apt",
            json!({ "upgrade": true, "state": "latest", "packages": ["libc6:i386", "g++"] }),
            None,
        ),
        ("debian-apt", json!({ "packages": "curl" }), Some("/packages")),
        ("debian-apt", json!({ "packages": ["-y"] }), Some("/packages/0")),
        ("debian-apt", json!({ "packages": ["a b"] }), Some("/packages/0")),
        ("debian-apt", json!({ "state": "gone" }), Some("/state")),
        ("debian-apt", json!({ "upgrade": "maybe" }), Some("/upgrade")),
        ("debian-apt", json!({ "cache_valid_time": -1 }), Some("/cache_valid_time")),
        ("debian-apt", json!({ "pakages": [] }), Some("/pakages")),
        ("shell", json!({ "run": "true", "env": { "A": 1, "B": "x", "C": true } }), None),
        ("shell", json!({ "run": "true", "env": { "A": [] } }), Some("/env/A")),
        ("shell", json!({ "cwd": "/" }), Some("")),
        ("shell", json!({ "run": "true", "exit_codes": [256] }), Some("/exit_codes/0")),
    ] {
        let module = library.resolve(uses, "x", None).await.unwrap();
        let problem = module.check_settings(&settings).err().map(|problems| problems[0].path.clone());
        assert_eq!(problem.as_deref(), expected, "{uses} {settings}");
    }
}

#[tokio::test]
async fn the_platform_decides_who_provides() {
    let library = library().await;
    let ubuntu =
        Facts { os_id: "ubuntu".to_owned(), os_id_like: vec!["debian".to_owned()], ..Facts::default() };
    let manjaro =
        Facts { os_id: "manjaro".to_owned(), os_id_like: vec!["arch".to_owned()], ..Facts::default() };
    for (platform, facts, expected) in [
        ("debian_vs", None, "debian-apt"),
        ("Arch-Linux", None, "arch-pacman"),
        ("builder", Some(&ubuntu), "debian-apt"),
        ("builder", Some(&manjaro), "arch-pacman"),
    ] {
        let module = library.resolve("package", platform, facts).await.unwrap();
        assert_eq!(module.descriptor().name, expected, "{platform}");
    }
    let error = library.resolve("package", "plan9", None).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotForPlatform { .. }), "{error}");
    let error = library.resolve("debain-apt", "debian_vs", None).await.unwrap_err();
    assert!(error.to_string().contains("did you mean `debian-apt`?"), "{error}");
    assert!(error.to_string().contains(folder().await.as_str()), "{error}");
    let path = folder().await.join("shell.wasm");
    assert_eq!(library.resolve(path.as_str(), "x", None).await.unwrap().descriptor().name, "shell");
}

#[tokio::test]
async fn two_equal_claims_are_an_error_that_names_both() {
    let home = tempfile::tempdir().unwrap();
    let home = Utf8Path::from_path(home.path()).unwrap();
    for (folder, name) in [("a", "one"), ("a", "two"), ("b", "two"), ("b", "three")] {
        let platforms =
            if name == "three" { vec!["debian_x".to_owned()] } else { vec!["debian*".to_owned()] };
        let (name, provides) = (name.to_owned(), vec!["package".to_owned()]);
        let module = Wat { name: name.clone(), provides, platforms, ..wat("i32.const 64") };
        std::fs::create_dir_all(home.join(folder)).unwrap();
        std::fs::write(home.join(folder).join(format!("{name}.wasm")), module.component()).unwrap();
    }
    std::fs::write(home.join("b/broken.wasm"), "no module").unwrap();
    let library = Library::new(engine(), vec![home.join("a"), home.join("b"), home.join("missing")]);
    let error = library.resolve("package", "debian_vs", None).await.unwrap_err().to_string();
    assert!(error.contains("one (") && error.contains("two (") && error.contains("a/two.wasm"), "{error}");
    // The exact name comes before both; the first folder's `two` hides the second's; what is broken is in nobody's way.
    assert_eq!(library.resolve("package", "debian_x", None).await.unwrap().descriptor().name, "three");
    assert!(library.resolve("two", "x", None).await.unwrap().source().contains("a/two.wasm"));
    assert_eq!(library.broken().await.len(), 1);
}

#[tokio::test]
async fn apt_installs_what_is_missing() {
    let installed = std::sync::atomic::AtomicBool::new(false);
    let guest = Arc::new(FakeGuest::new(move |command| {
        use std::sync::atomic::Ordering::Relaxed;
        assert!(command.r#become);
        match command.argv[0].as_str() {
            "dpkg-query" if installed.load(Relaxed) => {
                (0, b"bash\tamd64\t5.2\tinstalled\ncurl\tamd64\t8.0\tinstalled\n".to_vec())
            }
            "dpkg-query" => (0, b"bash\tamd64\t5.2\tinstalled\n".to_vec()),
            "apt-get" => {
                installed.store(true, Relaxed);
                (0, b"Setting up curl (8.0) ...\n".to_vec())
            }
            other => panic!("{other}"),
        }
    }));
    let settings = json!({ "packages": ["bash", "curl"] });
    let first = run("package", settings.clone(), &guest).await.unwrap();
    assert_eq!(first, Outcome { changed: true, summary: "installed curl 8.0".to_owned() });
    let second = run("package", settings, &guest).await.unwrap();
    assert_eq!(second, Outcome { changed: false, summary: "nothing to do".to_owned() });
    let apt = guest.run().into_iter().filter(|command| command.starts_with("apt-get")).collect::<Vec<_>>();
    assert_eq!(apt.len(), 1);
    assert!(apt[0].ends_with("install -- curl"), "{}", apt[0]);
}

#[tokio::test]
async fn pacman_upgrades_the_system() {
    let guest = Arc::new(FakeGuest::new(|_| (0, b"bash 5.2-1\n".to_vec())));
    let outcome = run("arch-pacman", json!({ "update": true, "upgrade": true }), &guest).await.unwrap();
    assert!(!outcome.changed);
    assert_eq!(guest.run(), ["pacman -Q", "pacman --noconfirm --noprogressbar -Syu", "pacman -Q"]);
}

#[tokio::test]
async fn a_script_that_fails_says_how() {
    let guest = Arc::new(FakeGuest::new(|_| (2, b"make: *** no rule\n".to_vec())));
    let error = run("shell", json!({ "run": "make", "cwd": "/src" }), &guest).await.unwrap_err();
    assert_eq!(error.to_string(), "the script exited with status 2\nmake: *** no rule");
    assert_eq!(error.blame(), Blame::Guest);
    assert_eq!(guest.commands.lock().unwrap()[0].cwd.as_deref(), Some("/src"));
}

#[tokio::test]
async fn nothing_is_run_without_the_grant() {
    let module = library().await.resolve("shell", "x", None).await.unwrap();
    let guest = Arc::new(FakeGuest::new(|_| (0, Vec::new())));
    let mut call = call_on(guest.clone());
    call.context.settings = json!({ "run": "true" });
    let error = module.run(Call { grants: Grants::default(), ..call }).await.unwrap_err();
    assert!(error.to_string().ends_with("modules:\n  shell:\n    grants: { exec: true }"), "{error}");
    assert!(guest.run().is_empty());
}

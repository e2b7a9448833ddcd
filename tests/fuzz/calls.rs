//! Calls to the host under libFuzzer: whatever arguments a module gives, only what was granted reaches the guest, the folder of
//! the artifacts, and people's terminals. `make fuzz` runs it.

#![cfg_attr(fuzzing, no_main)]
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../hostile/encode.rs"]
mod encode;
#[path = "../hostile/machine.rs"]
mod machine;
mod seeds;

use std::{cell::LazyCell, fs, time::Duration};

use farmhand::module::{Engine, Limits, Module, ModuleError};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary, Unstructured},
    fuzz_target,
};
use machine::{Machine, TOKEN};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

const GRANTS: &str = "{ exec: true, files: ['/srv/*'], secrets: [TOKEN], artifacts: true, facts: true }";
/// Bounds on files, which texts of any length go over.
const FILE: usize = 150_000;

/// Texts that are meant to be something else than they seem.
const ODD: &[&str] = &[
    "",
    "/",
    "..",
    ".",
    "-",
    "--",
    "~",
    "$(id)",
    "`id`",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\u{202e}",
    "TOKEN",
    "TOKEN\0",
    "/srv/x",
    "/srv/../etc/shadow",
    "/srv/x/y",
    "//srv/x",
    "/srv/x/",
    "/srv/x\0",
    "/etc/shadow",
    "srv/x",
    "sh",
    "env",
    "yes",
    "=",
    "A=B",
    "1A",
    "LD_PRELOAD",
    "*",
    "{}",
];

/// A text of any characters, or an odd one.
#[derive(Debug, Serialize)]
struct Text(String);

impl<'a> Arbitrary<'a> for Text {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match input.int_in_range(0..=31)? {
            0..=15 => (*input.choose(ODD)?).to_owned(),
            16..=30 => input.arbitrary()?,
            _ => "x".repeat(input.int_in_range(1..=200_000)?),
        }))
    }
}

#[derive(Debug, Arbitrary, Serialize)]
#[serde(untagged)]
enum Content {
    Bytes(Text),
    Secret { hidden: Text },
}

/// A call, as `tests/hostile/modules/bad/any_call.rs` reads it.
#[derive(Debug, Arbitrary, Serialize)]
#[serde(tag = "call", rename_all = "lowercase")]
enum Call {
    Exec(Command),
    Start {
        #[serde(flatten)]
        command: Command,
        events: u8,
    },
    Read {
        path: Text,
        size: u32,
        r#become: bool,
    },
    Write {
        path: Text,
        content: Vec<Content>,
        mode: u32,
        r#become: bool,
    },
    Open {
        path: Text,
        events: u8,
        r#become: bool,
    },
    Create {
        path: Text,
        content: Vec<Content>,
        mode: u32,
        r#become: bool,
        finish: bool,
    },
    Artifact {
        name: Text,
        content: Text,
    },
    File {
        name: Text,
        path: Text,
        r#become: bool,
    },
    Facts,
    Progress {
        name: Text,
        percent: Option<u8>,
    },
    Log {
        name: Text,
        fields: Vec<(Text, Text)>,
    },
}

#[derive(Debug, Arbitrary, Serialize)]
struct Command {
    argv: Vec<Text>,
    env: Vec<(Text, Content)>,
    cwd: Option<Text>,
    stdin: Vec<Content>,
    timeout: Option<u32>,
    r#become: bool,
    log: bool,
    read_only: bool,
}

thread_local! {
    static HOST: LazyCell<(Runtime, Module)> = LazyCell::new(|| {
        let built = encode::build("wasm32-unknown-unknown", &["--example", "any_call"]);
        let component = encode::encode(&fs::read(built.join("any_call.wasm")).unwrap());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let engine = Engine::new(None, Limits::default()).unwrap();
        let module = runtime.block_on(engine.load_bytes("any_call.wasm", component)).unwrap();
        (runtime, module)
    });
}

fuzz_target!(
    init: {
        seeds::write(&seeds());
        // Building the module is not to count as the first input's time.
        HOST.with(|host| {
            LazyCell::force(host);
        });
    },
    |input: &[u8]| make_calls(input)
);

/// Has a module make the calls that the input stands for.
fn make_calls(input: &[u8]) {
    let Ok(calls) = Vec::<Call>::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let settings = json!({ "calls": calls });
    // libFuzzer finds it in comparisons: a module that knows a secret need not be told.
    if settings.to_string().contains(TOKEN) {
        return;
    }
    let machine = Machine::new("machine");
    let limits = Limits {
        log_burst: 100_000,
        cpu_time: Duration::from_secs(60),
        file_size: FILE,
        streamed_file_size: FILE,
        artifact_data: FILE,
        ..Limits::default()
    };
    let ended = HOST.with(|host| {
        let (runtime, module) = &**host;
        runtime.block_on(async { module.run(machine.call(settings, GRANTS, limits).await).await })
    });
    // A module that says too much at once is stopped; any other argument is answered.
    assert!(matches!(ended, Ok(_) | Err(ModuleError::Limit { .. })), "{ended:?}");
    for command in machine.guest.calls() {
        assert!(!command.r#become, "{command:?}");
        assert!(command.check().is_ok(), "{command:?}");
        // A secret stands where it was put, and nowhere that others could see it.
        assert!(!command.argv.iter().chain(&command.cwd).any(|text| text.contains(TOKEN)));
    }
    for (path, file) in machine.guest.files() {
        let name = path.strip_prefix("/srv/");
        assert!(name.is_some_and(|name| !name.contains('/') && !name.is_empty()), "{path:?}");
        assert!(file.mode <= 0o7777 && file.content.len() <= FILE, "{path:?}");
    }
    let mut kept = 0;
    for (path, content) in machine.kept() {
        let name = path.strip_prefix("kept/");
        assert!(name.is_some_and(|name| !name.contains('/') && !name.starts_with('.')), "{path:?}");
        assert!(!String::from_utf8_lossy(&content).contains(TOKEN), "{path:?}");
        kept += content.len();
    }
    assert!(kept <= FILE, "{kept} bytes of artifacts");
    for line in machine.log.lines() {
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert!(!line.contains(TOKEN), "{line:?}");
        assert!(line.len() < 16 << 10, "{} bytes", line.len());
    }
}

/// Inputs of all lengths, the same each time.
fn seeds() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(1);
    (1..100).map(|number| std::iter::repeat_with(|| random.u8(..)).take(number * 20).collect()).collect()
}

/// Without libFuzzer's coverage, as an ordinary test: what fuzzing begins with.
#[cfg(not(fuzzing))]
fn main() {
    for seed in seeds().iter().step_by(4) {
        make_calls(seed);
    }
}

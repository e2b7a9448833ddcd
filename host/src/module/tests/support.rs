//! A guest, a log, and modules from WebAssembly text.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use crate::{
    base::{Grants, Phase},
    guest::{Command, Exit, Facts, FileContent, FileSink, Guest, GuestError, OutputSink, Stream},
    module::*,
};

/// Keeps lines.
#[derive(Default)]
pub(super) struct Lines(Mutex<Vec<String>>);

impl Lines {
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl ModuleLog for Lines {
    fn line(&self, level: Level, line: &str) {
        self.0.lock().unwrap().push(format!("{level:?}: {line}"));
    }

    fn output(&self, stream: Stream, line: &str) {
        self.0.lock().unwrap().push(format!("{stream:?}: {line}"));
    }

    fn progress(&self, message: &str, percent: Option<u8>) {
        self.0.lock().unwrap().push(format!("Progress: {message} {percent:?}"));
    }
}

type Answer = Box<dyn Fn(&Command) -> (u32, Vec<u8>) + Send + Sync>;

/// A guest whose commands are answered by a function.
pub(super) struct FakeGuest {
    answer: Answer,
    /// How long each command takes.
    pub(super) takes: Duration,
    pub(super) commands: Mutex<Vec<Command>>,
    /// How many commands were cut short.
    pub(super) dropped: Arc<Mutex<usize>>,
}

impl FakeGuest {
    pub(super) fn new(answer: impl Fn(&Command) -> (u32, Vec<u8>) + Send + Sync + 'static) -> Self {
        Self {
            answer: Box::new(answer),
            takes: Duration::ZERO,
            commands: Mutex::default(),
            dropped: Arc::default(),
        }
    }

    /// Programs and arguments that were run.
    pub(super) fn run(&self) -> Vec<String> {
        self.commands.lock().unwrap().iter().map(|command| command.argv.join(" ")).collect()
    }
}

struct CountDrop(Arc<Mutex<usize>>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if self.1 {
            *self.0.lock().unwrap() += 1;
        }
    }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        self.commands.lock().unwrap().push(command.clone());
        let (status, stdout) = (self.answer)(command);
        for chunk in stdout.chunks(1000) {
            output.write(Stream::Stdout, chunk);
        }
        let mut cut_short = CountDrop(self.dropped.clone(), true);
        tokio::time::sleep(self.takes).await;
        cut_short.1 = false;
        Ok(Exit::Status(status))
    }

    async fn stream_from_file(
        &self,
        _: &str,
        _: u64,
        _: bool,
        _: &mut FileSink<'_>,
    ) -> Result<(), GuestError> {
        unreachable!("no test reads files")
    }

    async fn stream_to_file(&self, _: &str, _: FileContent<'_>, _: u32, _: bool) -> Result<(), GuestError> {
        unreachable!("no test writes files")
    }

    async fn close(&self) {}
}

pub(super) fn engine() -> Engine {
    Engine::new(None, Limits::default()).unwrap()
}

pub(super) fn granted() -> Grants {
    let files = vec!["/**".to_owned().try_into().unwrap()];
    Grants { exec: true, r#become: true, files, artifacts: true, facts: true, ..Grants::default() }
}

/// A call that is granted nothing, with a guest in which everything succeeds.
pub(super) fn call() -> Call {
    call_on(Arc::new(FakeGuest::new(|_| (0, Vec::new()))))
}

pub(super) fn call_on(guest: Arc<FakeGuest>) -> Call {
    Call {
        context: Context {
            phase: Phase::Dependencies,
            platform: "debian_vs".to_owned(),
            target: "amd64".to_owned(),
            machine: "debian_vs_amd64".to_owned(),
            settings: json!({}),
            r#become: true,
        },
        guest,
        facts: Facts { os_id: "debian".to_owned(), ..Facts::default() },
        grants: Grants::default(),
        secrets: Secrets::default(),
        limits: Limits::default(),
        artifacts: None,
        record: None,
        probes: None,
        timeout: None,
        log: Arc::new(Lines::default()),
    }
}

/// A module in WebAssembly text. Its `describe` gives this descriptor.
pub(super) struct Wat {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) provides: Vec<String>,
    pub(super) platforms: Vec<String>,
    /// Asked for: 0 is `exec`, 1 is `become`.
    pub(super) capabilities: Vec<u8>,
    pub(super) schema: String,
    /// The body of `run`. Its result is the address of what it returns; address 64 holds "unchanged, `done`". The local
    /// `$guest` is the guest, `$i` is free. `$log` writes a message: level, address, length. `$exec` runs `argv` (address and
    /// length of a list) and puts its result to an address; the list at 96 holds one `true`.
    pub(super) run: String,
    /// More of the module: data, globals, functions.
    pub(super) more: String,
    /// What `describe` does before it answers.
    pub(super) describe: String,
}

pub(super) fn wat(run: &str) -> Wat {
    Wat {
        name: "test".to_owned(),
        version: "1.0.0".to_owned(),
        provides: Vec::new(),
        platforms: Vec::new(),
        capabilities: Vec::new(),
        schema: "{}".to_owned(),
        run: run.to_owned(),
        more: String::new(),
        describe: String::new(),
    }
}

impl Wat {
    pub(super) fn component(&self) -> Vec<u8> {
        let mut data = Data { next: 1024, text: String::new() };
        let strings = |data: &mut Data, items: &[String]| {
            let items: Vec<u32> = items.iter().flat_map(|item| data.string(item)).collect();
            data.words(&items)
        };
        let mut descriptor = Vec::new();
        for text in [&self.name, &self.version, "a module for tests"] {
            descriptor.extend(data.string(text));
        }
        // Authors, licence.
        descriptor.extend([0, 0, 0, 0]);
        for list in [&self.provides, &self.platforms] {
            descriptor.extend([strings(&mut data, list), u32::try_from(list.len()).unwrap()]);
        }
        descriptor.extend([0, 0]);
        let requests: Vec<u32> = self
            .capabilities
            .iter()
            .flat_map(|capability| {
                let [address, length] = data.string("wants it");
                [u32::from(*capability), 0, 0, address, length]
            })
            .collect();
        descriptor.extend([data.words(&requests), u32::try_from(self.capabilities.len()).unwrap()]);
        descriptor.extend(data.string(&self.schema));
        let descriptor = data.words(&descriptor);

        let [done, _] = data.string("done");
        let [program, _] = data.string("true");
        let fixed =
            |address: u32, words: &[u32]| format!("(data (i32.const {address}) \"{}\")", bytes(words));
        let fixed = fixed(64, &[0, 0, done, 4]) + &fixed(96, &[program, 4]);
        let core = format!(
            r#"(module
                (import "farmhand:phase/log@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))
                (import "farmhand:phase/guest@0.1.0" "[method]guest.exec" (func $exec_raw
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
                (import "farmhand:phase/guest@0.1.0" "[resource-drop]guest" (func $drop_guest (param i32)))
                (memory (export "memory") 4)
                (global $heap (mut i32) (i32.const 131072))
                {fixed} {} {}
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    global.get $heap
                    global.get $heap local.get 3 i32.add i32.const 7 i32.add i32.const -8 i32.and global.set $heap)
                (func $log (param $level i32) (param $text i32) (param $length i32)
                    local.get $level local.get $text local.get $length i32.const 0 i32.const 0 call $write)
                (func $exec (param $guest i32) (param $argv i32) (param $count i32) (param $result i32)
                    local.get $guest local.get $argv local.get $count
                    i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0
                    i32.const 0 i32.const 0 i32.const 0 i32.const 1 i32.const 0 local.get $result call $exec_raw)
                (func (export "describe") (result i32) {} i32.const {descriptor})
                (func $run (param $guest i32) (result i32) (local $i i32) {})
                (func (export "run")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (param $guest i32) (result i32)
                    local.get $guest call $run
                    local.get $guest call $drop_guest))"#,
            data.text, self.more, self.describe, self.run
        );
        componentize(wat::parse_str(core).unwrap())
    }

    pub(super) async fn load(&self) -> Result<Module, ModuleError> {
        engine().load_bytes(&format!("{}.wasm", self.name), self.component()).await
    }
}

fn componentize(mut core: Vec<u8>) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("phase-module")).unwrap();
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().validate(true).module(&core).unwrap().encode().unwrap()
}

/// Data segments, one after the other.
struct Data {
    next: u32,
    text: String,
}

impl Data {
    fn put(&mut self, escaped: &str, length: usize) -> u32 {
        let address = self.next;
        write!(self.text, "(data (i32.const {address}) \"{escaped}\")").unwrap();
        self.next += u32::try_from(length.div_ceil(8) * 8).unwrap();
        address
    }

    fn string(&mut self, text: &str) -> [u32; 2] {
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        [self.put(&escaped, text.len()), u32::try_from(text.len()).unwrap()]
    }

    fn words(&mut self, words: &[u32]) -> u32 {
        self.put(&bytes(words), words.len() * 4)
    }
}

fn bytes(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect()
}

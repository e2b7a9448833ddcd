//! What a phase module costs: compiled for the first time, loaded from the cache, instantiated and called; how large it is; and
//! how much memory a live instance takes. A table with all of it stands at the end.
//!
//! `cargo bench --bench modules`, after `make modules`

#![allow(clippy::expect_used)] // A benchmark that can't measure is to stop.

use std::{fs, hint::black_box, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use comfy_table::{ContentArrangement, Table, presets};
use criterion::{Criterion, criterion_group, criterion_main};
use farmhand::{
    base::{Grants, Phase},
    guest::{Command, Exit, Facts, FileContent, FileSink, Guest, GuestError, OutputSink, Stream},
    module::{Call, Context, Engine, Level, Limits, Module, ModuleLog, Secrets},
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::Semaphore};

/// The modules that come with farmhand, with settings for which there is nothing to do on this guest, so that a call takes the
/// module's time and not the guest's.
fn modules() -> Vec<(&'static str, Value)> {
    vec![
        ("arch-pacman", json!({ "packages": ["bash"] })),
        ("clock", json!({})),
        ("debian-apt", json!({ "packages": ["bash"] })),
        ("file", json!({ "path": "/srv/x", "state": "directory" })),
        ("service", json!({ "name": "ssh", "state": "started" })),
        ("shell", json!({ "run": "true", "creates": "/srv/x" })),
        ("user", json!({ "name": "nobody", "state": "absent" })),
    ]
}

/// A guest that answers at once, or when it is let to.
struct Still(Option<Arc<Semaphore>>);

#[async_trait]
impl Guest for Still {
    async fn exec(&self, command: &Command, output: &mut dyn OutputSink) -> Result<Exit, GuestError> {
        if let Some(gate) = &self.0 {
            // Held by the benchmark for as long as calls are to be parked here.
            let _passed = gate.acquire().await;
        }
        let (status, text): (u32, &str) = match command.argv[0].as_str() {
            "dpkg-query" => (0, "bash\tamd64\t5.2\tinstalled\n"),
            "pacman" => (0, "bash 5.2-1\n"),
            "systemctl" => (0, "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"),
            "sh" => (0, "1000\n1000\n"),
            "stat" => (0, "41ed root root 4096\n"),
            "getent" => (2, ""),
            _ => (0, ""),
        };
        output.write(Stream::Stdout, text.as_bytes());
        Ok(Exit::Status(status))
    }

    async fn stream_from_file(
        &self,
        path: &str,
        _: u64,
        _: bool,
        _: &mut FileSink<'_>,
    ) -> Result<(), GuestError> {
        Err(GuestError::File { path: path.to_owned(), message: "there are no files here".to_owned() })
    }

    async fn stream_to_file(&self, _: &str, _: FileContent<'_>, _: u32, _: bool) -> Result<(), GuestError> {
        Ok(())
    }

    async fn close(&self) {}
}

struct Silent;

impl ModuleLog for Silent {
    fn line(&self, _: Level, _: &str) {}

    fn output(&self, _: Stream, _: &str) {}

    fn progress(&self, _: &str, _: Option<u8>) {}
}

fn call(settings: &Value, guest: &Arc<Still>) -> Call {
    let files = "/**".to_owned().try_into().into_iter().collect();
    Call {
        context: Context {
            phase: Phase::Main,
            platform: "debian_vs".to_owned(),
            target: "amd64".to_owned(),
            machine: "machine".to_owned(),
            settings: settings.clone(),
            r#become: true,
        },
        guest: guest.clone(),
        facts: Facts::default(),
        grants: Grants { exec: true, r#become: true, files, ..Grants::default() },
        secrets: Secrets::default(),
        limits: Limits::default(),
        timeout: None,
        log: Arc::new(Silent),
        artifacts: None,
        record: None,
        probes: None,
    }
}

fn load(runtime: &Runtime, cache: Option<&Utf8Path>, path: &Utf8Path) -> Module {
    let engine = Engine::with_compiler(cache.map(Utf8Path::to_owned), Limits::default(), PROGRAM.into())
        .expect("an engine can be set up");
    runtime.block_on(engine.load(path)).expect("the modules are built (`make modules`)")
}

/// Bytes of memory that this process has now.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
    pages * 4096
}

/// How much memory each of many instances takes that wait in a call to the host.
fn parked(runtime: &Runtime, module: &Arc<Module>, settings: &Value) -> u64 {
    const COUNT: u64 = 500;
    let gate = Arc::new(Semaphore::new(0));
    let guest = Arc::new(Still(Some(gate.clone())));
    let before = resident();
    runtime.block_on(async {
        let calls: Vec<_> = (0..COUNT)
            .map(|_| {
                let (module, call) = (module.clone(), call(settings, &guest));
                tokio::spawn(async move { module.run(call).await.map(drop) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let each = resident().saturating_sub(before) / COUNT;
        gate.add_permits(usize::try_from(COUNT).unwrap_or_default());
        for call in calls {
            call.await.expect("no call panics").expect("every call goes well");
        }
        each
    })
}

/// What compiles.
const PROGRAM: &str = env!("CARGO_BIN_EXE_farmhand");

/// Where criterion puts what it measured.
const MEASURED: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/criterion");

/// The median of what was measured under this name; nothing when it was left out by a filter.
fn median(module: &str, name: &str) -> Option<Duration> {
    let path = Path::new(MEASURED).join(module).join(name).join("new/estimates.json");
    let estimates: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(Duration::from_secs_f64(estimates["median"]["point_estimate"].as_f64()? / 1e9))
}

/// The code that was compiled of a module, in bytes.
fn compiled(cache: &Utf8Path, module: &Module) -> u64 {
    let files = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut code = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with(&module.digest().hex()) && name.ends_with(".compiled")
    });
    code.next().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len())
}

fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be set up");
    let folder = Utf8PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/modules"));
    let home = tempfile::tempdir().expect("there is room for a cache");
    let cache = Utf8Path::from_path(home.path()).expect("temporary folders have plain names").join("cache");
    let guest = Arc::new(Still(None));
    let mut rows = Vec::new();
    for (name, settings) in modules() {
        let path = folder.join(format!("{name}.wasm"));
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(300));
        // Asked what it is, too, which takes no time beside it.
        group.bench_function("compile", |bencher| {
            bencher.iter(|| black_box(load(&runtime, None, &path)));
        });
        drop(load(&runtime, Some(&cache), &path));
        // What it is comes from the cache as well; its code is loaded when it is first called.
        group.bench_function("load", |bencher| {
            bencher.iter(|| {
                let module = load(&runtime, Some(&cache), &path);
                runtime.block_on(module.instantiate()).expect("it can be instantiated");
            });
        });
        group.bench_function("load and call", |bencher| {
            bencher.iter(|| {
                let module = load(&runtime, Some(&cache), &path);
                runtime.block_on(module.run(call(&settings, &guest))).expect("the call goes well")
            });
        });
        let module = Arc::new(load(&runtime, Some(&cache), &path));
        group.bench_function("instantiate", |bencher| {
            bencher.iter(|| runtime.block_on(module.instantiate()).expect("it can be instantiated"));
        });
        group.bench_function("call", |bencher| {
            bencher
                .iter(|| runtime.block_on(module.run(call(&settings, &guest))).expect("the call goes well"));
        });
        group.finish();
        let sizes = (module.size() as u64, compiled(&cache, &module), parked(&runtime, &module, &settings));
        rows.push((name, sizes));
    }
    eprintln!("\n{}", table(&rows));
}

/// All that was measured: a row a module.
fn table(rows: &[(&str, (u64, u64, u64))]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header([
        "module",
        "file",
        "code",
        "compile",
        "load",
        "instantiate",
        "load and call",
        "call",
        "memory of an instance",
    ]);
    let kilobytes = |bytes: u64| format!("{} KB", bytes / 1000);
    for &(name, (file, code, instance)) in rows {
        let time = |what| median(name, what).map_or_else(|| "-".to_owned(), |time| format!("{time:.1?}"));
        let times = ["compile", "load", "instantiate", "load and call", "call"].map(time);
        let mut row = vec![name.to_owned(), kilobytes(file), kilobytes(code)];
        row.extend(times);
        row.push(kilobytes(instance));
        table.add_row(row);
    }
    table.to_string()
}

criterion_group! {
    name = benches;
    config = Criterion::default().output_directory(Path::new(MEASURED));
    targets = bench
}
criterion_main!(benches);

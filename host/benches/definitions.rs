//! How long it takes to read a large farm, and how much memory: 50 targets x 200 platforms are 10,000 machines.
//!
//! `cargo bench --bench definitions`

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    hint::black_box,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use camino::Utf8Path;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use farmhand::farm::Farm;

/// Targets and platforms: the last pair is the promise, the others show that time and memory grow no faster than machines.
const SIZES: [(usize, usize); 3] = [(10, 100), (25, 200), (50, 200)];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts.
struct Counting;

// SAFETY: all is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that this asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that this asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A farm with definitions as people write them: most of a file is plain, some of it is made by templates.
fn write_farm(root: &Path, targets: usize, platforms: usize) -> std::io::Result<()> {
    let names = |prefix: &str, count: usize| {
        (0..count).map(|index| format!("{prefix}{index}")).collect::<Vec<_>>().join(", ")
    };
    for folder in ["setup_vm/targets", "setup_vm/platforms", "provisioning_phases"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let farm = format!(
        "project: {{ id: bench }}\npermutations:\n  targets: [{}]\n  platforms: [{}]\n",
        names("target", targets),
        names("platform", platforms)
    );
    fs::write(root.join("farm.yaml"), farm)?;
    for index in 0..targets {
        let text = format!(
            "vm:\n  metadata:\n    target_name: target{index}\n  arch: x86_64\n  machine: q35\n  vcpus: {}\n",
            1 + index % 8
        );
        fs::write(root.join(format!("setup_vm/targets/target{index}.yaml")), text)?;
    }
    fs::write(
        root.join("setup_vm/platforms/defaults.yaml"),
        "mirror: https://example.org/images\nvm:\n  ram: 1024\n  net: { type: user }\n",
    )?;
    for index in 0..platforms {
        let text = format!(
            "release: \"{index}\"
image: \"distribution-{{{{ release }}}}-{{{{ vm.arch | replace('_', '-') }}}}.qcow2\"
vm:
  metadata:
    name: \"{{{{ platform_name }}}}-{{{{ target_name }}}}\"
    platform_name: platform{index}
    auth: {{ user: tester, password: tester, become_method: sudo }}
    sources:
      - uri: \"{{{{ mirror }}}}/{{{{ image }}}}\"
        checksum_uri: \"{{{{ mirror }}}}/SHA256SUMS\"
        checksum_type: sha256
  disks:
    - {{ type: virtio, src: \"{{{{ image }}}}\" }}
"
        );
        fs::write(root.join(format!("setup_vm/platforms/platform{index}.yaml")), text)?;
    }
    // One file that all machines share, and one that each has rendered for itself.
    fs::write(root.join("provisioning_phases/init.yaml"), "- run: echo hello\n")?;
    fs::write(root.join("provisioning_phases/main.yaml"), "- run: echo hello from {{ machine_name }}\n")
}

fn load(criterion: &mut Criterion) {
    let mut last = 0;
    let mut group = criterion.benchmark_group("load");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for (targets, platforms) in SIZES {
        let folder = tempfile::tempdir().and_then(|folder| {
            write_farm(folder.path(), targets, platforms)?;
            Ok(folder)
        });
        let folder = match folder {
            Ok(folder) => folder,
            Err(error) => return eprintln!("can't write a farm: {error}"),
        };
        let Some(root) = Utf8Path::from_path(folder.path()) else { return };
        let machines = targets * platforms;
        let before = ALLOCATED.load(Ordering::Relaxed);
        let farm = match Farm::load(root) {
            Ok(farm) => farm,
            Err(problems) => return eprintln!("{:?}", miette::Report::new(problems)),
        };
        let kept = ALLOCATED.load(Ordering::Relaxed) - before;
        assert_eq!(farm.machines.len(), machines);
        eprintln!("{machines} machines keep {} KiB, {} bytes each", kept >> 10, kept / machines);
        // What is not the machines' own is shared, so that more machines cost less each.
        let each = kept / machines;
        assert!(
            last == 0 || each <= last + last / 10,
            "memory grows faster than machines: {last} then {each}"
        );
        last = each;
        drop(farm);
        group.throughput(Throughput::Elements(machines as u64));
        group.bench_function(BenchmarkId::from_parameter(machines), |bencher| {
            bencher.iter(|| black_box(Farm::load(root)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);

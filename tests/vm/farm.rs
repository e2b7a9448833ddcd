//! A farm of a test's own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Waits until something holds, on a machine that may do much else.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(600), "it still does not hold");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// A copy of the example with machines of its own.
pub(crate) struct Farm {
    folder: TempDir,
    /// Stands in the names of its machines.
    pub(crate) id: String,
    /// What farmhand's command line begins with.
    wrapper: Vec<String>,
}

/// What a run said.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) events: Vec<Value>,
    pub(crate) stderr: String,
}

impl Farm {
    /// The example's farm. Its machines are named after their platforms and this farm's id.
    pub(crate) fn example() -> Self {
        let images = Path::new(REPOSITORY).join("target/testbed");
        let built = images.join("SHA256SUMS").is_file();
        assert!(
            built,
            "the guest images are not built: run tests/testbed/build-images.sh (or `make images`) first"
        );
        let modules = Path::new(REPOSITORY).join("target/modules/shell.wasm");
        assert!(modules.is_file(), "the phase modules are not built: run `make modules` first");

        // Below /var/tmp, where QEMU's own user can reach it.
        let folder = tempfile::Builder::new().prefix("farmhand-test-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let id = folder.path().file_name().unwrap().to_str().unwrap().rsplit('-').next().unwrap().to_owned();
        let farm = Self { folder, id, wrapper: Vec::new() };
        copy(&Path::new(REPOSITORY).join("examples/02-vm-provisioning"), &farm.path("farm"));
        farm.edit("farm/setup_vm/platforms/defaults.yaml", |text| {
            let name = format!("vm:\n  metadata: {{ name: \"{{{{ platform_name }}}}.{}\" }}", farm.id);
            text.replace("../../target/testbed", images.canonicalize().unwrap().to_str().unwrap())
                .replace("vm:", &name)
        });
        farm
    }

    /// Machines of the example's Debian with phases that need no network: the names of their platforms, and what `vm` says beside
    /// the example. `hypervisor` is an entry of `hypervisors`.
    pub(crate) fn of_debian(platforms: &[(&str, &str)], hypervisor: &str) -> Self {
        let farm = Self::example();
        let names: Vec<_> = platforms.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "project: {{ id: far }}\nhypervisors: [{hypervisor}]\nconnection_timeout: 600\n\
         permutations: {{ targets: [amd64], platforms: [{}] }}\nmodules: {{ shell: {{ grants: {{ exec: true }} }} }}\n",
            names.join(", ")
        );
        farm.write("farm/farm.yaml", &text);
        for (name, vm) in platforms {
            let debian = farm.read("farm/setup_vm/platforms/debian_vs.yaml");
            // KVM is not probed on other hosts.
            let text = debian.replace("  metadata:\n", "  metadata:\n    virt_domain: qemu\n");
            let text = text.replace("  disks:", &format!("  {vm}\n  vcpus: 1\n  disks:"));
            farm.write(&format!("farm/setup_vm/platforms/{name}.yaml"), &text);
        }
        farm.remove("farm/provisioning_phases");
        for phase in ["init", "main"] {
            let step = format!("- run: echo {phase} >> ~/log; hostname -I >> ~/log\n");
            farm.write(&format!("farm/provisioning_phases/{phase}.yaml"), &step);
        }
        farm
    }

    /// The same farm for a farmhand that is run by the command line `wrapper`.
    pub(crate) fn inside(mut self, wrapper: &[String]) -> Self {
        self.wrapper = wrapper.to_vec();
        self
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The name of a platform's machine.
    pub(crate) fn machine(&self, platform: &str) -> String {
        format!("{platform}.{}", self.id)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a folder.
    pub(crate) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn edit(&self, path: &str, change: impl Fn(String) -> String) {
        let path = self.path(path);
        let before = fs::read_to_string(&path).unwrap();
        let after = change(before.clone());
        assert_ne!(before, after, "{}: nothing to change was found", path.display());
        fs::write(path, after).unwrap();
    }

    /// farmhand with this farm and a `FARMHAND_HOME` of its own.
    pub(crate) fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_farmhand").to_owned();
        let words: Vec<_> = self.wrapper.iter().cloned().chain([program]).collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("--farm")
            .arg(self.path("farm"))
            .env("FARMHAND_HOME", self.path("home"))
            .env("FARMHAND_MODULES", Path::new(REPOSITORY).join("target/modules"))
            .env("NO_COLOR", "1");
        command
    }

    /// What a command of farmhand's printed.
    pub(crate) fn farmhand(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// The standard output of a command of farmhand's that must go well. Names of machines stand as in the example.
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        let output = self.farmhand(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().replace(&format!(".{}", self.id), "")
    }

    /// `farmhand up`, as events.
    pub(crate) fn up(&self, arguments: &[&str]) -> Run {
        let output = self.command().args(["up", "--json"]).args(arguments).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Run { code: output.status.code().unwrap(), events: events(&stdout), stderr }
    }

    /// The events of the newest run, as they were recorded.
    pub(crate) fn newest_record(&self) -> Vec<Value> {
        let output = self.farmhand(&["report", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        events(&String::from_utf8(output.stdout).unwrap())
    }

    /// A command of farmhand's that goes on while the test does something else. Its output is for [`Self::read_until`].
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The events of a run that was started, each shown to `watch` as it comes.
    pub(crate) fn read_until(&self, mut run: Child, mut watch: impl FnMut(&Value)) -> Run {
        let lines = BufReader::new(run.stdout.take().unwrap()).lines();
        let event = |line: std::io::Result<String>| {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            watch(&event);
            event
        };
        let events = lines.map(event).collect();
        Run { code: run.wait().unwrap().code().unwrap(), events, stderr: String::new() }
    }

    /// Files of farmhand's that are there only for a time: of downloads, of what is about to be created.
    pub(crate) fn temporary_files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["home/cache/images", "home/data/journal"] {
            let Ok(files) = fs::read_dir(self.path(folder)) else { continue };
            for file in files {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                // The list of hypervisors stays: it says where leftovers could be.
                let is_entry = folder.ends_with("journal") && name != "hypervisors";
                if is_entry || name.starts_with('.') || name.contains("tmp") {
                    found.push(format!("{folder}/{name}"));
                }
            }
        }
        found
    }

    /// A command in a machine that must go well.
    pub(crate) fn in_guest(&self, platform: &str, command: &str) -> String {
        self.prints(&["ssh", &self.machine(platform), "--", command])
    }

    /// A machine's console in a terminal: gives what came until `ending`, and leaves it. `meanwhile` is done when it is open.
    pub(crate) fn console(&self, platform: &str, meanwhile: impl FnOnce(), ending: &str) -> String {
        let mut console = self.command();
        console.args(["console", &self.machine(platform)]);
        let words = [console.get_program()].into_iter().chain(console.get_args());
        let line = shlex::try_join(words.map(|word| word.to_str().unwrap())).unwrap();
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .envs(console.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        let mut screen = BufReader::new(terminal.stdout.take().unwrap());
        let mut until = |text: &str| {
            while !shown.contains(text) {
                assert_ne!(screen.read_line(&mut shown).unwrap(), 0, "it ended: {shown}");
            }
        };
        until("Escape character");
        meanwhile();
        until(ending);
        terminal.stdin.take().unwrap().write_all(b"\x1d").unwrap();
        assert_eq!(terminal.wait().unwrap().code(), Some(0), "{shown}");
        shown
    }

    /// Everything of this farm that is left on this host: domains, disks, processes.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        let domains = Command::new("virsh").args(["--quiet", "list", "--all", "--name"]).output().unwrap();
        assert!(domains.status.success(), "{}", String::from_utf8_lossy(&domains.stderr));
        let domains = String::from_utf8(domains.stdout).unwrap();
        traces.extend(
            domains.lines().filter(|name| name.ends_with(&self.id)).map(|name| format!("domain {name}")),
        );
        if let Ok(disks) = fs::read_dir(self.path("home/data/machines")) {
            traces.extend(disks.map(|disk| format!("disk {}", disk.unwrap().path().display())));
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let command_line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            let of_a_machine = ["qemu", "passt"].iter().any(|name| command_line.contains(name));
            if of_a_machine && command_line.contains(&self.id) {
                traces.push(format!("process {command_line}"));
            }
        }
        traces
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // After a failure the machines are still there.
        let output = self.farmhand(&["destroy"]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("the machines can't be removed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Run {
    /// The operations that were begun on a machine, in order, phases by their names.
    pub(crate) fn operations(&self, machine: &str) -> Vec<String> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let begun = |event: &&Value| event["event"] == "operation-started" && event["machine"] == machine;
        let name = |event: &Value| match event["operation"].as_str().unwrap() {
            "phase" => text(event, "phase"),
            operation => format!("{operation} {}", text(event, "checkpoint")).trim_end().to_owned(),
        };
        self.events.iter().filter(begun).map(name).collect()
    }

    /// Panics with what failed, unless all went well.
    #[track_caller]
    pub(crate) fn passed(&self) -> &Self {
        let failures: Vec<_> =
            self.events.iter().filter(|event| event["event"] == "operation-failed").collect();
        assert_eq!(self.code, 0, "{}{failures:#?}", self.stderr);
        self
    }

    /// What failed of a machine; null when it passed.
    pub(crate) fn failure(&self, machine: &str) -> &Value {
        let finished = |event: &&Value| event["event"] == "machine-finished" && event["machine"] == machine;
        &self.events.iter().find(finished).expect("every machine finishes")["failure"]
    }

    /// Whether a step of that name ended well, and changed its guest.
    pub(crate) fn step(&self, machine: &str, name: &str) -> Option<bool> {
        let finished = |event: &&Value| {
            event["event"] == "step-finished" && event["machine"] == machine && event["name"] == name
        };
        self.events.iter().find(finished)?["changed"].as_bool()
    }
}

fn events(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

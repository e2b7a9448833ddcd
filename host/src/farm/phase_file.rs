use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Config,
    yaml::{self, Key},
};
use crate::base::{Phase, Problem, Problems, SourceFile};

/// How deep phase files may include each other.
const MAX_DEPTH: usize = 16;

/// How many steps a phase may have, all files taken together.
const MAX_STEPS: usize = 1000;

/// How often a step may be tried again, at most.
const MAX_RETRIES: u32 = 100;

/// How long is waited before a step is tried again, unless it says otherwise: Ansible's `delay`.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// The steps of a machine's phases. A phase without a file has none.
#[derive(Debug, Clone, Default)]
pub struct Phases([Vec<Step>; 4]);

/// One use of a phase module.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is for: its `name`, else what it uses or runs.
    pub name: String,
    /// The phase module.
    pub uses: Uses,
    /// The module's settings: always a mapping.
    pub with: Value,
    /// Whether the module may act as root in the guest.
    pub r#become: bool,
    /// How long it may take; the farm's `step_timeout` when absent.
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure, on the guest as it then is.
    pub retries: u32,
    /// How long is waited before each further try.
    pub delay: Duration,
    /// The file that it stands in and its place there.
    file: SourceFile,
    place: Vec<Key>,
}

/// How a step names its phase module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uses {
    /// By name: of a module, or of what the platform's module provides (`package`).
    Name(String),
    /// By its file's absolute path.
    Path(Utf8PathBuf),
}

impl std::fmt::Display for Uses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{path}"),
        }
    }
}

impl Step {
    fn new(name: String, uses: Uses, with: Value, file: SourceFile, place: Vec<Key>) -> Self {
        let (timeout, delay) = (None, DEFAULT_DELAY);
        Self { name, uses, with, r#become: false, timeout, retries: 0, delay, file, place }
    }

    /// A problem with this step, or with one of its settings.
    pub fn problem<'a>(
        &self,
        path: impl IntoIterator<Item = &'a str>,
        message: impl Into<String>,
    ) -> Problem {
        let mut place = self.place.clone();
        for name in path {
            place.push(name.parse().map(Key::Index).unwrap_or_else(|_| Key::from(name)));
        }
        self.file.problem(yaml::find(&self.file, &place), message)
    }
}

/// A step as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    name: Option<String>,
    uses: Option<String>,
    run: Option<String>,
    with: Option<Map<String, Value>>,
    r#become: Option<bool>,
    #[serde(default, deserialize_with = "super::config::span")]
    timeout: Option<Duration>,
    #[serde(default)]
    retries: u32,
    #[serde(default, deserialize_with = "super::config::span")]
    delay: Option<Duration>,
}

impl Phases {
    /// The steps of one phase.
    pub fn steps(&self, phase: Phase) -> &[Step] {
        &self.0[phase as usize]
    }

    /// Finds and reads the phase files of a platform on a target: the first of `<phases>/<platform>/<target>/`,
    /// `<phases>/<platform>/` and `<phases>/` that has a phase's file gives that phase.
    pub(super) fn load(
        root: &Utf8Path,
        config: &Config,
        platform: &str,
        target: &str,
    ) -> Result<Self, Problems> {
        let base = root.join(&config.phases);
        let folders = [base.join(platform).join(target), base.join(platform), base];
        let mut phases = Self::default();
        let mut problems = Vec::new();
        for phase in Phase::ALL {
            let names = ["yaml", "yml", "wasm"].map(|extension| format!("{phase}.{extension}"));
            let mut candidates =
                folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
            let steps = match candidates.find(|path| path.is_file()) {
                Some(path) if path.extension() == Some("wasm") => Ok(vec![whole_module(phase, path)]),
                Some(path) => StepReader::default().read(&path, false),
                None if phase == Phase::Dependencies => Ok(default_dependencies(root, config)),
                None => Ok(Vec::new()),
            };
            match steps {
                Ok(steps) => phases.0[phase as usize] = steps,
                Err(found) => problems.extend(found),
            }
        }
        Problems::unless_empty(problems, phases)
    }
}

/// A `<phase>.wasm` is used as it is.
fn whole_module(phase: Phase, path: Utf8PathBuf) -> Step {
    let file = SourceFile::new(&path, "");
    Step::new(phase.to_string(), Uses::Path(path), json!({}), file, vec![])
}

/// `dependencies: [curl]` in the farm file is short for a step that has the platform's package module install them.
fn default_dependencies(root: &Utf8Path, config: &Config) -> Vec<Step> {
    if config.dependencies.is_empty() {
        return Vec::new();
    }
    let with = json!({ "update": true, "packages": config.dependencies });
    let path = root.join(super::FARM_FILE);
    let file = SourceFile::read(&path).unwrap_or_else(|_| SourceFile::new(&path, ""));
    let (name, uses) = ("Install dependencies".to_owned(), Uses::Name("package".to_owned()));
    vec![Step { r#become: true, ..Step::new(name, uses, with, file, vec!["dependencies".into()]) }]
}

/// Reads a phase file and those that it includes.
#[derive(Default)]
struct StepReader {
    /// The files that are being read, outermost first.
    open: Vec<Utf8PathBuf>,
    count: usize,
}

impl StepReader {
    fn read(&mut self, path: &Utf8Path, r#become: bool) -> Result<Vec<Step>, Problems> {
        let file = SourceFile::read(path)?;
        let document = yaml::read(&file)?;
        let Value::Array(items) = document else {
            let help = "a phase file is a list of steps: `- run: echo hello`, or `- uses: package` with settings under `with:`";
            return if document.is_null() {
                Ok(Vec::new())
            } else {
                Err(file.problem(0..0, "this is no list of steps").help(help).into())
            };
        };
        let mut steps = Vec::new();
        let mut problems = Vec::new();
        self.open.push(path.to_owned());
        for (index, item) in items.into_iter().enumerate() {
            match self.step(&file, index, item, r#become) {
                Ok(found) => steps.extend(found),
                Err(found) => problems.extend(found),
            }
        }
        self.open.pop();
        Problems::unless_empty(problems, steps)
    }

    /// The steps that one item of a phase file stands for. `become` is what the file that included this one says.
    fn step(
        &mut self,
        file: &SourceFile,
        index: usize,
        item: Value,
        r#become: bool,
    ) -> Result<Vec<Step>, Problems> {
        let place = vec![Key::Index(index)];
        let step: WrittenStep = yaml::decode(file, item, &place)?;
        let r#become = step.r#become.unwrap_or(r#become);
        let problem = |key: &str, message: String| {
            let mut place = place.clone();
            place.extend((!key.is_empty()).then(|| Key::from(key)));
            file.problem(yaml::find(file, &place), message)
        };
        self.count += 1;
        if self.count > MAX_STEPS {
            return Err(problem("", format!("the phase has more than {MAX_STEPS} steps")).into());
        }
        let mut with = step.with.unwrap_or_default();
        let (uses, default_name) = match (step.uses, step.run) {
            (Some(uses), None) if is_phase_file(&uses) => {
                if !with.is_empty() {
                    return Err(problem(
                        "with",
                        format!("{uses} is a file of steps, which takes no settings"),
                    )
                    .into());
                }
                return self.include(file, &uses, r#become, |message| problem("uses", message));
            }
            (Some(uses), None) if uses.ends_with(".wasm") || uses.contains('/') => {
                // Taken apart and put together again, it has no `.` in it.
                let path: Utf8PathBuf = file.folder().join(&uses).components().collect();
                if !path.is_file() {
                    return Err(problem("uses", format!("there is no phase module {path}")).into());
                }
                (Uses::Path(path), uses)
            }
            (Some(uses), None) => (Uses::Name(uses.clone()), uses),
            (None, Some(run)) => {
                let first_line = run.trim().lines().next().unwrap_or_default().chars().take(60).collect();
                with.insert("run".to_owned(), Value::String(run));
                (Uses::Name("shell".to_owned()), first_line)
            }
            (Some(_), Some(_)) => {
                return Err(problem("run", "a step has either `uses` or `run`, not both".to_owned()).into());
            }
            (None, None) => {
                let help = "write `run:` with a shell script, or `uses:` with a phase module's name";
                return Err(problem("", "the step says neither `uses` nor `run`".to_owned())
                    .help(help)
                    .into());
            }
        };
        if step.retries > MAX_RETRIES {
            let message = format!("{} retries: expected at most {MAX_RETRIES}", step.retries);
            return Err(problem("retries", message).into());
        }
        let name = step.name.unwrap_or(default_name);
        Ok(vec![Step {
            r#become,
            timeout: step.timeout,
            retries: step.retries,
            delay: step.delay.unwrap_or(DEFAULT_DELAY),
            ..Step::new(name, uses, Value::Object(with), file.clone(), place)
        }])
    }

    fn include(
        &mut self,
        file: &SourceFile,
        uses: &str,
        r#become: bool,
        problem: impl Fn(String) -> Problem,
    ) -> Result<Vec<Step>, Problems> {
        let path = file.folder().join(uses);
        let path =
            path.canonicalize_utf8().map_err(|error| problem(format!("can't include {path}: {error}")))?;
        let open = |open: &Utf8PathBuf| open.canonicalize_utf8().is_ok_and(|open| open == path);
        if self.open.iter().any(open) {
            return Err(problem(format!("{path} includes itself")).into());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(problem(format!("phase files are nested more than {MAX_DEPTH} deep")).into());
        }
        self.read(&path, r#become)
    }
}

fn is_phase_file(uses: &str) -> bool {
    uses.ends_with(".yaml") || uses.ends_with(".yml")
}

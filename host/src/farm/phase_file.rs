use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Config,
    definition::Merged,
    template::{Rendering, Scope, Templates, is_secret},
    yaml::{self, Data, Entry, Key, Node},
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

/// The steps of a machine's phases. A phase without a file has none. Machines whose steps are the same share them.
#[derive(Debug, Clone, Default)]
pub struct Phases([Arc<[Step]>; 4]);

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
        self.file.problem(yaml::find(&self.file, &self.at(path)), message)
    }

    /// As [`Self::problem`], with the last key on the way itself and not with its value.
    pub fn key_problem<'a>(
        &self,
        path: impl IntoIterator<Item = &'a str>,
        message: impl Into<String>,
    ) -> Problem {
        self.file.problem(yaml::find_key(&self.file, &self.at(path)), message)
    }

    fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Vec<Key> {
        let key = |name: &str| name.parse().map(Key::Index).unwrap_or_else(|_| Key::from(name));
        self.place.iter().cloned().chain(path.into_iter().map(key)).collect()
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
}

/// The phase files of one farm. Those that are the same for all machines are read once.
pub(super) struct PhaseFiles<'a> {
    root: &'a Utf8Path,
    config: &'a Config,
    templates: &'a Templates,
    /// The names of the files in folders that were looked into.
    listed: RefCell<HashMap<Utf8PathBuf, Rc<HashSet<String>>>>,
    /// The steps of files without templates.
    plain: RefCell<HashMap<Utf8PathBuf, ReadFile>>,
}

/// The steps of a file that are in order, and what is wrong with the others.
type ReadFile = (Arc<[Step]>, Vec<Problem>);

impl<'a> PhaseFiles<'a> {
    pub(super) fn new(root: &'a Utf8Path, config: &'a Config, templates: &'a Templates) -> Self {
        Self { root, config, templates, listed: RefCell::default(), plain: RefCell::default() }
    }

    /// Finds and reads the phase files of a platform on a target: the first of `<phases>/<platform>/<target>/`,
    /// `<phases>/<platform>/` and `<phases>/` that has a phase's file gives that phase. Templates in them see what the
    /// definition files came to. What is wrong comes beside the steps that are in order.
    pub(super) fn load(
        &self,
        platform: &str,
        target: &str,
        machine: &str,
        definition: &Merged,
    ) -> (Phases, Vec<Problem>) {
        let base = self.root.join(&self.config.phases);
        let folders = [base.join(platform).join(target), base.join(platform), base];
        let mut phases = Phases::default();
        let mut problems = Vec::new();
        for phase in Phase::ALL {
            let names = ["yaml", "yml", "wasm"].map(|extension| format!("{phase}.{extension}"));
            let mut candidates =
                folders.iter().flat_map(|folder| names.iter().map(move |name| (folder, name)));
            let found = candidates.find(|(folder, name)| self.list(folder).contains(*name));
            phases.0[phase as usize] = match found.map(|(folder, name)| folder.join(name)) {
                Some(path) if path.extension() == Some("wasm") => Arc::from([whole_module(phase, path)]),
                Some(path) => {
                    let (steps, found) = self.read(&path, machine, definition);
                    problems.extend(found);
                    steps
                }
                None if phase == Phase::Dependencies => {
                    let steps = default_dependencies(self.root, self.config, definition.scope());
                    Arc::from(steps.unwrap_or_else(|problem| {
                        problems.push(problem);
                        Vec::new()
                    }))
                }
                None => Arc::default(),
            };
        }
        (phases, problems)
    }

    /// The names of the files in a folder.
    fn list(&self, folder: &Utf8Path) -> Rc<HashSet<String>> {
        if let Some(known) = self.listed.borrow().get(folder) {
            return known.clone();
        }
        let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
        let names = entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().to_owned());
        let names = Rc::new(names.collect::<HashSet<_>>());
        self.listed.borrow_mut().insert(folder.to_owned(), names.clone());
        names
    }

    fn read(&self, path: &Utf8Path, machine: &str, definition: &Merged) -> ReadFile {
        if let Some(known) = self.plain.borrow().get(path) {
            return known.clone();
        }
        let mut scope = definition.scope().clone();
        scope.set("machine_name", Node::literal(machine, None));
        let mut reader = StepReader {
            rendering: Rendering::new(self.templates, scope),
            open: Vec::new(),
            count: 0,
            templated: false,
            problems: Vec::new(),
        };
        let steps = (Arc::from(reader.read(path, false)), reader.problems);
        if !reader.templated {
            self.plain.borrow_mut().insert(path.to_owned(), steps.clone());
        }
        steps
    }
}

/// A `<phase>.wasm` is used as it is.
fn whole_module(phase: Phase, path: Utf8PathBuf) -> Step {
    let file = SourceFile::new(&path, "");
    Step::new(phase.to_string(), Uses::Path(path), json!({}), file, vec![])
}

/// `dependencies: [curl]` in the farm file or a definition file is short for a step that has the platform's package module
/// install them.
fn default_dependencies(root: &Utf8Path, config: &Config, scope: &Scope) -> Result<Vec<Step>, Problem> {
    let own = scope.get("dependencies");
    let (packages, file, place) = match own {
        Some(node) => {
            let texts = match &node.data {
                Data::List(items) => items.iter().map(|item| item.to_value()).collect(),
                _ => vec![Value::Null],
            };
            let file = node.place.as_ref().map(|place| (*place.file).clone());
            let file = file.unwrap_or_else(|| SourceFile::new(&root.join(super::FARM_FILE), ""));
            if !texts.iter().all(Value::is_string) {
                let message =
                    format!("`dependencies` must be a list of packages' names, but this is {}", node.kind());
                let help = "write `dependencies: [curl, git]`";
                let place = node.place.as_ref().map_or(0..0, |place| place.range());
                return Err(file.problem(place, message).help(help));
            }
            (texts, file, vec!["dependencies".into()])
        }
        None if config.dependencies.is_empty() => return Ok(Vec::new()),
        None => {
            let path = root.join(super::FARM_FILE);
            let file = SourceFile::read(&path).unwrap_or_else(|_| SourceFile::new(&path, ""));
            (
                config.dependencies.iter().cloned().map(Value::from).collect(),
                file,
                vec!["dependencies".into()],
            )
        }
    };
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let with = json!({ "update": true, "packages": packages });
    let (name, uses) = ("Install dependencies".to_owned(), Uses::Name("package".to_owned()));
    Ok(vec![Step { r#become: true, ..Step::new(name, uses, with, file, place) }])
}

/// Reads a phase file and those that it includes.
struct StepReader<'a> {
    rendering: Rendering<'a>,
    /// The files that are being read, outermost first.
    open: Vec<Utf8PathBuf>,
    count: usize,
    /// Whether there was a template in one of them.
    templated: bool,
    problems: Vec<Problem>,
}

impl StepReader<'_> {
    /// The steps of a file that are in order; what is wrong is noted.
    fn read(&mut self, path: &Utf8Path, r#become: bool) -> Vec<Step> {
        let read = SourceFile::read(path).and_then(|file| {
            let document = yaml::load(&Arc::new(file.clone()))?;
            match &document.data {
                Data::List(items) => Ok((file, items.clone())),
                Data::Null => Ok((file, Vec::new())),
                _ => {
                    let help = "a phase file is a list of steps: `- run: echo hello`, or `- uses: package` with settings under `with:`";
                    Err(file.problem(0..0, "this is no list of steps").help(help))
                }
            }
        });
        let (file, items) = match read {
            Ok(read) => read,
            Err(problem) => {
                self.problems.push(problem);
                return Vec::new();
            }
        };
        let mut steps = Vec::new();
        self.open.push(path.to_owned());
        for (index, item) in items.iter().enumerate() {
            match self.step(&file, index, item, r#become) {
                Ok(found) => steps.extend(found),
                Err(found) => self.problems.extend(found),
            }
        }
        self.open.pop();
        steps
    }

    /// The steps that one item of a phase file stands for. `become` is what the file that included this one says.
    fn step(
        &mut self,
        file: &SourceFile,
        index: usize,
        item: &Arc<Node>,
        r#become: bool,
    ) -> Result<Vec<Step>, Problems> {
        let place = vec![Key::Index(index)];
        let item = self.render(item)?;
        let step: WrittenStep = yaml::decode(file, item.to_value(), &place)?;
        let r#become = step.r#become.unwrap_or(r#become);
        let problem = |key: &str, message: String| {
            let mut place = place.clone();
            place.extend((!key.is_empty()).then(|| Key::from(key)));
            file.problem(yaml::find(file, &place), message)
        };
        self.count += 1;
        if self.count > MAX_STEPS {
            let message = format!("the phase has more than {MAX_STEPS} steps");
            return Err(problem("", message).help("join some of them in one script").into());
        }
        let mut with = step.with.unwrap_or_default();
        let (uses, default_name) = match (step.uses, step.run) {
            (Some(uses), None) if is_phase_file(&uses) => {
                if !with.is_empty() {
                    let message = format!("{uses} is a file of steps, which takes no settings");
                    let help = "set variables instead, in farm.yaml or a definition file: its steps see them";
                    return Err(problem("with", message).help(help).into());
                }
                return self.include(file, &uses, r#become, |message| problem("uses", message));
            }
            (Some(uses), None) if uses.ends_with(".wasm") || uses.contains('/') => {
                // Taken apart and put together again, it has no `.` in it.
                let path: Utf8PathBuf = file.folder().join(&uses).components().collect();
                if !path.is_file() {
                    let help = "a path in a phase file is relative to it";
                    return Err(problem("uses", format!("there is no phase module {path}"))
                        .help(help)
                        .into());
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
                let help = "`run` is short for `uses: shell`: make two steps of it";
                let message = "a step has either `uses` or `run`, not both".to_owned();
                return Err(problem("run", message).help(help).into());
            }
            (None, None) => {
                let help = "write `run:` with a shell script, or `uses:` with a phase module's name";
                return Err(problem("", "the step says neither `uses` nor `run`".to_owned())
                    .help(help)
                    .into());
            }
        };
        if step.retries > MAX_RETRIES {
            let message = format!("{} retries are too many", step.retries);
            return Err(problem("retries", message).help(format!("write at most {MAX_RETRIES}")).into());
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

    /// A step with the templates in its name, its script and its settings rendered.
    fn render(&mut self, item: &Arc<Node>) -> Result<Arc<Node>, Problems> {
        let Data::Map(entries) = &item.data else { return Ok(item.clone()) };
        let mut rendered = entries.clone();
        for key in ["name", "run", "with"] {
            let Some(entry) = rendered.get_mut(key) else { continue };
            let written = as_step(&entry.value);
            if !written.templated {
                entry.value = written;
                continue;
            }
            self.templated = true;
            let value = self.rendering.node(&written);
            if let Some(secret) = hidden(&written, &value) {
                let message = "a step can't have a password of the definition among its settings";
                let problem = match secret.place.as_ref().or(entry.key.as_ref()) {
                    Some(place) => place.problem(message),
                    None => Problem::new(message),
                };
                let help =
                    "settings are kept in snapshots; name a secret of farm.yaml instead: `{ secret: NAME }`";
                self.rendering.problems.push(problem.help(help));
            }
            entry.value = value;
        }
        let problems = std::mem::take(&mut self.rendering.problems);
        Problems::unless_empty(problems, Arc::new(Node { data: Data::Map(rendered), ..(**item).clone() }))
    }

    fn include(
        &mut self,
        file: &SourceFile,
        uses: &str,
        r#become: bool,
        problem: impl Fn(String) -> Problem,
    ) -> Result<Vec<Step>, Problems> {
        let path = file.folder().join(uses);
        let path = path.canonicalize_utf8().map_err(|error| {
            let help = "a path in a phase file is relative to it";
            problem(format!("can't include {path}: {error}")).help(help)
        })?;
        let open = |open: &Utf8PathBuf| open.canonicalize_utf8().is_ok_and(|open| open == path);
        if self.open.iter().any(open) {
            let help = "take this step out; a file's steps end before others of the same file could begin";
            return Err(problem(format!("{path} includes itself")).help(help).into());
        }
        if self.open.len() >= MAX_DEPTH {
            let message = format!("phase files are nested more than {MAX_DEPTH} deep");
            return Err(problem(message).help("include them one after the other instead").into());
        }
        Ok(self.read(&path, r#become))
    }
}

/// A value in which only what has an expression or a statement counts as a template: shells write `${#name}`, which to Jinja
/// would begin a comment.
fn as_step(node: &Arc<Node>) -> Arc<Node> {
    let data = match &node.data {
        _ if !node.templated => return node.clone(),
        Data::Text(text) if text.contains("{{") || text.contains("{%") => return node.clone(),
        Data::List(items) => Data::List(items.iter().map(as_step).collect()),
        Data::Map(entries) => {
            let entry = |(key, entry): (&Arc<str>, &Entry)| {
                (key.clone(), Entry { key: entry.key.clone(), value: as_step(&entry.value) })
            };
            Data::Map(entries.iter().map(entry).collect())
        }
        other => other.clone(),
    };
    let templated = match &data {
        Data::List(items) => items.iter().any(|item| item.templated),
        Data::Map(entries) => entries.values().any(|entry| entry.value.templated),
        _ => false,
    };
    Arc::new(Node { data, templated, ..(**node).clone() })
}

/// What in a rendered value comes from a password of the definition.
fn hidden<'a>(written: &Node, rendered: &'a Arc<Node>) -> Option<&'a Arc<Node>> {
    match (&written.data, &rendered.data) {
        (Data::List(before), Data::List(after)) => {
            before.iter().zip(after).find_map(|(before, after)| hidden(before, after))
        }
        (Data::Map(before), Data::Map(after)) => before
            .values()
            .zip(after.values())
            .find_map(|(before, after)| hidden(&before.value, &after.value)),
        _ if written.templated => secret_in(rendered),
        _ => None,
    }
}

fn secret_in(node: &Arc<Node>) -> Option<&Arc<Node>> {
    if node.hidden {
        return Some(node);
    }
    match &node.data {
        Data::List(items) => items.iter().find_map(secret_in),
        Data::Map(entries) => {
            entries.iter().find_map(
                |(key, entry)| {
                    if is_secret(key) { Some(&entry.value) } else { secret_in(&entry.value) }
                },
            )
        }
        _ => None,
    }
}

fn is_phase_file(uses: &str) -> bool {
    uses.ends_with(".yaml") || uses.ends_with(".yml")
}

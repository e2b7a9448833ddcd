//! Phase files: which of them a machine has, and the steps in them.

mod reader;
mod settings;
mod step;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use self::reader::StepReader;
pub use self::step::{Step, Uses};
use super::{
    Config, FARM_FILE,
    definition::Merged,
    template::{Rendering, Scope, Templates},
    yaml::{Data, Node},
};
use crate::base::{Phase, Problem, SourceFile};

/// The steps of a machine's phases. A phase without a file has none. Machines whose steps are the same share them.
#[derive(Debug, Clone, Default)]
pub struct Phases([Arc<[Step]>; 4]);

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
        let mut reader = StepReader::new(Rendering::new(self.templates, scope));
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
            let file = file.unwrap_or_else(|| SourceFile::new(&root.join(FARM_FILE), ""));
            if !texts.iter().all(Value::is_string) {
                let wrong = match &node.data {
                    Data::List(items) => {
                        items.iter().find(|item| !item.to_value().is_string()).unwrap_or(node)
                    }
                    _ => node,
                };
                let message =
                    format!("`dependencies` must be a list of packages' names, but this is {}", wrong.kind());
                let help = "write `dependencies: [curl, git]`";
                let place = wrong.place.as_ref().map_or(0..0, |place| place.range());
                return Err(file.problem(place, message).help(help));
            }
            (texts, file, vec!["dependencies".into()])
        }
        None if config.dependencies.is_empty() => return Ok(Vec::new()),
        None => {
            let path = root.join(FARM_FILE);
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

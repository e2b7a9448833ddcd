use std::{sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Step, Uses, settings, step::DEFAULT_DELAY};
use crate::{
    base::{Problem, Problems, SourceFile},
    farm::{
        template::Rendering,
        yaml::{self, Data, Key, Node},
    },
};

/// How deep phase files may include each other.
const MAX_DEPTH: usize = 16;

/// How many steps a phase may have, all files taken together.
const MAX_STEPS: usize = 1000;

/// How often a step may be tried again, at most.
const MAX_RETRIES: u32 = 100;

/// A step as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    name: Option<String>,
    uses: Option<String>,
    run: Option<String>,
    with: Option<Map<String, Value>>,
    r#become: Option<bool>,
    #[serde(default, deserialize_with = "crate::farm::config::span")]
    timeout: Option<Duration>,
    #[serde(default)]
    retries: u32,
    #[serde(default, deserialize_with = "crate::farm::config::span")]
    delay: Option<Duration>,
}

/// Reads a phase file and those that it includes.
pub(super) struct StepReader<'a> {
    rendering: Rendering<'a>,
    /// The files that are being read, outermost first.
    open: Vec<Utf8PathBuf>,
    count: usize,
    /// Whether there was a template in one of them.
    pub(super) templated: bool,
    /// What is wrong with other steps.
    pub(super) problems: Vec<Problem>,
}

impl<'a> StepReader<'a> {
    pub(super) fn new(rendering: Rendering<'a>) -> Self {
        Self { rendering, open: Vec::new(), count: 0, templated: false, problems: Vec::new() }
    }

    /// The steps of a file that are in order; what is wrong is noted.
    pub(super) fn read(&mut self, path: &Utf8Path, r#become: bool) -> Vec<Step> {
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
                let of_each = [
                    ("retries", step.retries > 0),
                    ("delay", step.delay.is_some()),
                    ("timeout", step.timeout.is_some()),
                ];
                if let Some((key, _)) = of_each.into_iter().find(|(_, is_set)| *is_set) {
                    let message = format!("{uses} is a file of steps, which has no `{key}` as a whole");
                    let help = "say it of its steps, or of the phase under `per_phase` in farm.yaml";
                    return Err(problem(key, message).help(help).into());
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
                if with.contains_key("run") {
                    let message = "what to run stands here twice: after `run` and in `with`".to_owned();
                    return Err(problem("with", message).help("write it after `run` alone").into());
                }
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
            let written = settings::as_step(&entry.value);
            if !written.templated {
                entry.value = written;
                continue;
            }
            self.templated = true;
            let value = self.rendering.node(&written);
            if let Some(secret) = settings::hidden(&written, &value) {
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

fn is_phase_file(uses: &str) -> bool {
    uses.ends_with(".yaml") || uses.ends_with(".yml")
}

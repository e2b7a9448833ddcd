//! Definition files: target, platform defaults and platform, merged into one `vm`.

use std::cell::RefCell;
use std::collections::HashMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Map, Value, json};

use super::{
    Machine,
    config::Pair,
    domain_xml::{DomainInputs, DomainTemplate},
    machine::{MachineDefinition, MachineNames},
    template::Templates,
    yaml::{self, Key},
};
use crate::base::{Problem, Problems, SourceFile};

/// Definitions that every farm has, unless it has files of the same names.
const BUILT_IN: [(&str, &str); 4] = [
    ("targets/amd64.yaml", include_str!("builtin/targets/amd64.yaml")),
    ("targets/arm64.yaml", include_str!("builtin/targets/arm64.yaml")),
    ("targets/kvm.yaml", include_str!("builtin/targets/kvm.yaml")),
    ("platforms/defaults.yaml", include_str!("builtin/platforms/defaults.yaml")),
];

/// The definition files of one farm. Each is read and parsed once.
pub(super) struct Definitions {
    root: Utf8PathBuf,
    folder: Utf8PathBuf,
    templates: Templates,
    files: RefCell<HashMap<String, Result<Option<Document>, Problem>>>,
}

/// A definition file and what is in it.
type Document = (SourceFile, Value);

impl Definitions {
    pub(super) fn new(root: &Utf8Path) -> Self {
        Self {
            root: root.to_owned(),
            folder: root.join("setup_vm"),
            templates: Templates::new(),
            files: RefCell::default(),
        }
    }

    /// The machine that a platform on a target gives: target, platform defaults, platform, the later one winning.
    pub(super) fn machine(&self, farm: &SourceFile, pair: &Pair) -> Result<Machine, Problems> {
        let target = self.require("targets", &pair.target, farm, &pair.target_place)?;
        let platform = self.require("platforms", &pair.platform, farm, &pair.platform_place)?;
        let defaults = self.file("platforms", "defaults")?;

        let mut merged = Merged::new(&self.templates, pair);
        for (source, document) in [Some(target), defaults, Some(platform)].into_iter().flatten() {
            merged.add(source, document)?;
        }
        if let Some(template) = &pair.template {
            merged.vm["metadata"]["template"] = Value::String(template.clone());
        }
        let definition: MachineDefinition =
            serde_path_to_error::deserialize(&merged.vm).map_err(|error| {
                let path: Vec<_> = error.path().iter().filter_map(Key::of_segment).collect();
                let subject = format!("`vm.{}` of {} on {}: ", error.path(), pair.platform, pair.target);
                merged
                    .problem(&path, format!("{subject}{}", error.inner()))
                    .unwrap_or_else(|problem| pair.problem(farm, problem))
            })?;
        let names = MachineNames { platform: pair.platform.clone(), target: pair.target.clone() };
        let machine = Machine::new(definition, names, &self.root, &merged.vm).map_err(|wrong| {
            merged.problem(&wrong.path, wrong.message).unwrap_or_else(|message| pair.problem(farm, message))
        })?;
        let template = DomainTemplate::find(&self.folder.join("templates"), &machine)?;
        template.render(&machine, &DomainInputs::stand_ins(&machine))?;
        Ok(machine.with_template(template))
    }

    /// A definition file that must exist.
    fn require(&self, kind: &str, name: &str, farm: &SourceFile, place: &[Key]) -> Result<Document, Problem> {
        if let Some(found) = self.file(kind, name)? {
            return Ok(found);
        }
        let word = kind.trim_end_matches('s');
        let message = format!("there is no {word} `{name}`");
        let looked = format!("looked for {}", self.folder.join(kind).join(format!("{name}.yaml")));
        let help = match nearest(name, &self.names(kind)) {
            Some(near) => format!("did you mean `{near}`? {looked}"),
            None => looked,
        };
        Err(farm.problem(yaml::find(farm, place), message).help(help))
    }

    /// The farm's own definition file of that name, else the built-in one, if there is one.
    fn file(&self, kind: &str, name: &str) -> Result<Option<Document>, Problem> {
        let key = format!("{kind}/{name}");
        if let Some(known) = self.files.borrow().get(&key) {
            return known.clone();
        }
        let read = self.read(kind, name);
        self.files.borrow_mut().insert(key, read.clone());
        read
    }

    fn read(&self, kind: &str, name: &str) -> Result<Option<Document>, Problem> {
        let own = ["yaml", "yml"].map(|extension| self.folder.join(kind).join(format!("{name}.{extension}")));
        let source = match own.iter().find(|path| path.is_file()) {
            Some(path) => SourceFile::read(path)?,
            None => match BUILT_IN.iter().find(|(path, _)| *path == format!("{kind}/{name}.yaml")) {
                Some((path, text)) => {
                    SourceFile::new(&Utf8PathBuf::from(format!("<built-in>/{path}")), *text)
                }
                None => return Ok(None),
            },
        };
        let document = yaml::read(&source)?;
        if !document.get("vm").is_some_and(Value::is_object) {
            let help = "a definition is a mapping with the key `vm`, whose value is a mapping";
            return Err(source
                .problem(0..0, format!("this defines no {}", kind.trim_end_matches('s')))
                .help(help));
        }
        Ok(Some((source, document)))
    }

    /// The names of all definitions of a kind.
    fn names(&self, kind: &str) -> Vec<String> {
        let files = self.folder.join(kind).read_dir_utf8().into_iter().flatten().flatten();
        let own = files.filter_map(|entry| entry.path().file_stem().map(str::to_owned));
        let built_in = BUILT_IN
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(&format!("{kind}/"))?.strip_suffix(".yaml"));
        own.chain(built_in.map(str::to_owned)).filter(|name| name != "defaults").collect()
    }
}

/// The name that is most like `name`, if one is like it.
pub(super) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = |other: &String| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then_some(best)
}

/// A `vm` in the making: every text is rendered with what came before it.
struct Merged<'a> {
    templates: &'a Templates,
    variables: Map<String, Value>,
    vm: Value,
    /// For each value, the file that it came from last.
    sources: Vec<Document>,
}

impl<'a> Merged<'a> {
    fn new(templates: &'a Templates, pair: &Pair) -> Self {
        let mut variables = Map::new();
        variables.insert("target_name".into(), json!(pair.target));
        variables.insert("arch_name".into(), json!(pair.target));
        variables.insert("platform_name".into(), json!(pair.platform));
        let vm = json!({ "metadata": { "target_name": pair.target, "platform_name": pair.platform } });
        Self { templates, variables, vm, sources: Vec::new() }
    }

    /// Merges a definition file in: its `vm` deeply, its other keys as variables.
    fn add(&mut self, source: SourceFile, document: Value) -> Result<(), Problem> {
        self.sources.push((source.clone(), document.clone()));
        let Value::Object(document) = document else { return Ok(()) };
        for (key, value) in document {
            if key == "vm" {
                self.merge(&source, &mut Vec::new(), value)?;
            } else {
                let value = self.render(&source, &mut vec![Key::Name(key.clone())], value)?;
                self.variables.insert(key, value);
            }
        }
        Ok(())
    }

    /// Merges `value` at `path` into `vm`: mappings key by key, anything else replaces what was there.
    fn merge(&mut self, source: &SourceFile, path: &mut Vec<String>, value: Value) -> Result<(), Problem> {
        if let Value::Object(mapping) = value {
            if !self.slot(path).is_object() {
                *self.slot(path) = json!({});
            }
            for (key, value) in mapping {
                path.push(key);
                self.merge(source, path, value)?;
                path.pop();
            }
        } else {
            let mut place = vec![Key::from("vm")];
            place.extend(path.iter().map(|name| Key::Name(name.clone())));
            let value = self.render(source, &mut place, value)?;
            *self.slot(path) = value;
        }
        Ok(())
    }

    fn slot(&mut self, path: &[String]) -> &mut Value {
        path.iter().fold(&mut self.vm, |value, key| &mut value[key.as_str()])
    }

    fn render(&self, source: &SourceFile, place: &mut Vec<Key>, value: Value) -> Result<Value, Problem> {
        Ok(match value {
            Value::String(text) if Templates::is_template(&text) => {
                let mut context = self.variables.clone();
                context.insert("vm".into(), self.vm.clone());
                self.templates.value(&text, &Value::Object(context)).map_err(|error| {
                    let help = format!("in the template `{text}`");
                    source.problem(yaml::find(source, place), error.message).help(help)
                })?
            }
            Value::Array(items) => {
                let mut rendered = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    place.push(index.into());
                    rendered.push(self.render(source, place, item)?);
                    place.pop();
                }
                Value::Array(rendered)
            }
            Value::Object(mapping) => {
                let mut rendered = Map::new();
                for (key, item) in mapping {
                    place.push(Key::Name(key.clone()));
                    rendered.insert(key, self.render(source, place, item)?);
                    place.pop();
                }
                Value::Object(rendered)
            }
            other => other,
        })
    }

    /// A problem with the value at `path` of `vm`, shown in the last file that has it. Gives the message back when none has.
    fn problem(&self, path: &[Key], message: String) -> Result<Problem, String> {
        let mut whole = vec![Key::from("vm")];
        whole.extend_from_slice(path);
        let holder = self.sources.iter().rev().find(|(_, document)| holds(&document["vm"], path));
        // A value that is missing altogether is expected in the platform's file, which comes last.
        match holder.or(self.sources.last()) {
            Some((source, _)) => Ok(source.problem(yaml::find(source, &whole), message)),
            None => Err(message),
        }
    }
}

fn holds(vm: &Value, path: &[Key]) -> bool {
    let found = path.iter().try_fold(vm, |value, key| match key {
        Key::Name(name) => value.get(name),
        Key::Index(index) => value.get(index),
    });
    found.is_some()
}

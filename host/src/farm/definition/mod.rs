//! Definition files: target, platform defaults and platform, merged into one `vm`.

mod document;
mod explain;
mod facts;
mod files;
mod merge;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use self::{
    document::Document,
    files::{DEFAULTS, Files, Kind},
    merge::{Merged, Merger},
};
pub use explain::Explained;
pub(super) use facts::HostFacts;

use super::{
    Machine,
    config::Pair,
    domain_xml::{DomainInputs, DomainTemplate},
    machine::{MachineDefinition, MachineNames},
    template::Templates,
    yaml::{self, Key, Node},
};
use crate::base::{Problems, SourceFile};

/// The definition files of one farm.
pub(super) struct Definitions {
    root: Utf8PathBuf,
    files: Files,
    templates: Templates,
    /// The variables that all templates have.
    variables: Arc<Node>,
}

impl Definitions {
    pub(super) fn new(root: &Utf8Path, facts: &HostFacts) -> Self {
        Self {
            root: root.to_owned(),
            files: Files::new(root),
            templates: Templates::new(),
            variables: facts.variables(),
        }
    }

    /// The machine that a platform on a target gives.
    pub(super) fn machine(&self, farm: &SourceFile, pair: &Pair) -> Result<Machine, Problems> {
        let merged = self.merge(farm, pair)?;
        let vm = merged.value();
        let definition: MachineDefinition = serde_path_to_error::deserialize(&vm).map_err(|error| {
            let path: Vec<_> = error.path().iter().filter_map(Key::of_segment).collect();
            let subject = format!("`vm.{}` of {} on {}: ", error.path(), pair.platform, pair.target);
            merged
                .problem(&path, format!("{subject}{}", error.inner()))
                .unwrap_or_else(|problem| pair.problem(farm, problem))
        })?;
        let names = MachineNames { platform: pair.platform.clone(), target: pair.target.clone() };
        let machine = Machine::new(definition, names, &self.root, &vm).map_err(|wrong| {
            merged.problem(&wrong.path, wrong.message).unwrap_or_else(|message| pair.problem(farm, message))
        })?;
        let template = DomainTemplate::find(&self.root.join("setup_vm/templates"), &machine)?;
        template.render(&machine, &DomainInputs::stand_ins(&machine))?;
        Ok(machine.with_template(template))
    }

    /// Where each value of a machine comes from.
    pub(super) fn explain(&self, farm: &SourceFile, pair: &Pair) -> Result<Vec<Explained>, Problems> {
        let merged = self.merge(farm, pair)?;
        Ok(explain::explain(&merged, &self.root, farm, pair))
    }

    /// What a platform on a target says: target, platform defaults, platform, the later one winning. All problems of the three
    /// files are told at once.
    pub(super) fn merge(&self, farm: &SourceFile, pair: &Pair) -> Result<Merged, Problems> {
        let target = self.require(Kind::Target, &pair.target, farm, &pair.target_place);
        let defaults = self.files.get(Kind::Platform, DEFAULTS);
        let platform = self.require(Kind::Platform, &pair.platform, farm, &pair.platform_place);
        let mut problems = Vec::new();
        let mut documents = Vec::new();
        for read in [target.map(Some), defaults, platform.map(Some)] {
            match read {
                Ok(document) => documents.extend(document),
                Err(found) => problems.extend(found),
            }
        }
        Problems::unless_empty(problems, ())?;

        let text = |text: &str| Node::literal(text, None);
        let names = [
            ("target_name", text(&pair.target)),
            ("arch_name", text(&pair.target)),
            ("platform_name", text(&pair.platform)),
        ];
        let metadata = [("target_name", text(&pair.target)), ("platform_name", text(&pair.platform))];
        let vm = Arc::new(Node::map([("metadata", Node::map(metadata))]));
        let mut merger = Merger::new(&self.templates, vm, facts::with(&self.variables, names));
        for document in &documents {
            merger.add(document);
        }
        if let Some(template) = &pair.template {
            merger.set(&["metadata", "template"], text(template));
        }
        merger.finish()
    }

    /// A definition file that must exist.
    fn require(
        &self,
        kind: Kind,
        name: &str,
        farm: &SourceFile,
        place: &[Key],
    ) -> Result<Arc<Document>, Problems> {
        if let Some(found) = self.files.get(kind, name)? {
            return Ok(found);
        }
        let message = format!("there is no {} `{name}`", kind.word());
        let looked = match self.files.candidates(kind, name).next() {
            Some(first) => format!("looked for {first}"),
            None => String::new(),
        };
        let help = match nearest(name, &self.files.names(kind)) {
            Some(near) => format!("did you mean `{near}`? {looked}"),
            None => looked,
        };
        Err(farm.problem(yaml::find(farm, place), message).help(help).into())
    }
}

/// The name that is most like `name`, if one is like it.
pub(super) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = |other: &String| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then_some(best)
}

//! Definition files: target, platform defaults and platform, merged into one `vm`.

mod cloud;
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
    merge::Merger,
};
pub use cloud::{CLOUD_PLATFORMS, CloudPlatform};
pub use explain::Explained;
pub(super) use facts::HostFacts;

use super::{
    Config, Machine,
    config::Pair,
    domain_xml::{DomainInputs, DomainTemplates},
    machine::{MachineDefinition, MachineNames},
    template::Templates,
    yaml::{self, Data, Key, Node},
};
use crate::base::{Problem, Problems, SourceFile};
pub(super) use merge::Merged;

/// The definition files of one farm.
pub(super) struct Definitions {
    root: Utf8PathBuf,
    files: Files,
    templates: Arc<Templates>,
    domain_templates: DomainTemplates,
    /// The variables that all templates have.
    variables: Arc<Node>,
    /// Those that the farm file sets.
    of_farm: Option<Arc<Node>>,
}

impl Definitions {
    pub(super) fn new(
        root: &Utf8Path,
        config: &Config,
        facts: &HostFacts,
        templates: &Arc<Templates>,
    ) -> Self {
        Self {
            root: root.to_owned(),
            files: Files::new(root),
            templates: templates.clone(),
            domain_templates: DomainTemplates::new(&root.join("setup_vm/templates"), templates),
            variables: facts::with(&facts.variables(), [("hypervisor", hypervisor(config))]),
            of_farm: config.variables().cloned(),
        }
    }

    /// The machine that a platform on a target gives, out of what [`Self::merge`] made of them.
    pub(super) fn machine(
        &self,
        farm: &SourceFile,
        pair: &Pair,
        merged: &Merged,
    ) -> Result<Machine, Problems> {
        let place = |problem: Problem| pair.place(farm, problem);
        let vm = merged.value();
        let definition = yaml::mistakes::<MachineDefinition>(vm.clone()).map_err(|mistakes| {
            let problem = |mistake| merged.problem(mistake).unwrap_or_else(place);
            Problems::from(mistakes.into_iter().map(problem).collect::<Vec<_>>())
        })?;
        let names = MachineNames { platform: pair.platform.clone(), target: pair.target.clone() };
        let template = self.domain_templates.find(&definition, &names)?;
        let template = template.map_err(|mistake| merged.problem(mistake).unwrap_or_else(place))?;
        let machine = Machine::new(definition, names, &self.root, &vm, template)
            .map_err(|mistake| merged.problem(mistake).unwrap_or_else(place))?
            .at(|path| merged.place(path).cloned());
        machine.template().render(&machine, &DomainInputs::stand_ins(&machine))?;
        Ok(machine)
    }

    /// Where each value of a machine comes from.
    pub(super) fn explain(&self, farm: &SourceFile, pair: &Pair, merged: &Merged) -> Vec<Explained> {
        explain::explain(merged, &self.root, farm, pair)
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
        if let Some(variables) = &self.of_farm {
            merger.variables(variables, false);
        }
        if let Some(variables) = &pair.variables {
            merger.variables(variables, true);
        }
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

/// What templates may know of the farm's hypervisor. Where there are several, which one a machine goes to is not known yet.
fn hypervisor(config: &Config) -> Node {
    let own = config.hypervisors.first().filter(|_| config.hypervisors.len() == 1);
    let text = |text: Option<&str>| match text {
        Some(text) => Node::literal(text, None),
        None => Node::new(Data::Null, None),
    };
    let labels = own.into_iter().flat_map(|own| &own.labels);
    let labels = labels.map(|label| Arc::new(Node::literal(label.as_str(), None))).collect();
    Node::map([
        ("name", text(own.map(|own| own.name.as_str()))),
        ("uri", text(own.and_then(|own| own.uri.as_deref()))),
        ("labels", Node::new(Data::List(labels), None)),
    ])
}

/// The name that is most like `name`, if one is like it.
pub(super) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = |other: &String| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then_some(best)
}

//! Domain XML: the built-in template and the farm's own ones, and the check of what they give.

mod kind;
mod schema;
#[cfg(test)]
mod tests;
mod trace;
mod variables;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use roxmltree::Document;
use serde::Serialize;
use serde_json::json;

pub use schema::{DomainSchema, SchemaError};

use self::{kind::needed_kind, trace::Trace};
use super::{
    Machine,
    machine::{DomainType, MachineDefinition, MachineNames},
    template::{TemplateError, Templates},
    yaml::Mistake,
};
use crate::base::{Digest, Problem, SnapshotKind, SourceFile};

/// How the names of templates' files end.
const EXTENSION: &str = ".xml.j2";

/// The Jinja template of a domain's XML.
#[derive(Debug, Clone)]
pub struct DomainTemplate {
    source: Arc<SourceFile>,
    engine: Arc<Templates>,
}

/// The domain templates of one farm. Each is read once.
pub(super) struct DomainTemplates {
    folder: Utf8PathBuf,
    built_in: DomainTemplate,
    /// The farm's own ones by name; `None` for names without a file.
    own: RefCell<HashMap<String, Option<DomainTemplate>>>,
}

impl DomainTemplates {
    pub(super) fn new(folder: &Utf8Path, engine: &Arc<Templates>) -> Self {
        let path = Utf8Path::new("<built-in>/domain.xml.j2");
        let source = Arc::new(SourceFile::new(path, include_str!("../builtin/domain.xml.j2")));
        let built_in = DomainTemplate { source, engine: engine.clone() };
        Self { folder: folder.to_owned(), built_in, own: RefCell::default() }
    }

    /// The first of `<metadata.template>`, `<metadata.name>`, `<arch>`, `default` (`.xml.j2`), else the built-in one. A template
    /// that the definition names must exist.
    pub(super) fn find(
        &self,
        definition: &MachineDefinition,
        names: &MachineNames,
    ) -> Result<Result<DomainTemplate, Mistake>, Problem> {
        if let Some(name) = definition.named_template() {
            return Ok(self.get(name)?.ok_or_else(|| {
                let message = format!("there is no domain template `{name}`");
                let help = format!("looked for {}", self.path(name));
                Mistake::new(["metadata", "template"], message).help(help)
            }));
        }
        for name in definition.template_names(names) {
            if let Some(template) = self.get(&name)? {
                return Ok(Ok(template));
            }
        }
        Ok(Ok(self.built_in.clone()))
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.folder.join(format!("{}{EXTENSION}", name.trim_end_matches(EXTENSION)))
    }

    fn get(&self, name: &str) -> Result<Option<DomainTemplate>, Problem> {
        if let Some(known) = self.own.borrow().get(name) {
            return Ok(known.clone());
        }
        let path = self.path(name);
        let found = match path.is_file() {
            true => {
                let source = Arc::new(SourceFile::read(&path)?);
                Some(DomainTemplate { source, engine: self.built_in.engine.clone() })
            }
            false => None,
        };
        self.own.borrow_mut().insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

/// What only the hypervisor and the file system can say about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainInputs {
    /// How it is run.
    #[serde(rename = "type")]
    pub domain_type: DomainType,
    /// Architecture in libvirt's words.
    pub arch: String,
    /// Path of the emulator.
    pub emulator: Utf8PathBuf,
    /// The disks' files, in the order of the machine's disks.
    pub disks: Vec<Utf8PathBuf>,
    /// The kernel's file, if the machine boots one directly.
    pub kernel: Option<Utf8PathBuf>,
    /// The initial RAM disk's file.
    pub initrd: Option<Utf8PathBuf>,
    /// The seed of the first boot, if the guest has cloud-init.
    pub seed: Option<Utf8PathBuf>,
    /// The port on loopback that leads to the guest's port 22.
    pub ssh_port: u16,
    /// The public half of farmhand's login key in OpenSSH's one-line form, if it must be put into the guest.
    pub login_key: Option<String>,
}

impl DomainInputs {
    /// Inputs of the right form, to see what a template gives before any hypervisor is asked.
    pub fn stand_ins(machine: &Machine) -> Self {
        let host_arch = || rustix::system::uname().machine().to_string_lossy().into_owned();
        let arch = machine.arch.clone().unwrap_or_else(host_arch);
        // QEMU has one emulator for all 32-bit ARM.
        let emulator = if arch.starts_with("armv") { "arm" } else { &arch };
        Self {
            domain_type: machine.domain_type.unwrap_or(DomainType::Qemu),
            emulator: format!("/usr/bin/qemu-system-{emulator}").into(),
            arch,
            disks: (0..machine.disks.len()).map(|index| format!("/disk{index}").into()).collect(),
            kernel: machine.kernel.as_ref().map(|_| "/kernel".into()),
            initrd: machine
                .kernel
                .as_ref()
                .and_then(|kernel| kernel.initrd.as_ref())
                .map(|_| "/initrd".into()),
            seed: machine.first_boot().map(|_| "/seed".into()),
            ssh_port: 22,
            login_key: machine.takes_key_from_firmware().then(|| "key".to_owned()),
        }
    }

    /// Stand-ins for all that differs from one installation of a machine to the next, so that what is rendered from them
    /// depends on its definition alone.
    fn without_places(&self) -> Self {
        Self {
            disks: (0..self.disks.len()).map(|index| format!("/disk{index}").into()).collect(),
            kernel: self.kernel.as_ref().map(|_| "/kernel".into()),
            initrd: self.initrd.as_ref().map(|_| "/initrd".into()),
            seed: self.seed.as_ref().map(|_| "/seed".into()),
            ssh_port: 22,
            login_key: self.login_key.as_ref().map(|_| "key".to_owned()),
            ..self.clone()
        }
    }
}

impl DomainTemplate {
    /// Renders a machine's domain XML. The result is checked to be well-formed.
    pub fn render(&self, machine: &Machine, inputs: &DomainInputs) -> Result<String, Problem> {
        let xml = self.rendered(self.source.text(), machine, inputs).map_err(|error| {
            let line = error.line.map_or(0, |line| self.source.offset(line, 1));
            let message = format!("can't render the domain XML of {}: {}", machine.name, error.message);
            let problem = self.source.problem(error.range.unwrap_or(line..line), message);
            problem.help("a domain template sees `vm`, the machine's definition, and `domain`: see docs/definitions.md")
        })?;
        let parsed = Document::parse(&xml).map(|document| document.root_element().has_tag_name("domain"));
        match parsed {
            Ok(true) => Ok(xml),
            Ok(false) => {
                let message = format!("this gives no <domain> for {}", machine.name);
                Err(self.source.problem(0..0, message).help("the root of a domain's XML is <domain>"))
            }
            Err(error) => {
                let message = format!("this gives XML that is not well-formed for {}: {error}", machine.name);
                let (row, column) = (error.pos().row as usize, error.pos().col as usize);
                let at = SourceFile::new(self.source.path(), xml.as_str()).offset(row, column);
                let help = format!("it is about line {row} of what `farmhand machines --xml` would print");
                Err(self.problem_at(machine, inputs, at, message).help(help))
            }
        }
    }

    /// What libvirt's schema does not allow in a machine's domain, each with the template's line. `seen` holds what was checked
    /// before, for other machines.
    pub(super) fn check(
        &self,
        machine: &Machine,
        schema: &DomainSchema,
        seen: &mut BTreeSet<Digest>,
    ) -> Result<Vec<Problem>, Problem> {
        let inputs = DomainInputs::stand_ins(machine);
        let xml = self.render(machine, &inputs)?;
        // Every machine has a name and a MAC address of its own, which are checked already.
        let outline = xml.replace(machine.mac(), "").replace(&machine.name, "");
        if !seen.insert(Digest::of(outline)) {
            return Ok(Vec::new());
        }
        let document = Document::parse(&xml).map_err(|error| self.source.problem(0..0, error.to_string()))?;
        let violations = schema.violations(&document).map_err(|why| self.source.problem(0..0, why))?;
        let problem = |violation: schema::Violation| {
            let message =
                format!("libvirt would not take the domain XML of {}: {}", machine.name, violation.message);
            let help =
                "see https://libvirt.org/formatdomain.html, and the whole with `farmhand machines --xml`";
            self.problem_at(machine, &inputs, violation.offset, message).help(help)
        };
        Ok(violations.into_iter().map(problem).collect())
    }

    /// The digest of a machine's hardware: what is rendered when paths, ports and keys are left out. How its checkpoints are
    /// kept is in it where the definition says so: those of different kinds can't stand on each other.
    pub fn shape(&self, machine: &Machine, inputs: &DomainInputs) -> Result<Digest, Problem> {
        let xml = self.render(machine, &inputs.without_places())?;
        Ok(match machine.snapshot_type {
            Some(kind) if kind != needed_kind(&xml) => Digest::of(format!("{xml}<!-- {kind} -->")),
            _ => Digest::of(xml),
        })
    }

    /// How a machine's checkpoints are kept: as its definition says, else as its domain needs it.
    pub fn snapshot_kind(&self, machine: &Machine, inputs: &DomainInputs) -> Result<SnapshotKind, Problem> {
        match machine.snapshot_type {
            Some(kind) => Ok(kind),
            None => Ok(needed_kind(&self.render(machine, &inputs.without_places())?)),
        }
    }

    fn rendered(
        &self,
        template: &str,
        machine: &Machine,
        inputs: &DomainInputs,
    ) -> Result<String, TemplateError> {
        let context = json!({ "vm": machine.vm, "domain": variables::domain(machine, inputs) });
        self.engine.xml(template, &context)
    }

    /// A problem with what stands at `offset` of the XML, at the place in the template that it came from.
    fn problem_at(
        &self,
        machine: &Machine,
        inputs: &DomainInputs,
        offset: usize,
        message: String,
    ) -> Problem {
        let template = self.source.text();
        let traced = self.rendered(&trace::mark(template), machine, inputs);
        let range = traced.map_or(0..0, |rendered| Trace::read(&rendered).1.origin(offset, template));
        self.source.problem(range, message)
    }
}

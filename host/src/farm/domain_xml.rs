use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use serde_json::json;

use super::{DiskBus, Machine, machine::DomainType, template::Templates};
use crate::base::{Digest, Problem, SourceFile};

/// The Jinja template of a domain's XML.
#[derive(Debug, Clone)]
pub struct DomainTemplate(SourceFile);

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
    /// Inputs of the right form, to see whether a template can be rendered before any hypervisor is asked.
    pub(super) fn stand_ins(machine: &Machine) -> Self {
        Self {
            domain_type: machine.domain_type.unwrap_or(DomainType::Qemu),
            arch: machine.arch.clone().unwrap_or_else(|| "x86_64".to_owned()),
            emulator: "/emulator".into(),
            disks: vec!["/disk".into(); machine.disks.len()],
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
    /// The template that comes with farmhand.
    pub fn built_in() -> Self {
        let path = Utf8Path::new("<built-in>/domain.xml.j2");
        Self(SourceFile::new(path, include_str!("builtin/domain.xml.j2")))
    }

    /// The first of `<metadata.template>`, `<metadata.name>`, `<arch>`, `default` (`.xml.j2`) in `folder`, else the
    /// built-in one. A template that the definition names must exist.
    pub(super) fn find(folder: &Utf8Path, machine: &Machine) -> Result<Self, Problem> {
        let named = machine.vm.pointer("/metadata/template").and_then(|template| template.as_str());
        let file = |name: &str| folder.join(format!("{}.xml.j2", name.trim_end_matches(".xml.j2")));
        if let Some(name) = named
            && !file(name).is_file()
        {
            let message = format!(
                "{} names the domain template `{name}`, but {} does not exist",
                machine.name,
                file(name)
            );
            return Err(Problem::new(message).help("make it, or leave vm.metadata.template out"));
        }
        let names = [named, Some(machine.name.as_str()), machine.arch.as_deref(), Some("default")];
        match names.into_iter().flatten().map(file).find(|path| path.is_file()) {
            Some(path) => SourceFile::read(&path).map(Self),
            None => Ok(Self::built_in()),
        }
    }

    /// Renders a machine's domain XML. The result is checked to be well-formed; whether it is a good domain is for libvirt
    /// to say.
    pub fn render(&self, machine: &Machine, inputs: &DomainInputs) -> Result<String, Problem> {
        let Self(source) = self;
        let context = json!({ "vm": machine.vm, "domain": domain(machine, inputs) });
        // Named by its extension's meaning, so that expressions are escaped for XML also in the built-in template.
        let xml = Templates::new().text("domain.xml.j2", source.text(), &context).map_err(|error| {
            let line = error.line.map_or(0, |line| source.offset(line, 1));
            let message = format!("can't render the domain XML of {}: {}", machine.name, error.message);
            source.problem(error.range.unwrap_or(line..line), message)
        })?;
        match roxmltree::Document::parse(&xml) {
            Ok(document) if document.root_element().has_tag_name("domain") => Ok(xml),
            Ok(_) => Err(source.problem(0..0, format!("this gives no <domain> for {}", machine.name))),
            Err(error) => Err(source.problem(
                0..0,
                format!("this gives XML that is not well-formed for {}: {error}", machine.name),
            )),
        }
    }

    /// The digest of a machine's hardware: what is rendered when paths, ports and keys are left out.
    pub fn shape(&self, machine: &Machine, inputs: &DomainInputs) -> Result<Digest, Problem> {
        self.render(machine, &inputs.without_places()).map(Digest::of)
    }
}

/// The variable `domain` of a template.
fn domain(machine: &Machine, inputs: &DomainInputs) -> serde_json::Value {
    let text = |key: &str| machine.vm.get(key).and_then(|value| value.as_str());
    let default_cpu = match (inputs.domain_type, inputs.arch.as_str()) {
        (DomainType::Kvm, _) => "host-passthrough",
        // Named models are faster under TCG than `maximum`, and snapshots with memory stay loadable.
        (DomainType::Qemu, "x86_64") => "qemu64",
        (DomainType::Qemu, "aarch64") => "cortex-a57",
        (DomainType::Qemu, _) => "max",
    };
    let default_machine = if inputs.arch == "x86_64" { "q35" } else { "virt" };
    let disks: Vec<_> = inputs
        .disks
        .iter()
        .zip(&machine.disks)
        .zip('a'..='z')
        .map(|((path, disk), letter)| {
            let (bus, prefix) = match disk.bus {
                DiskBus::Virtio => ("virtio", "vd"),
                DiskBus::Sata => ("sata", "sd"),
                DiskBus::Scsi => ("scsi", "sd"),
            };
            json!({ "path": path, "bus": bus, "dev": format!("{prefix}{letter}") })
        })
        .collect();
    let kernel = machine.kernel.as_ref().zip(inputs.kernel.as_ref());
    let kernel = kernel
        .map(|(kernel, path)| json!({ "path": path, "initrd": inputs.initrd, "params": kernel.params }));
    json!({
        "name": machine.name,
        "type": inputs.domain_type,
        "arch": inputs.arch,
        "machine": text("machine").unwrap_or(default_machine),
        "cpu": text("cpu").unwrap_or(default_cpu),
        "emulator": text("emulator").unwrap_or(inputs.emulator.as_str()),
        "disks": disks,
        "kernel": kernel,
        "seed": inputs.seed,
        "mac": machine.mac(),
        "ssh_port": inputs.ssh_port,
        "credentials": inputs.login_key.as_ref().map(|key| credentials(machine.user(), key)).unwrap_or_default(),
    })
}

/// systemd's system credentials that put a public key into the guest's user's `authorized_keys` at boot, as SMBIOS OEM
/// strings (systemd.system-credentials(7), "SMBIOS Type 11"). No cloud-init is needed for that.
fn credentials(user: &str, public_key: &str) -> Vec<String> {
    let (name, content) = if user == "root" {
        ("ssh.authorized_keys.root", public_key.to_owned())
    } else {
        let home = format!("/home/{user}");
        let tmpfiles = format!(
            "d {home}/.ssh 0700 {user} {user} -\nf+ {home}/.ssh/authorized_keys 0600 {user} {user} - {public_key}\n"
        );
        ("tmpfiles.extra", tmpfiles)
    };
    vec![format!("io.systemd.credential.binary:{name}={}", base64(content.as_bytes()))]
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

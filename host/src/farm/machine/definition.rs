//! What a definition says of a machine, and what it comes to.

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::Value;

use super::{
    DomainType, Machine, Places, Transport,
    disks::{self, DiskDefinition, KernelDefinition},
    made_mac,
};
use crate::{
    base::SnapshotKind,
    farm::{
        DomainTemplate, Firmware, Phases,
        auth::Auth,
        first_boot::{CloudInit, FirstBoot, as_hostname},
        hardware::NetworkDefinition,
        source::{self, Folders, Sources},
        yaml::{Key, Mistake},
    },
};

/// The part of a merged `vm` that farmhand itself reads. Other keys are for templates.
#[derive(Debug, Deserialize)]
pub(in crate::farm) struct MachineDefinition {
    metadata: MetadataDefinition,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    machine: Option<String>,
    #[serde(default)]
    cpu: Option<String>,
    #[serde(default)]
    emulator: Option<String>,
    #[serde(default)]
    firmware: Option<Firmware>,
    vcpus: u32,
    ram: u64,
    net: NetworkDefinition,
    #[serde(default)]
    disks: Vec<DiskDefinition>,
    #[serde(default)]
    kernel: Option<KernelDefinition>,
}

#[derive(Debug, Deserialize)]
struct MetadataDefinition {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    virt_domain: Option<DomainType>,
    #[serde(default)]
    connection: Option<String>,
    #[serde(default)]
    snapshot_type: Option<SnapshotKind>,
    #[serde(default)]
    hypervisor_labels: Vec<String>,
    #[serde(default)]
    transport: Option<Transport>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    cloud_init: Option<CloudInit>,
    #[serde(default)]
    auth: Auth,
    #[serde(default)]
    sources: Vec<Value>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    tmp_dir: Option<String>,
    #[serde(default)]
    libvirt_pool_dir: Option<String>,
}

/// The device of cloud-init's seed in the domain template.
const SEED_DEVICE: &str = "vdz";

/// The names of a machine's definitions.
pub(in crate::farm) struct MachineNames {
    pub(in crate::farm) platform: String,
    pub(in crate::farm) target: String,
}

impl MachineNames {
    fn default_name(&self) -> String {
        format!("{}_{}", self.platform, self.target)
    }
}

impl MachineDefinition {
    /// The domain template that it names.
    pub(in crate::farm) fn named_template(&self) -> Option<&str> {
        self.metadata.template.as_deref()
    }

    /// The names of domain templates that are its own without its saying so, the most specific first.
    pub(in crate::farm) fn template_names(&self, names: &MachineNames) -> Vec<String> {
        let name = self.metadata.name.clone().unwrap_or_else(|| names.default_name());
        let arch = self.arch.iter().flat_map(|arch| [arch.clone(), libvirt_arch(arch).to_owned()]);
        std::iter::once(name).chain(arch).chain(["default".to_owned()]).collect()
    }
}

impl Machine {
    /// Checks a definition's values together. `root` is the farm's folder, to which relative paths refer.
    pub(in crate::farm) fn new(
        definition: MachineDefinition,
        names: MachineNames,
        root: &Utf8Path,
        vm: &Value,
        template: DomainTemplate,
    ) -> Result<Self, Mistake> {
        let MachineDefinition {
            metadata,
            arch,
            machine,
            cpu,
            emulator,
            firmware,
            vcpus,
            ram,
            net,
            disks,
            kernel,
        } = definition;
        let name = metadata.name.unwrap_or_else(|| names.default_name());
        // The name stands in file names, in the domain XML and on command lines.
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with(['-', '.', ' ']) || !name.chars().all(fine)
        {
            let rule = "1 to 64 ASCII letters, digits, blanks, `_`, `-` or `.`, and a letter or digit first";
            let message = format!("`{name}` is no name for a machine");
            return Err(Mistake::new(["metadata", "name"], message).help(format!("it needs {rule}")));
        }
        if !(1..=512).contains(&vcpus) {
            let message = format!("{vcpus} virtual CPUs are no number for a machine");
            return Err(Mistake::new(["vcpus"], message).help("it can have 1 to 512"));
        }
        if !(16..=16 << 20).contains(&ram) {
            let message = format!("{ram} MiB of memory are no size for a machine");
            return Err(Mistake::new(["ram"], message).help("it can have 16 (16 MiB) to 16777216 (16 TiB)"));
        }
        let arch = arch.map(|arch| libvirt_arch(&arch).to_owned());
        if firmware == Some(Firmware::Bios) && matches!(arch.as_deref(), Some("aarch64" | "armv7l")) {
            let message = "there is no BIOS for ARM".to_owned();
            return Err(
                Mistake::new(["firmware"], message).help("write `firmware: uefi`, or boot a kernel directly")
            );
        }
        let net = net.check()?;
        let folders = Folders {
            tmp_dir: metadata.tmp_dir.as_deref(),
            libvirt_pool_dir: metadata.libvirt_pool_dir.as_deref(),
        };
        let sources = Sources::new(&metadata.sources, folders, root)?;
        let disks = disks::disks(&disks, &sources)?;
        let kernel = kernel.map(|kernel| disks::kernel(kernel, &sources)).transpose()?;
        let auth = metadata.auth.relative_to(root);
        let setups = disks.iter().filter_map(|disk| disk.image.setup.as_ref()).collect::<Vec<_>>();
        let hostname = metadata.hostname.unwrap_or_else(|| as_hostname(&name));
        let first_boot = FirstBoot::new(hostname, metadata.cloud_init, &auth, &setups)?;
        if let Some(index) =
            disks.iter().position(|disk| disk.device.as_deref() == Some(SEED_DEVICE) && first_boot.is_some())
        {
            let message = format!("{SEED_DEVICE} is the disk from which cloud-init reads what it is to do");
            let place: [Key; 3] = ["disks".into(), index.into(), "devname".into()];
            return Err(Mistake::new(place, message).help("give the disk another `devname`, or leave it out"));
        }
        Ok(Self {
            mac: net.mac.clone().unwrap_or_else(|| made_mac(&name, 0)),
            name,
            platform: names.platform,
            target: names.target,
            arch,
            machine_type: machine,
            cpu,
            emulator,
            firmware,
            domain_type: metadata.virt_domain,
            vcpus,
            ram,
            net,
            disks,
            kernel,
            snapshot_type: metadata.snapshot_type,
            connection: metadata.connection,
            hypervisor_labels: metadata.hypervisor_labels,
            transport: metadata.transport,
            auth,
            first_boot,
            vm: without_passwords(vm),
            template,
            phases: Phases::default(),
            places: Places::default(),
        })
    }
}

/// A definition as templates see it.
fn without_passwords(vm: &Value) -> Value {
    let mut vm = vm.clone();
    if let Some(Value::Object(cloud_init)) = vm.pointer_mut("/metadata/cloud_init") {
        cloud_init.remove("user_data");
    }
    if let Some(Value::Object(auth)) = vm.pointer_mut("/metadata/auth") {
        auth.retain(|key, _| !key.contains("password"));
    }
    if let Some(sources) = vm.pointer_mut("/metadata/sources") {
        source::without_passwords(sources);
    }
    vm
}

/// libvirt's word for an architecture.
fn libvirt_arch(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "arm" | "armv7" | "armhf" => "armv7l",
        other => other,
    }
}

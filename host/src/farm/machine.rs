use std::net::IpAddr;

use camino::Utf8Path;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    DiskBus, DiskSize, DomainTemplate, Firmware, Network, Phases,
    auth::Auth,
    first_boot::{CloudInit, FirstBoot, as_hostname},
    hardware::{MAX_DISKS, NetworkDefinition},
    source::{self, Folders, Resource, Sources},
    yaml::{Key, Mistake, Place},
};
use crate::base::{Digest, Login, Problem, SnapshotKind};

/// One virtual machine as its definition has it: a platform on a target.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Its name, which is its domain's name: `vm.metadata.name`, else `<platform>_<target>`.
    pub name: String,
    /// Its platform's name.
    pub(super) platform: String,
    /// Its target's name.
    pub(super) target: String,
    /// Architecture in libvirt's words (`x86_64`); the hypervisor's own when absent.
    pub arch: Option<String>,
    /// Machine type of the emulator's (`q35`, `virt`); chosen by the architecture when absent.
    #[serde(rename = "machine", skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// CPU model; chosen by architecture and domain type when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The emulator's path; the hypervisor's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// What starts it; the architecture's usual firmware when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// `kvm` or `qemu`; the better one that works when absent.
    pub domain_type: Option<DomainType>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram: u64,
    /// Its network.
    pub net: Network,
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// The kernel that it boots directly, if it does.
    pub kernel: Option<Kernel>,
    /// How its checkpoints are kept; what its domain needs when absent.
    pub snapshot_type: Option<SnapshotKind>,
    /// Connection URI of its hypervisor, if the definition names one.
    pub connection: Option<String>,
    /// Labels that its hypervisor must have.
    pub hypervisor_labels: Vec<String>,
    /// How farmhand talks to the guest; by SSH if there is a way to it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    #[serde(skip)]
    auth: Auth,
    #[serde(skip)]
    first_boot: Option<FirstBoot>,
    /// The whole merged definition, without its passwords: for templates.
    #[serde(skip)]
    pub(super) vm: Value,
    #[serde(skip)]
    template: DomainTemplate,
    #[serde(skip)]
    phases: Phases,
    /// The MAC address of its interface, whether given or made.
    #[serde(skip)]
    mac: String,
    #[serde(skip)]
    places: Places,
}

/// Where a machine's definition says what another one's may say as well.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub(super) name: Option<Place>,
    pub(super) net: Option<Place>,
    pub(super) mac: Option<Place>,
    pub(super) ip: Option<Place>,
    pub(super) port_forwards: Vec<Option<Place>>,
}

/// How a domain is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainType {
    /// With hardware virtualization.
    Kvm,
    /// With QEMU's own translation (TCG).
    Qemu,
}

impl DomainType {
    /// Its name in the domain XML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

/// How farmhand talks to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Over the network.
    Ssh,
    /// Through the QEMU guest agent: needs neither a network nor an SSH server.
    Agent,
}

/// A disk: a qcow2 overlay on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The image that it starts from.
    pub image: Resource,
    /// How it is attached.
    pub bus: DiskBus,
    /// The name of its device (`vda`), if the definition gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How large it is; as large as the image if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<DiskSize>,
}

/// A kernel that is booted directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The kernel.
    pub image: Resource,
    /// Its initial RAM disk.
    pub initrd: Option<Resource>,
    /// Its command line.
    pub params: String,
}

/// The part of a merged `vm` that farmhand itself reads. Other keys are for templates.
#[derive(Debug, Deserialize)]
pub(super) struct MachineDefinition {
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

#[derive(Debug, Deserialize)]
struct DiskDefinition {
    #[serde(default, rename = "type")]
    bus: DiskBus,
    #[serde(default)]
    devname: Option<String>,
    src: String,
    #[serde(default)]
    size: Option<DiskSize>,
}

#[derive(Debug, Deserialize)]
struct KernelDefinition {
    src: String,
    #[serde(default)]
    initrd: Option<String>,
    #[serde(default)]
    params: String,
}

/// The names of a machine's definitions.
pub(super) struct MachineNames {
    pub(super) platform: String,
    pub(super) target: String,
}

impl MachineNames {
    fn default_name(&self) -> String {
        format!("{}_{}", self.platform, self.target)
    }
}

impl MachineDefinition {
    /// The domain template that it names.
    pub(super) fn named_template(&self) -> Option<&str> {
        self.metadata.template.as_deref()
    }

    /// The names of domain templates that are its own without its saying so, the most specific first.
    pub(super) fn template_names(&self, names: &MachineNames) -> Vec<String> {
        let name = self.metadata.name.clone().unwrap_or_else(|| names.default_name());
        let arch = self.arch.iter().flat_map(|arch| [arch.clone(), libvirt_arch(arch).to_owned()]);
        std::iter::once(name).chain(arch).chain(["default".to_owned()]).collect()
    }
}

/// What is wrong, and with which value of `vm`.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: Vec<Key>,
    pub(super) message: String,
    help: Option<String>,
    is_key: bool,
}

impl Wrong {
    pub(super) fn new(path: impl IntoIterator<Item = impl Into<Key>>, message: impl Into<String>) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self { path, message: message.into(), help: None, is_key: false }
    }

    /// Says what to do about it.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl From<Wrong> for Mistake {
    fn from(Wrong { path, message, help, is_key }: Wrong) -> Self {
        Self { path, message, help, is_key }
    }
}

impl From<Mistake> for Wrong {
    fn from(Mistake { path, message, help, is_key }: Mistake) -> Self {
        Self { path, message, help, is_key }
    }
}

impl Machine {
    /// Checks a definition's values together. `root` is the farm's folder, to which relative paths refer.
    pub(super) fn new(
        definition: MachineDefinition,
        names: MachineNames,
        root: &Utf8Path,
        vm: &Value,
        template: DomainTemplate,
    ) -> Result<Self, Wrong> {
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
            return Err(Wrong::new(["metadata", "name"], message).help(format!("it needs {rule}")));
        }
        if !(1..=512).contains(&vcpus) {
            let message = format!("{vcpus} virtual CPUs are no number for a machine");
            return Err(Wrong::new(["vcpus"], message).help("it can have 1 to 512"));
        }
        if !(16..=16 << 20).contains(&ram) {
            let message = format!("{ram} MiB of memory are no size for a machine");
            return Err(Wrong::new(["ram"], message).help("it can have 16 (16 MiB) to 16777216 (16 TiB)"));
        }
        let arch = arch.map(|arch| libvirt_arch(&arch).to_owned());
        if firmware == Some(Firmware::Bios) && matches!(arch.as_deref(), Some("aarch64" | "armv7l")) {
            let message = "there is no BIOS for ARM".to_owned();
            return Err(
                Wrong::new(["firmware"], message).help("write `firmware: uefi`, or boot a kernel directly")
            );
        }
        let net = net.check()?;
        let folders = Folders {
            tmp_dir: metadata.tmp_dir.as_deref(),
            libvirt_pool_dir: metadata.libvirt_pool_dir.as_deref(),
        };
        let sources = Sources::new(&metadata.sources, folders, root)?;
        let disks = self::disks(&disks, &sources)?;
        let kernel = match kernel {
            None => None,
            Some(KernelDefinition { src, initrd, params }) => {
                let place = |key: &'static str| move || vec!["kernel".into(), key.into()];
                let image = sources.find(&src, place("src"))?;
                let initrd = initrd.map(|initrd| sources.find(&initrd, place("initrd"))).transpose()?;
                Some(Kernel { image, initrd, params })
            }
        };
        let auth = metadata.auth.relative_to(root);
        let hostname = metadata.hostname.unwrap_or_else(|| as_hostname(&name));
        if !source::is_plain_name(&hostname) {
            let message = format!("`{hostname}` is no host name");
            let wrong = Wrong::new(["metadata", "hostname"], message);
            return Err(wrong.help("write letters, digits, `-`, `_` and `.`"));
        }
        let data = metadata.cloud_init.map(CloudInit::data).transpose()?.flatten();
        let mut first_boot = data.map(|data| FirstBoot::new(hostname, auth.first_boot_user(), data));
        let setups = disks.iter().filter_map(|disk: &Disk| disk.image.setup.as_ref());
        if let Some(first_boot) = &mut first_boot {
            first_boot.root_password = auth.root_password().cloned();
            setups.for_each(|setup| first_boot.add(setup));
        } else if setups.count() > 0 {
            let message = "setup_image is done by cloud-init at the first boot, and this machine has none";
            let help = "if the image has cloud-init, set vm.metadata.cloud_init: true; else leave setup_image out, and say in vm.metadata.auth how the image lets users in";
            return Err(Wrong::new(["metadata", "sources"], message).help(help));
        }
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
            vm,
            template,
            phases: Phases::default(),
            places: Places::default(),
        })
    }

    pub(super) fn with_phases(self, phases: Phases) -> Self {
        Self { phases, ..self }
    }

    /// Notes where its definition says what another one's may say as well.
    pub(super) fn at(self, place: impl Fn(&[Key]) -> Option<Place>) -> Self {
        let net = |key: &str| place(&["net".into(), key.into()]);
        let given = |is_given: bool, key: &str| if is_given { net(key) } else { None };
        let forward =
            |index: usize| place(&["net".into(), "port_forwards".into(), index.into(), "host".into()]);
        let places = Places {
            name: place(&["metadata".into(), "name".into()]),
            net: net("type"),
            mac: given(self.net.mac.is_some(), "mac"),
            ip: given(self.net.ip.is_some(), "ip"),
            port_forwards: (0..self.net.port_forwards.len()).map(forward).collect(),
        };
        Self { places, ..self }
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Something that is wrong about its network, at its fixed address or where its network stands.
    pub fn network_problem(&self, message: String) -> Problem {
        match self.places.ip.as_ref().or(self.places.net.as_ref()) {
            Some(place) => place.problem(message),
            None => Problem::new(message),
        }
    }

    /// Its platform's name.
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// Its target's name.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The template of its domain XML.
    pub fn template(&self) -> &DomainTemplate {
        &self.template
    }

    /// The steps of its phases.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// The MAC address of its interface: the definition's, else one in QEMU's own range that follows from its name.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    pub(super) fn with_mac(&mut self, mac: String) {
        self.mac = mac;
    }

    /// Whether farmhand's own key must be put into the guest: because the definition names no way to log in, or because
    /// cloud-init can do it.
    pub fn needs_login_key(&self) -> bool {
        self.first_boot.is_some() || self.auth.is_open()
    }

    /// Whether farmhand's own key is put into the guest by a system credential in its firmware. cloud-init would undo that.
    pub fn takes_key_from_firmware(&self) -> bool {
        self.first_boot.is_none() && self.needs_login_key()
    }

    /// What cloud-init is told at its first boot, if its image has cloud-init.
    pub fn first_boot(&self) -> Option<&FirstBoot> {
        self.first_boot.as_ref()
    }

    /// Digests of what is done to its files and to itself before and at its first boot, by the names of
    /// [`Self::resources`] and `first boot`. What is used as it is has none.
    pub fn preparation(&self) -> IndexMap<String, Digest> {
        let mut preparation = IndexMap::new();
        let sizes = self
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| (disk_name(index), disk.size))
            .collect::<Vec<_>>();
        for (name, resource) in self.resources() {
            let size = sizes.iter().find(|(of, _)| *of == name).and_then(|(_, size)| *size);
            if !resource.steps.is_empty() || size.is_some() {
                // These always have a JSON form.
                let text = serde_json::to_string(&(&resource.steps, size)).unwrap_or_default();
                preparation.insert(name, Digest::of(text));
            }
        }
        preparation.extend(
            self.first_boot.as_ref().map(|first_boot| ("first boot".to_owned(), first_boot.digest())),
        );
        preparation
    }

    /// The user that farmhand logs in as.
    pub fn user(&self) -> &str {
        self.auth.user()
    }

    /// How to log in. `login_key` is farmhand's own key.
    pub fn login(&self, login_key: &Utf8Path) -> Login {
        self.auth.login(Some(login_key).filter(|_| self.needs_login_key()))
    }

    /// All files that it is made from, with the names under which they stand in its origin.
    pub fn resources(&self) -> Vec<(String, &Resource)> {
        let disks = self.disks.iter().enumerate().map(|(index, disk)| (disk_name(index), &disk.image));
        let kernel = self.kernel.iter().map(|kernel| ("kernel".to_owned(), &kernel.image));
        let initrd =
            self.kernel.iter().filter_map(|kernel| Some(("initrd".to_owned(), kernel.initrd.as_ref()?)));
        disks.chain(kernel).chain(initrd).collect()
    }
}

/// The name of a disk's image among a machine's resources.
pub fn disk_name(index: usize) -> String {
    format!("disk {index}")
}

/// A MAC address in QEMU's own range that follows from a machine's name. Other `attempt`s give other ones.
pub(super) fn made_mac(name: &str, attempt: u32) -> String {
    let hex = if attempt == 0 { Digest::of(name) } else { Digest::of(format!("{name}#{attempt}")) }.hex();
    format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
}

/// Disks with their images and devices.
fn disks(written: &[DiskDefinition], sources: &Sources<'_>) -> Result<Vec<Disk>, Wrong> {
    if written.is_empty() {
        let help = "give it one: `disks: [{ src: debian.qcow2 }]`, with an image of `metadata.sources`, a URL or a path";
        return Err(Wrong::new(["disks"], "the machine has no disks").help(help));
    }
    if written.len() > MAX_DISKS {
        let message = format!("{} disks are more than a machine can have", written.len());
        return Err(Wrong::new(["disks"], message).help(format!("it can have {MAX_DISKS}")));
    }
    let mut disks: Vec<Disk> = Vec::new();
    for (index, disk) in written.iter().enumerate() {
        let place = |key: &str| vec!["disks".into(), index.into(), key.into()];
        if let Some(name) = &disk.devname {
            let prefix = disk.bus.prefix();
            let rest = name.strip_prefix(prefix).unwrap_or_default();
            if rest.is_empty() || rest.len() > 2 || !rest.chars().all(|c| c.is_ascii_lowercase()) {
                let message = format!("`{name}` is no device of a {} disk", disk.bus.name());
                return Err(Wrong::new(place("devname"), message)
                    .help(format!("write `{prefix}a`, `{prefix}b`, ...")));
            }
        }
        disks.push(Disk {
            image: sources.find(&disk.src, || place("src"))?,
            bus: disk.bus,
            device: disk.devname.clone(),
            size: disk.size,
        });
        let names = device_names(&disks);
        if let Some(other) = names[..index].iter().position(|other| other == &names[index]) {
            let message = format!("disks {other} and {index} would both be {}", names[index]);
            let key = if disk.devname.is_some() { "devname" } else { "src" };
            return Err(Wrong::new(place(key), message).help("give one of them another `devname`"));
        }
    }
    Ok(disks)
}

/// The names of disks' devices: those that are given, else by their order.
pub(super) fn device_names(disks: &[Disk]) -> Vec<String> {
    let name = |(disk, letter): (&Disk, char)| {
        disk.device.clone().unwrap_or_else(|| format!("{}{letter}", disk.bus.prefix()))
    };
    disks.iter().zip('a'..='z').map(name).collect()
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

/// The loopback address on which user-mode networks forward ports.
pub const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

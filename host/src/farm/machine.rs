use std::net::IpAddr;

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    DiskSize, DomainTemplate, Phases,
    first_boot::{CloudInit, FirstBoot, FirstBootUser, as_hostname},
    source::{self, Folders, Resource, Sources},
    yaml::Key,
};
use crate::base::{Become, BecomeMethod, Credential, Digest, Login, Secret};

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
    /// Connection URI of its hypervisor, if the definition names one.
    pub connection: Option<String>,
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

/// A machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What it is connected to.
    #[serde(rename = "type")]
    pub kind: NetworkKind,
    /// The interface's MAC address; derived from the machine's name when absent.
    #[serde(default)]
    pub mac: Option<String>,
}

/// What a machine's network interface is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// A user-mode network (passt): no privileges needed; SSH comes through a forwarded port.
    User,
}

/// A disk: a qcow2 overlay on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The image that it starts from.
    pub image: Resource,
    /// How it is attached.
    pub bus: DiskBus,
    /// How large it is; as large as the image if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<DiskSize>,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// virtio-blk (`vda`).
    #[default]
    Virtio,
    /// SATA (`sda`).
    Sata,
    /// virtio-scsi (`sda`).
    Scsi,
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
    vcpus: u32,
    ram: u64,
    net: Network,
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
    tmp_dir: Option<String>,
    #[serde(default)]
    libvirt_pool_dir: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    #[serde(default = "root")]
    user: String,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    ssh_key: Option<Utf8PathBuf>,
    #[serde(default)]
    become_method: BecomeMethod,
    #[serde(default = "root")]
    become_user: String,
    #[serde(default)]
    become_password: Option<Secret>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            user: root(),
            password: None,
            ssh_key: None,
            become_method: BecomeMethod::default(),
            become_user: root(),
            become_password: None,
        }
    }
}

impl Auth {
    /// The login user, as it is made at the first boot.
    fn first_boot_user(&self) -> FirstBootUser {
        FirstBootUser {
            name: self.user.clone(),
            password: self.password.clone(),
            public_keys: Vec::new(),
            private_keys: self.ssh_key.iter().cloned().collect(),
            login_key: true,
        }
    }
}

fn root() -> String {
    "root".to_owned()
}

#[derive(Debug, Deserialize)]
struct DiskDefinition {
    #[serde(default, rename = "type")]
    bus: DiskBus,
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

/// What is wrong, and with which value of `vm`.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: Vec<Key>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn new(path: impl IntoIterator<Item = impl Into<Key>>, message: impl Into<String>) -> Self {
        Self { path: path.into_iter().map(Into::into).collect(), message: message.into() }
    }
}

impl Machine {
    /// Checks a definition's values together. `root` is the farm's folder, to which relative paths refer.
    pub(super) fn new(
        definition: MachineDefinition,
        names: MachineNames,
        root: &Utf8Path,
        vm: &Value,
    ) -> Result<Self, Wrong> {
        let MachineDefinition { metadata, arch, vcpus, ram, net, disks, kernel } = definition;
        let name = metadata.name.unwrap_or_else(|| format!("{}_{}", names.platform, names.target));
        // The name stands in file names, in the domain XML and on command lines.
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with(['-', '.', ' ']) || !name.chars().all(fine)
        {
            let rule = "1 to 64 ASCII letters, digits, blanks, `_`, `-` or `.`, and a letter or digit first";
            let message = format!("`{name}` is no name for a machine: it needs {rule}");
            return Err(Wrong::new(["metadata", "name"], message));
        }
        if !(1..=512).contains(&vcpus) {
            return Err(Wrong::new(["vcpus"], format!("{vcpus} vcpus: expected 1 to 512")));
        }
        if !(16..=16 << 20).contains(&ram) {
            return Err(Wrong::new(["ram"], format!("{ram} MiB of ram: expected 16 MiB to 16 TiB")));
        }
        let folders = Folders {
            tmp_dir: metadata.tmp_dir.as_deref(),
            libvirt_pool_dir: metadata.libvirt_pool_dir.as_deref(),
        };
        let sources = Sources::new(&metadata.sources, folders, root)?;
        let disk = |(index, disk): (usize, &DiskDefinition)| {
            let place = || vec!["disks".into(), index.into(), "src".into()];
            Ok(Disk { image: sources.find(&disk.src, place)?, bus: disk.bus, size: disk.size })
        };
        let disks = disks.iter().enumerate().map(disk).collect::<Result<Vec<_>, Wrong>>()?;
        if disks.is_empty() {
            return Err(Wrong::new(["disks"], "the machine has no disks"));
        }
        let kernel = match kernel {
            None => None,
            Some(KernelDefinition { src, initrd, params }) => {
                let place = |key: &'static str| move || vec!["kernel".into(), key.into()];
                let image = sources.find(&src, place("src"))?;
                let initrd = initrd.map(|initrd| sources.find(&initrd, place("initrd"))).transpose()?;
                Some(Kernel { image, initrd, params })
            }
        };
        if let Some(mac) = &net.mac
            && !is_mac(mac)
        {
            let message = format!("`{mac}` is no MAC address: expected six pairs of hexadecimal digits");
            return Err(Wrong::new(["net", "mac"], message));
        }
        let mut auth = metadata.auth;
        auth.ssh_key = auth.ssh_key.map(|path| root.join(path));
        let hostname = metadata.hostname.unwrap_or_else(|| as_hostname(&name));
        if !source::is_plain_name(&hostname) {
            let message = format!("`{hostname}` is no host name: expected letters, digits, `-`, `_` and `.`");
            return Err(Wrong::new(["metadata", "hostname"], message));
        }
        let data = metadata.cloud_init.map(CloudInit::data).transpose()?.flatten();
        let mut first_boot = data.map(|data| FirstBoot::new(hostname, auth.first_boot_user(), data));
        let setups = disks.iter().filter_map(|disk: &Disk| disk.image.setup.as_ref());
        if let Some(first_boot) = &mut first_boot {
            if auth.become_method == BecomeMethod::Su && auth.become_user == "root" {
                first_boot.root_password.clone_from(&auth.become_password);
            }
            setups.for_each(|setup| first_boot.add(setup));
        } else if setups.count() > 0 {
            let message = "setup_image is done by cloud-init at the first boot: if the image has it, set vm.metadata.cloud_init: true; else leave setup_image out, and say in vm.metadata.auth how the image lets users in";
            return Err(Wrong::new(["metadata", "sources"], message));
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
            name,
            platform: names.platform,
            target: names.target,
            arch,
            domain_type: metadata.virt_domain,
            vcpus,
            ram,
            net,
            disks,
            kernel,
            connection: metadata.connection,
            transport: metadata.transport,
            auth,
            first_boot,
            vm,
            template: DomainTemplate::built_in(),
            phases: Phases::default(),
        })
    }

    pub(super) fn with_template(self, template: DomainTemplate) -> Self {
        Self { template, ..self }
    }

    pub(super) fn with_phases(self, phases: Phases) -> Self {
        Self { phases, ..self }
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
    pub fn mac(&self) -> String {
        self.net.mac.clone().unwrap_or_else(|| {
            let hex = Digest::of(&self.name).hex();
            format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
        })
    }

    /// Whether farmhand's own key must be put into the guest: because the definition names no way to log in, or because
    /// cloud-init can do it.
    pub fn needs_login_key(&self) -> bool {
        self.first_boot.is_some() || (self.auth.password.is_none() && self.auth.ssh_key.is_none())
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
        &self.auth.user
    }

    /// How to log in. `login_key` is farmhand's own key.
    pub fn login(&self, login_key: &Utf8Path) -> Login {
        let auth = &self.auth;
        let mut credentials = Vec::new();
        if self.needs_login_key() {
            credentials.push(Credential::Key(login_key.to_owned()));
        }
        credentials.extend(auth.ssh_key.clone().map(Credential::Key));
        credentials.extend(auth.password.clone().map(Credential::Password));
        // sudo asks for the login user's own password.
        let own = (auth.become_method == BecomeMethod::Sudo).then(|| auth.password.clone()).flatten();
        let password = auth.become_password.clone().or(own);
        let r#become = Become { method: auth.become_method, user: auth.become_user.clone(), password };
        Login { user: auth.user.clone(), credentials, r#become }
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

fn is_mac(text: &str) -> bool {
    let pairs: Vec<_> = text.split(':').collect();
    pairs.len() == 6
        && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The loopback address on which user-mode networks forward ports.
pub const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

//! One machine of a farm: what its definition comes to, and what the other rooms ask of it.

mod definition;
mod disks;

use std::net::IpAddr;

use camino::Utf8Path;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use disks::{Disk, Kernel, disk_name};

pub(super) use definition::{MachineDefinition, MachineNames};
pub(super) use disks::device_names;

use super::{
    DomainTemplate, Firmware, FirstBoot, Network, Phases,
    auth::Auth,
    source::Resource,
    yaml::{Key, Place},
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

impl Machine {
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

/// A MAC address in QEMU's own range that follows from a machine's name. Other `attempt`s give other ones.
pub(super) fn made_mac(name: &str, attempt: u32) -> String {
    let hex = if attempt == 0 { Digest::of(name) } else { Digest::of(format!("{name}#{attempt}")) }.hex();
    format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
}

/// The loopback address on which user-mode networks forward ports.
pub const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

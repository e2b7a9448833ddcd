//! Files that a machine starts from: its disks' images, and a kernel that is booted directly.

use serde::{Deserialize, Serialize};

use crate::farm::{
    DiskBus, DiskSize,
    hardware::MAX_DISKS,
    source::{Resource, Sources},
    yaml::Mistake,
};

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

#[derive(Debug, Deserialize)]
pub(super) struct DiskDefinition {
    #[serde(default, rename = "type")]
    bus: DiskBus,
    #[serde(default)]
    devname: Option<String>,
    src: String,
    #[serde(default)]
    size: Option<DiskSize>,
}

#[derive(Debug, Deserialize)]
pub(super) struct KernelDefinition {
    src: String,
    #[serde(default)]
    initrd: Option<String>,
    #[serde(default)]
    params: String,
}

/// The name of a disk's image among a machine's resources.
pub fn disk_name(index: usize) -> String {
    format!("disk {index}")
}

/// Disks with their images and devices.
pub(super) fn disks(written: &[DiskDefinition], sources: &Sources<'_>) -> Result<Vec<Disk>, Mistake> {
    if written.is_empty() {
        let help = "give it one: `disks: [{ src: debian.qcow2 }]`, with an image of `metadata.sources`, a URL or a path";
        return Err(Mistake::new(["disks"], "the machine has no disks").help(help));
    }
    if written.len() > MAX_DISKS {
        let message = format!("{} disks are more than a machine can have", written.len());
        return Err(Mistake::new(["disks"], message).help(format!("it can have {MAX_DISKS}")));
    }
    let mut disks: Vec<Disk> = Vec::new();
    for (index, disk) in written.iter().enumerate() {
        let place = |key: &str| vec!["disks".into(), index.into(), key.into()];
        if let Some(name) = &disk.devname {
            let prefix = disk.bus.prefix();
            let rest = name.strip_prefix(prefix).unwrap_or_default();
            if rest.is_empty() || rest.len() > 2 || !rest.chars().all(|c| c.is_ascii_lowercase()) {
                let message = format!("`{name}` is no device of a {} disk", disk.bus.name());
                return Err(Mistake::new(place("devname"), message)
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
            return Err(Mistake::new(place(key), message).help("give one of them another `devname`"));
        }
    }
    Ok(disks)
}

/// The names of disks' devices: those that are given, else by their order.
pub(in crate::farm) fn device_names(disks: &[Disk]) -> Vec<String> {
    let name = |(disk, letter): (&Disk, char)| {
        disk.device.clone().unwrap_or_else(|| format!("{}{letter}", disk.bus.prefix()))
    };
    disks.iter().zip('a'..='z').map(name).collect()
}

/// The kernel with its files.
pub(super) fn kernel(written: KernelDefinition, sources: &Sources<'_>) -> Result<Kernel, Mistake> {
    let KernelDefinition { src, initrd, params } = written;
    let place = |key: &'static str| move || vec!["kernel".into(), key.into()];
    let image = sources.find(&src, place("src"))?;
    let initrd = initrd.map(|initrd| sources.find(&initrd, place("initrd"))).transpose()?;
    Ok(Kernel { image, initrd, params })
}

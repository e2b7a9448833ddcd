//! Definitions of official cloud images, for new farms.

/// The definition of a platform that comes with farmhand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudPlatform {
    /// Its name, under which farms have it.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Its definition file.
    pub definition: &'static str,
}

/// All of them.
pub const CLOUD_PLATFORMS: [CloudPlatform; 6] = [
    CloudPlatform {
        name: "debian-12",
        title: "Debian 12 (bookworm)",
        definition: include_str!("../builtin/cloud/debian-12.yaml"),
    },
    CloudPlatform {
        name: "debian-13",
        title: "Debian 13 (trixie)",
        definition: include_str!("../builtin/cloud/debian-13.yaml"),
    },
    CloudPlatform {
        name: "ubuntu-24.04",
        title: "Ubuntu 24.04 LTS (noble)",
        definition: include_str!("../builtin/cloud/ubuntu-24.04.yaml"),
    },
    CloudPlatform {
        name: "fedora-44",
        title: "Fedora Linux 44",
        definition: include_str!("../builtin/cloud/fedora-44.yaml"),
    },
    CloudPlatform {
        name: "arch-linux",
        title: "Arch Linux",
        definition: include_str!("../builtin/cloud/arch-linux.yaml"),
    },
    CloudPlatform {
        name: "alpine-3.23",
        title: "Alpine Linux 3.23",
        definition: include_str!("../builtin/cloud/alpine-3.23.yaml"),
    },
];

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

/// Those that are named, with their files from `builtin/cloud`.
macro_rules! cloud_platforms {
    ($($name:literal: $title:literal),* $(,)?) => {
        [$(CloudPlatform {
            name: $name,
            title: $title,
            definition: include_str!(concat!("../builtin/cloud/", $name, ".yaml")),
        }),*]
    };
}

/// All of them.
pub const CLOUD_PLATFORMS: [CloudPlatform; 6] = cloud_platforms! {
    "debian-12": "Debian 12 (bookworm)",
    "debian-13": "Debian 13 (trixie)",
    "ubuntu-24.04": "Ubuntu 24.04 LTS (noble)",
    "fedora-44": "Fedora Linux 44",
    "arch-linux": "Arch Linux",
    "alpine-3.23": "Alpine Linux 3.23",
};

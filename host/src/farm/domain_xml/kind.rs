//! How a domain's checkpoints can be kept.

use crate::base::SnapshotKind;

/// The kind of snapshots that a domain needs: internal ones, unless it has UEFI variables in flash memory, which they do not
/// hold, or a writable disk that is not qcow2, which can't hold them.
pub(super) fn needed_kind(xml: &str) -> SnapshotKind {
    // It was rendered, and so it is well-formed.
    let Ok(document) = roxmltree::Document::parse(xml) else { return SnapshotKind::Internal };
    let mut nodes = document.root_element().children().flat_map(|section| {
        let of_use = matches!(section.tag_name().name(), "os" | "devices");
        std::iter::once(section).chain(section.children()).filter(move |_| of_use)
    });
    let needs_external = nodes.any(|node| match node.tag_name().name() {
        "os" => node.attribute("firmware") == Some("efi"),
        "loader" => node.attribute("type") == Some("pflash"),
        "nvram" => true,
        "disk" => {
            let child = |name| node.children().find(|child| child.has_tag_name(name));
            let is_disk = matches!(node.attribute("device"), None | Some("disk"));
            let format = child("driver").and_then(|driver| driver.attribute("type"));
            is_disk && child("readonly").is_none() && format != Some("qcow2")
        }
        _ => false,
    });
    if needs_external { SnapshotKind::External } else { SnapshotKind::Internal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_decides_how_its_checkpoints_are_kept() {
        let qcow2 = "<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'/></disk>";
        let kind = |os: &str, disks: &str| {
            needed_kind(&format!("<domain><name>a</name>{os}<devices>{qcow2}{disks}</devices></domain>"))
        };
        let bios = "<os><type arch='x86_64'>hvm</type></os>";
        assert_eq!(kind(bios, ""), SnapshotKind::Internal);
        for os in [
            "<os firmware='efi'><type>hvm</type></os>",
            "<os><type>hvm</type><loader readonly='yes' type='pflash'>/code.fd</loader></os>",
            "<os><type>hvm</type><nvram>/vars.fd</nvram></os>",
        ] {
            assert_eq!(kind(os, ""), SnapshotKind::External, "{os}");
        }
        for disk in [
            "<disk type='file' device='disk'><driver type='raw'/><source file='/b'/></disk>",
            "<disk type='block'><source dev='/dev/b'/></disk>",
        ] {
            assert_eq!(kind(bios, disk), SnapshotKind::External, "{disk}");
        }
        for disk in [
            "<disk type='file' device='cdrom'><driver type='raw'/><source file='/b'/></disk>",
            "<disk type='file'><driver type='raw'/><source file='/b'/><readonly/></disk>",
        ] {
            assert_eq!(kind(bios, disk), SnapshotKind::Internal, "{disk}");
        }
    }
}

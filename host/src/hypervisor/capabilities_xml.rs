//! Hypervisors' capabilities XML. Pure.

use roxmltree::Document;

use super::{GuestCapability, xml::child_text};

/// Reads the host's architecture and what libvirt says it can run. The error says what is wrong with the XML.
pub(super) fn read(xml: &str) -> Result<(String, Vec<GuestCapability>), String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let host_arch = root
        .children()
        .filter(|node| node.has_tag_name("host"))
        .flat_map(|host| host.children())
        .find(|node| node.has_tag_name("cpu"))
        .and_then(|cpu| child_text(cpu, "arch"))
        .ok_or("the capabilities have no host architecture")?
        .to_owned();
    let mut guests = Vec::new();
    let architectures = root
        .children()
        .filter(|node| node.has_tag_name("guest") && child_text(*node, "os_type") == Some("hvm"))
        .flat_map(|guest| guest.children())
        .filter(|node| node.has_tag_name("arch"));
    for arch in architectures {
        let Some(name) = arch.attribute("name") else { continue };
        for domain in arch.children().filter(|node| node.has_tag_name("domain")) {
            // A domain type can have an emulator of its own.
            let emulator = child_text(domain, "emulator").or_else(|| child_text(arch, "emulator"));
            if let (Some(domain_type), Some(emulator)) = (domain.attribute("type"), emulator) {
                guests.push(GuestCapability {
                    arch: name.to_owned(),
                    domain_type: domain_type.to_owned(),
                    emulator: emulator.into(),
                });
            }
        }
    }
    Ok((host_arch, guests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_and_domain_type_is_read() {
        let xml = "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>\
            <machine>pc</machine><domain type='qemu'/><domain type='kvm'><emulator>/usr/bin/kvm</emulator></domain></arch></guest>\
            <guest><os_type>hvm</os_type><arch name='aarch64'><emulator>/usr/bin/qemu-system-aarch64</emulator><domain type='qemu'/></arch></guest>\
            <guest><os_type>exe</os_type><arch name='x86_64'><emulator>/init</emulator><domain type='lxc'/></arch></guest></capabilities>";
        let guest = |arch: &str, domain_type: &str, emulator: &str| GuestCapability {
            arch: arch.into(),
            domain_type: domain_type.into(),
            emulator: emulator.into(),
        };
        assert_eq!(
            read(xml),
            Ok((
                "x86_64".into(),
                vec![
                    guest("x86_64", "qemu", "/usr/bin/qemu-system-x86_64"),
                    guest("x86_64", "kvm", "/usr/bin/kvm"),
                    guest("aarch64", "qemu", "/usr/bin/qemu-system-aarch64"),
                ],
            ))
        );
    }

    #[test]
    fn what_is_no_capabilities_is_refused() {
        for xml in ["", "<capabilities/>"] {
            assert!(read(xml).is_err(), "{xml}");
        }
    }
}

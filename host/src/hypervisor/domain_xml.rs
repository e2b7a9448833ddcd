//! Domains' XML: what farmhand reads from it and puts into it. Pure.

use std::ops::Range;

use camino::Utf8PathBuf;
use roxmltree::{Document, Node};

use super::{Domain, DomainMetadata, DomainState, Interface, METADATA_NAMESPACE, xml::child_text};
use crate::base::xml_escape;

/// Name of the virtio channel through which libvirt talks with the guest agent.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// A domain's XML can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainXmlError {
    /// It is not well-formed.
    #[error("the domain XML is not well-formed: {0}")]
    Malformed(String),
    /// Something is missing or is not as libvirt writes it.
    #[error("the domain XML has no {0}")]
    Missing(&'static str),
    /// The metadata can't be written as JSON.
    #[error("the domain's metadata can't be written as JSON: {0}")]
    Metadata(String),
}

/// Whether a domain has a guest agent, as far as its XML tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentChannel {
    /// It has no channel for one.
    Absent,
    /// It has a channel, but nothing has opened it in the guest.
    Disconnected,
    /// An agent has opened the channel.
    Connected,
}

fn parse(xml: &str) -> Result<Document<'_>, DomainXmlError> {
    let document = Document::parse(xml).map_err(|error| DomainXmlError::Malformed(error.to_string()))?;
    match document.root_element().tag_name().name() {
        "domain" => Ok(document),
        _ => Err(DomainXmlError::Missing("root element <domain>")),
    }
}

/// The domain's name.
pub fn name(xml: &str) -> Result<String, DomainXmlError> {
    child_text(parse(xml)?.root_element(), "name").map(str::to_owned).ok_or(DomainXmlError::Missing("<name>"))
}

/// What farmhand knows of a domain. Metadata that can't be read counts as none: such a domain is left alone.
pub(super) fn domain(xml: &str, state: DomainState) -> Result<Domain, DomainXmlError> {
    let document = parse(xml)?;
    let root = document.root_element();
    Ok(Domain {
        name: child_text(root, "name").ok_or(DomainXmlError::Missing("<name>"))?.to_owned(),
        state,
        metadata: metadata_element(root)
            .and_then(|element| element.text())
            .and_then(|text| serde_json::from_str(text).ok()),
        ssh_port: devices(root, "interface").find_map(ssh_port),
        interfaces: devices(root, "interface").filter_map(interface).collect(),
        disks: devices(root, "disk").filter_map(disk_file).collect(),
        memory: memory(root),
        vcpus: child_text(root, "vcpu").and_then(|text| text.trim().parse().ok()).unwrap_or(1),
    })
}

/// `<memory>` in MiB. libvirt writes KiB, templates often MiB (formatdomain.html, "Memory Allocation").
fn memory(root: Node<'_, '_>) -> u64 {
    let memory = root.children().find(|node| node.has_tag_name("memory"));
    let number: u64 = memory.and_then(|node| node.text()?.trim().parse().ok()).unwrap_or_default();
    match memory.and_then(|node| node.attribute("unit")).unwrap_or("KiB") {
        "MiB" | "M" => number,
        "GiB" | "G" => number.saturating_mul(1 << 10),
        "TiB" | "T" => number.saturating_mul(1 << 20),
        "b" | "bytes" => number >> 20,
        _ => number >> 10,
    }
}

/// The state of the domain's guest agent channel; only the XML of a running domain tells it.
pub(super) fn agent_channel(xml: &str) -> Result<AgentChannel, DomainXmlError> {
    let document = parse(xml)?;
    let target = devices(document.root_element(), "channel")
        .flat_map(|channel| channel.children())
        .find(|node| node.has_tag_name("target") && node.attribute("name") == Some(AGENT_CHANNEL));
    Ok(match target.map(|target| target.attribute("state")) {
        None => AgentChannel::Absent,
        Some(Some("connected")) => AgentChannel::Connected,
        Some(_) => AgentChannel::Disconnected,
    })
}

/// A disk that a snapshot has to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskTarget {
    /// Its name in the domain (`vda`).
    pub(super) target: String,
    /// Its file.
    pub(super) file: Utf8PathBuf,
}

/// The domain's disks that are files and can be written to.
pub(super) fn disk_targets(xml: &str) -> Result<Vec<DiskTarget>, DomainXmlError> {
    let document = parse(xml)?;
    let writable = |disk: &Node<'_, '_>| !disk.children().any(|node| node.has_tag_name("readonly"));
    let target = |disk| {
        let file = disk_file(disk)?;
        let target = disk.children().find(|node| node.has_tag_name("target"))?.attribute("dev")?;
        Some(DiskTarget { target: target.to_owned(), file })
    };
    Ok(devices(document.root_element(), "disk").filter(writable).filter_map(target).collect())
}

/// Puts farmhand's metadata into the XML of a domain that is to be defined, in place of what is there of it.
///
/// Every other byte of `xml` stays as it is.
///
/// # Errors
/// When `xml` is not well-formed, or its root is not a `<domain>` with content.
pub fn insert_metadata(xml: &str, metadata: &DomainMetadata) -> Result<String, DomainXmlError> {
    let document = parse(xml)?;
    let root = document.root_element();
    let element = format!(
        "<farmhand:machine xmlns:farmhand=\"{METADATA_NAMESPACE}\">{}</farmhand:machine>",
        xml_escape(&metadata_json(metadata)?)
    );
    if let Some(old) = metadata_element(root) {
        return Ok(replace(xml, old.range(), &element));
    }
    let Some(parent) = root.children().find(|node| node.has_tag_name("metadata")) else {
        let at = closing_tag(xml, root).ok_or(DomainXmlError::Missing("content"))?;
        return Ok(replace(xml, at..at, &format!("<metadata>{element}</metadata>")));
    };
    Ok(match closing_tag(xml, parent) {
        Some(at) => replace(xml, at..at, &element),
        // `<metadata/>`
        None => replace(xml, parent.range(), &format!("<metadata>{element}</metadata>")),
    })
}

/// The element that libvirt is given to be put into a defined domain's metadata; it adds the namespace.
pub(super) fn metadata_for_libvirt(metadata: &DomainMetadata) -> Result<String, DomainXmlError> {
    Ok(format!("<machine>{}</machine>", xml_escape(&metadata_json(metadata)?)))
}

/// Gives the XML the UUID of the domain that it is to replace, unless it names one.
pub(super) fn with_uuid(xml: &str, uuid: &str) -> Result<String, DomainXmlError> {
    let document = parse(xml)?;
    let root = document.root_element();
    if root.children().any(|node| node.has_tag_name("uuid")) {
        return Ok(xml.to_owned());
    }
    let at = closing_tag(xml, root).ok_or(DomainXmlError::Missing("content"))?;
    Ok(replace(xml, at..at, &format!("<uuid>{}</uuid>", xml_escape(uuid))))
}

fn metadata_json(metadata: &DomainMetadata) -> Result<String, DomainXmlError> {
    serde_json::to_string(metadata).map_err(|error| DomainXmlError::Metadata(error.to_string()))
}

/// Where an element's closing tag begins; `None` for an empty-element tag.
fn closing_tag(xml: &str, node: Node<'_, '_>) -> Option<usize> {
    let range = node.range();
    let text = xml.get(range.clone())?;
    if text.ends_with("/>") { None } else { text.rfind("</").map(|offset| range.start + offset) }
}

fn replace(xml: &str, range: Range<usize>, with: &str) -> String {
    let mut result = xml.to_owned();
    result.replace_range(range, with);
    result
}

fn metadata_element<'a, 'input>(root: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    root.children()
        .filter(|node| node.has_tag_name("metadata"))
        .flat_map(|metadata| metadata.children())
        .find(|node| node.has_tag_name((METADATA_NAMESPACE, "machine")))
}

fn devices<'a, 'input: 'a>(
    root: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    root.children()
        .filter(|node| node.has_tag_name("devices"))
        .flat_map(|devices| devices.children())
        .filter(move |node| node.has_tag_name(name))
}

/// libvirt gives a MAC address to each interface that has none in its XML.
fn interface(interface: Node<'_, '_>) -> Option<Interface> {
    let child = |name: &str| interface.children().find(|node| node.has_tag_name(name));
    Some(Interface {
        mac: child("mac")?.attribute("address")?.to_ascii_lowercase(),
        network: child("source").and_then(|source| source.attribute("network")).map(str::to_owned),
    })
}

/// The host's port that an interface forwards to the guest's port 22.
fn ssh_port(interface: Node<'_, '_>) -> Option<u16> {
    interface
        .children()
        .filter(|node| node.has_tag_name("portForward") && node.attribute("proto") == Some("tcp"))
        .flat_map(|forward| forward.children())
        .filter(|node| node.has_tag_name("range") && node.attribute("exclude") != Some("yes"))
        .find_map(|range| {
            let number = |name| range.attribute(name).and_then(|text| text.parse::<u16>().ok());
            let start = number("start")?;
            let length = number("end").unwrap_or(start).checked_sub(start)?;
            let offset = 22_u16.checked_sub(number("to").unwrap_or(start))?;
            if offset <= length { start.checked_add(offset) } else { None }
        })
}

fn disk_file(disk: Node<'_, '_>) -> Option<Utf8PathBuf> {
    if disk.attribute("device").is_some_and(|device| device != "disk") {
        return None;
    }
    disk.children().find(|node| node.has_tag_name("source"))?.attribute("file").map(Utf8PathBuf::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata() -> DomainMetadata {
        DomainMetadata {
            origin: json!({"image": "<&\"'>", "π": 1}),
            ssh_host_key: Some("ssh-ed25519 AAAA".into()),
        }
    }

    fn read(xml: &str) -> Domain {
        domain(xml, DomainState::ShutOff).unwrap()
    }

    #[test]
    fn metadata_is_put_in_and_read_back() {
        for xml in [
            "<domain><name>a</name></domain>",
            "<domain><name>a</name><metadata/></domain>",
            "<domain><metadata>\n</metadata ><name>a</name></domain >",
            "<?xml version='1.0'?><!-- </domain> --><domain><name>a</name><metadata><o:x xmlns:o='urn:o'>1</o:x></metadata></domain>\n",
            "<domain><name>a</name><metadata><f:machine xmlns:f='https://farmhand.dev/xmlns/domain/1.0'>old</f:machine></metadata></domain>",
        ] {
            let with = insert_metadata(xml, &metadata()).unwrap();
            assert_eq!(read(&with).metadata, Some(metadata()), "{with}");
            assert_eq!(with.matches("machine xmlns").count(), 1, "{with}");
            assert_eq!(with.contains("urn:o"), xml.contains("urn:o"), "{with}");
        }
    }

    #[test]
    fn metadata_is_not_put_into_what_is_no_domain() {
        for xml in ["", "<domain", "<domain/>", "<network><name>a</name></network>"] {
            assert!(insert_metadata(xml, &metadata()).is_err(), "{xml}");
        }
    }

    #[test]
    fn unreadable_metadata_is_none() {
        let xml = "<domain><name>a</name><metadata><f:machine xmlns:f='https://farmhand.dev/xmlns/domain/1.0'>{</f:machine></metadata></domain>";
        assert_eq!(read(xml).metadata, None);
    }

    #[test]
    fn only_disks_with_a_file_are_listed() {
        let xml = "<domain><name>a</name><devices>
            <disk type='file' device='disk'><source file='/b.qcow2'/></disk>
            <disk type='file' device='cdrom'><source file='/c.iso'/></disk>
            <disk type='block' device='disk'><source dev='/dev/d'/></disk>
            <disk type='file'><source file='/a.qcow2'/><backingStore type='file'><source file='/base'/></backingStore></disk>
            </devices></domain>";
        assert_eq!(read(xml).disks, ["/b.qcow2", "/a.qcow2"]);
    }

    #[test]
    fn disks_that_a_snapshot_keeps_are_writable_files() {
        let xml = "<domain><name>a</name><devices>
            <disk type='file'><source file='/a.qcow2'/><target dev='vda'/></disk>
            <disk type='file'><source file='/b.qcow2'/><target dev='vdb'/><readonly/></disk>
            <disk type='block'><source dev='/dev/c'/><target dev='vdc'/></disk></devices></domain>";
        let a = DiskTarget { target: "vda".into(), file: "/a.qcow2".into() };
        assert_eq!(disk_targets(xml), Ok(vec![a]));
    }

    #[test]
    fn interfaces_are_read() {
        let xml =
            "<domain><name>a</name><devices><interface type='network'><mac address='52:54:00:AA:00:01'/>
            <source network='default' bridge='virbr0'/></interface><interface type='user'>
            <mac address='52:54:00:aa:00:02'/></interface></devices></domain>";
        let interface = |mac: &str, network: Option<&str>| Interface {
            mac: mac.into(),
            network: network.map(str::to_owned),
        };
        let expected =
            [interface("52:54:00:aa:00:01", Some("default")), interface("52:54:00:aa:00:02", None)];
        assert_eq!(read(xml).interfaces, expected);
    }

    #[test]
    fn port_22_is_found_in_forwarded_ranges() {
        let port = |ranges: &str| {
            read(&format!(
                "<domain><name>a</name><devices><interface type='network'/><interface type='user'>\
                 <portForward proto='udp'><range start='1' to='22'/></portForward>\
                 <portForward proto='tcp' address='127.0.0.1'>{ranges}</portForward></interface></devices></domain>"
            ))
            .ssh_port
        };
        assert_eq!(port("<range start='80'/><range start='2222' to='22'/>"), Some(2222));
        assert_eq!(port("<range start='2000' end='2010' to='20'/>"), Some(2002));
        assert_eq!(port("<range start='22'/>"), Some(22));
        assert_eq!(port("<range start='20' end='30' exclude='yes'/>"), None);
        assert_eq!(port("<range start='2000' end='2001' to='20'/>"), None);
        assert_eq!(port("<range start='99999' to='22'/>"), None);
    }

    #[test]
    fn the_agent_channel_tells_its_state() {
        let channel = |target: &str| {
            agent_channel(&format!(
                "<domain><name>a</name><devices><channel type='unix'>{target}</channel></devices></domain>"
            ))
            .unwrap()
        };
        assert_eq!(
            channel("<target type='virtio' name='com.redhat.spice.0' state='connected'/>"),
            AgentChannel::Absent
        );
        assert_eq!(
            channel("<target type='virtio' name='org.qemu.guest_agent.0'/>"),
            AgentChannel::Disconnected
        );
        assert_eq!(
            channel("<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>"),
            AgentChannel::Connected
        );
    }

    #[test]
    fn a_uuid_is_given_to_xml_without_one() {
        let uuid = "4fd6f1a6-5e3b-4a0f-9d9c-0d3e5a3d8f00";
        assert!(with_uuid("<domain><name>a</name></domain>", uuid).unwrap().contains(uuid));
        let own = "<domain><uuid>00000000-0000-0000-0000-000000000001</uuid></domain>";
        assert_eq!(with_uuid(own, uuid).unwrap(), own);
    }
}

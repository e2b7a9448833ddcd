//! Networks' XML (formatnetwork.html). Pure.

use std::net::{IpAddr, Ipv4Addr};

use roxmltree::{Document, Node};

use super::{Network, NewNetwork, Reservation, Subnet, xml::child_text};
use crate::base::xml_escape;

/// Reads a network. The error says what is wrong with the XML.
pub(super) fn read(xml: &str, active: bool) -> Result<Network, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let name = child_text(root, "name").ok_or("a network has no <name>")?.to_owned();
    let addresses = || root.children().filter(|node| node.has_tag_name("ip"));
    let hosts = addresses()
        .flat_map(|address| address.children())
        .filter(|node| node.has_tag_name("dhcp"))
        .flat_map(|dhcp| dhcp.children())
        .filter(|node| node.has_tag_name("host"));
    Ok(Network {
        name,
        active,
        subnets: addresses().filter_map(subnet).collect(),
        reservations: hosts.filter_map(reservation).collect(),
    })
}

fn subnet(node: Node<'_, '_>) -> Option<Subnet> {
    let gateway: IpAddr = node.attribute("address")?.parse().ok()?;
    let longest = if gateway.is_ipv4() { 32 } else { 128 };
    let netmask = || node.attribute("netmask")?.parse::<Ipv4Addr>().ok();
    let prefix = match node.attribute("prefix").and_then(|prefix| prefix.parse().ok()) {
        Some(prefix) => prefix,
        None => netmask().map_or(longest, |mask| mask.to_bits().leading_ones() as u8),
    };
    let dhcp = node.children().any(|child| child.has_tag_name("dhcp"));
    Some(Subnet { gateway, prefix: prefix.min(longest), dhcp })
}

fn reservation(host: Node<'_, '_>) -> Option<Reservation> {
    // IPv6 hosts go by another identifier.
    let mac = host.attribute("mac")?.to_ascii_lowercase();
    Some(Reservation { mac, ip: host.attribute("ip")?.parse().ok()? })
}

/// The XML of a network to define: behind NAT, with DHCP for all of its subnet but the hypervisor's own address. Its bridge has
/// no spanning tree, which libvirt would give it: there are no loops in it, and it would keep each guest that starts, or is put
/// back into a snapshot, off the network for four seconds.
pub(super) fn to_define(network: &NewNetwork) -> String {
    let NewNetwork { name, gateway, prefix } = network;
    let hosts = u32::MAX.checked_shr(u32::from(*prefix)).unwrap_or_default();
    let base = gateway.to_bits() & !hosts;
    let (mut first, mut last) = (base + 1, base + hosts.saturating_sub(1));
    // The hypervisor's address is usually the first.
    if gateway.to_bits() == first {
        first += 1;
    } else if gateway.to_bits() == last {
        last -= 1;
    }
    let (first, last) = (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
    format!(
        "<network><name>{}</name><forward mode='nat'/><bridge stp='off' delay='0'/><ip address='{gateway}' prefix='{prefix}'>\
         <dhcp><range start='{first}' end='{last}'/></dhcp></ip></network>",
        xml_escape(name)
    )
}

/// The element with which `virNetworkUpdate` names a reservation.
pub(super) fn host(reservation: &Reservation) -> String {
    format!("<host mac='{}' ip='{}'/>", xml_escape(&reservation.mac), reservation.ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_defined_is_read_back() {
        let new = NewNetwork { name: "a & b".into(), gateway: Ipv4Addr::new(192, 168, 122, 1), prefix: 24 };
        let xml = to_define(&new);
        assert!(xml.contains("<range start='192.168.122.2' end='192.168.122.254'/>"), "{xml}");
        let network = read(&xml, true).unwrap();
        assert_eq!((network.name.as_str(), network.subnets), ("a & b", vec![new.subnet()]));
        let last = to_define(&NewNetwork { gateway: Ipv4Addr::new(10, 0, 0, 6), prefix: 29, ..new });
        assert!(last.contains("<range start='10.0.0.1' end='10.0.0.5'/>"), "{last}");
    }

    #[test]
    fn subnets_and_reservations_are_read_as_libvirt_writes_them() {
        let xml = "<network><name>n</name><ip address='10.0.0.1' netmask='255.255.0.0'><dhcp>
            <range start='10.0.0.2' end='10.0.0.9'/><host mac='52:54:00:AA:00:01' name='m' ip='10.0.0.7'/></dhcp></ip>
            <ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host id='0:1' ip='fd00::2'/></dhcp></ip>
            <ip address='10.1.0.1'/></network>";
        let network = read(xml, false).unwrap();
        let subnet = |gateway: &str, prefix, dhcp| Subnet { gateway: gateway.parse().unwrap(), prefix, dhcp };
        let expected =
            [subnet("10.0.0.1", 16, true), subnet("fd00::1", 64, true), subnet("10.1.0.1", 32, false)];
        assert_eq!(network.subnets, expected);
        let host = Reservation { mac: "52:54:00:aa:00:01".into(), ip: "10.0.0.7".parse().unwrap() };
        assert_eq!(super::host(&host), "<host mac='52:54:00:aa:00:01' ip='10.0.0.7'/>");
        assert_eq!(network.reservations, [host]);
        assert!(read("<network/>", false).is_err());
    }
}

//! What a machine's definition says of its hardware: network, disks, firmware.

use std::{net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use super::{
    machine::LOOPBACK,
    yaml::{Key, Mistake},
};

/// How many disks a machine may have: one for each letter of `vda` to `vdz`.
pub(super) const MAX_DISKS: usize = 26;

/// A machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// What it is connected to.
    #[serde(rename = "type")]
    pub kind: NetworkKind,
    /// Which network, bridge, tap device or switch that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The interface's MAC address, if the definition gives one.
    pub mac: Option<String>,
    /// The guest's fixed address; by DHCP when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The length of that address's network prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// Ports of the host that lead into the guest, beside the one for SSH. Only for [`NetworkKind::User`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
}

impl Network {
    /// The network of libvirt's that it is in, if it is in one.
    pub fn libvirt_network(&self) -> Option<&str> {
        self.source().filter(|_| self.kind == NetworkKind::Network)
    }

    /// Which network, bridge, tap device or switch it is connected to, if that is known.
    pub fn source(&self) -> Option<&str> {
        let default = (self.kind == NetworkKind::Network).then_some("default");
        self.source.as_deref().or(default)
    }
}

/// What a machine's network interface is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// A user-mode network (passt): no privileges needed; SSH comes through a forwarded port.
    User,
    /// A network of libvirt's; `default` if `source` names none.
    Network,
    /// A bridge of the host's, which `source` names.
    Bridge,
    /// A tap device of the host's, which `source` names if it exists already.
    Ethernet,
    /// A VDE switch, by its socket's folder in `source`; VDE's own default without.
    Vde,
}

impl NetworkKind {
    /// Its name in definitions.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Network => "network",
            Self::Bridge => "bridge",
            Self::Ethernet => "ethernet",
            Self::Vde => "vde",
        }
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address; loopback unless it says otherwise.
    #[serde(default = "loopback")]
    pub address: IpAddr,
    /// The host's port.
    #[serde(deserialize_with = "port")]
    pub host: u16,
    /// The guest's port.
    #[serde(deserialize_with = "port")]
    pub guest: u16,
}

impl PortForward {
    /// Whether no host can have both.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        let everywhere = self.address.is_unspecified() || other.address.is_unspecified();
        (self.protocol, self.host) == (other.protocol, other.host)
            && (everywhere || self.address == other.address)
    }
}

fn loopback() -> IpAddr {
    LOOPBACK
}

fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    NonZeroU16::deserialize(deserializer).map(NonZeroU16::get)
}

/// What a forwarded port carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name in definitions and in the domain XML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What starts a machine's system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A PC's BIOS, or nothing where there is none.
    Bios,
    /// UEFI: libvirt chooses an installed one.
    #[serde(alias = "efi")]
    Uefi,
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

impl DiskBus {
    /// Its name in definitions and in the domain XML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Sata => "sata",
            Self::Scsi => "scsi",
        }
    }

    /// How the names of its devices begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Virtio => "vd",
            Self::Sata | Self::Scsi => "sd",
        }
    }
}

/// `vm.net` as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct NetworkDefinition {
    #[serde(rename = "type")]
    kind: NetworkKind,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    mask: Option<Mask>,
    #[serde(default)]
    port_forwards: Vec<PortForward>,
}

/// `255.255.255.0`, or the length of the prefix.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a mask such as 255.255.255.0, or the length of a prefix")]
enum Mask {
    Length(u8),
    Text(String),
}

impl NetworkDefinition {
    pub(super) fn check(self) -> Result<Network, Mistake> {
        let Self { kind, source, mac, ip, mask, port_forwards } = self;
        let wrong = |key: &str, message: String, help: &str| Mistake::new(["net", key], message).help(help);
        if let Some(mac) = &mac {
            check_mac(mac).map_err(|(message, help)| wrong("mac", message, help))?;
        }
        if kind == NetworkKind::Bridge && source.is_none() {
            let message = "a network of type bridge needs the bridge's name";
            return Err(wrong(
                "type",
                message.to_owned(),
                "add `source: br0` beside it, with the bridge's name",
            ));
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        if let Some(name) = &source {
            let interface = matches!(kind, NetworkKind::Bridge | NetworkKind::Ethernet);
            if interface && (name.is_empty() || name.len() > 15 || !name.chars().all(fine)) {
                let message = format!("`{name}` is no name of a network device");
                return Err(wrong("source", message, "it has 1 to 15 letters, digits, `_`, `-` or `.`"));
            }
            if kind == NetworkKind::Vde && (!name.starts_with('/') || name.contains(',')) {
                let message = format!("`{name}` is no place of a VDE switch");
                return Err(wrong(
                    "source",
                    message,
                    "give the absolute path of its socket's folder, without a comma",
                ));
            }
        }
        let ip = match ip.as_deref() {
            None | Some("dhcp") => None,
            Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
                wrong(
                    "ip",
                    format!("`{text}` is no address"),
                    "write an address such as 192.168.122.10, or `dhcp`",
                )
            })?),
        };
        let prefix = mask.map(|mask| prefix(&mask)).transpose().map_err(|message| {
            wrong("mask", message, "write a mask such as 255.255.255.0, or a length such as 24")
        })?;
        if kind != NetworkKind::User && !port_forwards.is_empty() {
            let message = format!("a network of type {} forwards no ports", kind.name());
            return Err(wrong("port_forwards", message, "take them out, or make it `type: user`"));
        }
        if ip.is_some() && kind == NetworkKind::User {
            let message = "a user-mode network gives guests no fixed addresses".to_owned();
            return Err(wrong("ip", message, "take it out, or make it `type: network`"));
        }
        for (index, forward) in port_forwards.iter().enumerate() {
            if port_forwards[..index].iter().any(|other| forward.clashes_with(other)) {
                let place: Vec<Key> = vec!["net".into(), "port_forwards".into(), index.into(), "host".into()];
                let message = format!("port {} of {} is forwarded twice", forward.host, forward.address);
                return Err(Mistake::new(place, message).help("forward another port of the host"));
            }
        }
        let mac = mac.map(|mac| mac.to_ascii_lowercase());
        Ok(Network { kind, source, mac, ip, prefix, port_forwards })
    }
}

fn prefix(mask: &Mask) -> Result<u8, String> {
    match mask {
        Mask::Length(length) if *length <= 128 => Ok(*length),
        Mask::Length(length) => Err(format!("a prefix of {length} bits is longer than any address")),
        Mask::Text(text) => {
            let bits = text.parse::<std::net::Ipv4Addr>().map(u32::from).ok();
            let bits = bits.filter(|bits| bits.leading_ones() == bits.count_ones());
            match bits {
                Some(bits) => u8::try_from(bits.leading_ones()).map_err(|error| error.to_string()),
                None => {
                    text.parse().ok().filter(|length| *length <= 128).ok_or(format!("`{text}` is no mask"))
                }
            }
        }
    }
}

/// What is wrong with a MAC address, and what to do about it.
fn check_mac(mac: &str) -> Result<(), (String, &'static str)> {
    let pairs: Vec<_> = mac.split(':').collect();
    let is_mac = pairs.len() == 6
        && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_mac {
        let message = format!("`{mac}` is no MAC address: expected six pairs of hexadecimal digits");
        return Err((
            message,
            "write it as 52:54:00:12:34:56, or leave it out to have one made from the machine's name",
        ));
    }
    // The lowest bit of the first byte makes it a group's address (IEEE 802).
    if u8::from_str_radix(pairs[0], 16).is_ok_and(|first| first & 1 == 1) {
        let message = format!("`{mac}` is the address of a group, which no interface can have");
        return Err((message, "the first pair must be even: 52:54:00:12:34:56"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(json: serde_json::Value) -> Result<Network, String> {
        let definition: NetworkDefinition = serde_json::from_value(json).unwrap();
        definition.check().map_err(|wrong| wrong.message)
    }

    #[test]
    fn masks_are_read_in_both_forms() {
        for (mask, expected) in [
            ("255.255.255.0", Some(24)),
            ("0.0.0.0", Some(0)),
            ("64", Some(64)),
            ("255.0.255.0", None),
            ("129", None),
            ("x", None),
        ] {
            assert_eq!(prefix(&Mask::Text(mask.to_owned())).ok(), expected, "{mask}");
        }
    }

    #[test]
    fn what_no_network_can_have_is_refused() {
        use serde_json::json;
        for wrong in [
            json!({ "type": "bridge" }),
            json!({ "type": "bridge", "source": "a/b" }),
            json!({ "type": "vde", "source": "/run/a,mode=7" }),
            json!({ "type": "network", "ip": "192.168.1" }),
            json!({ "type": "user", "ip": "192.168.1.1" }),
            json!({ "type": "network", "port_forwards": [{ "host": 80, "guest": 80 }] }),
            json!({ "type": "user", "port_forwards": [{ "host": 80, "guest": 80 }, { "host": 80, "guest": 81 }] }),
            json!({ "type": "user", "port_forwards": [{ "host": 80, "guest": 80 }, { "host": 80, "guest": 80, "address": "::" }] }),
            json!({ "type": "user", "mac": "01:00:5e:00:00:01" }),
        ] {
            assert!(network(wrong.clone()).is_err(), "{wrong}");
        }
        let apart = json!([{ "host": 80, "guest": 80 }, { "host": 80, "guest": 80, "protocol": "udp" },
            { "host": 80, "guest": 80, "address": "127.0.0.2" }]);
        assert!(network(json!({ "type": "user", "port_forwards": apart })).is_ok());
        let good = network(json!({ "type": "network", "ip": "dhcp", "mac": "52:54:00:AB:cd:00" })).unwrap();
        assert_eq!((good.ip, good.mac.as_deref()), (None, Some("52:54:00:ab:cd:00")));
    }
}

//! Storage pools' and volumes' XML (formatstorage.html). Pure.

use camino::{Utf8Path, Utf8PathBuf};
use roxmltree::{Document, Node};

use super::{
    NewContent, NewVolume, Volume,
    xml::{child, child_text},
};
use crate::base::xml_escape;

/// The XML of a pool that is a folder.
pub(super) fn pool_to_define(name: &str, folder: &Utf8Path) -> String {
    format!(
        "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>",
        xml_escape(name),
        xml_escape(folder.as_str())
    )
}

/// A pool's folder. The error says what is wrong with the XML.
pub(super) fn pool_folder(xml: &str) -> Result<Utf8PathBuf, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let target = child(document.root_element(), "target");
    let path = target.and_then(|target| child_text(target, "path"));
    path.map(Utf8PathBuf::from).ok_or_else(|| "a storage pool has no <path>".to_owned())
}

/// The XML of a volume to make.
pub(super) fn to_create(volume: &NewVolume) -> String {
    let content = match &volume.content {
        NewContent::Bytes => {
            "<target><format type='raw'/><permissions><mode>0600</mode></permissions></target>".to_owned()
        }
        NewContent::Layer { backing, format } => format!(
            "<target><format type='qcow2'/></target><backingStore><path>{}</path><format type='{format}'/></backingStore>",
            xml_escape(backing.as_str())
        ),
    };
    format!(
        "<volume><name>{}</name><capacity unit='bytes'>{}</capacity><allocation>0</allocation>{content}</volume>",
        xml_escape(&volume.name),
        volume.capacity
    )
}

/// Reads a volume. The error says what is wrong with the XML.
pub(super) fn read(xml: &str) -> Result<Volume, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let path = |element: Option<Node<'_, '_>>| {
        let path = element.and_then(|element| child_text(element, "path"));
        path.filter(|path| !path.is_empty()).map(Utf8PathBuf::from)
    };
    Ok(Volume {
        name: child_text(root, "name").ok_or("a volume has no <name>")?.to_owned(),
        path: path(child(root, "target")).ok_or("a volume has no <path>")?,
        backing: path(child(root, "backingStore")),
        // libvirt writes bytes.
        capacity: child_text(root, "capacity").and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read_as_libvirt_writes_them() {
        let xml = "<volume type='file'><name>a.qcow2</name><capacity unit='bytes'>7</capacity>
            <target><path>/p/a.qcow2</path></target><backingStore><path>/p/b</path><format type='raw'/></backingStore></volume>";
        let expected = Volume {
            name: "a.qcow2".into(),
            path: "/p/a.qcow2".into(),
            backing: Some("/p/b".into()),
            capacity: 7,
        };
        assert_eq!(read(xml), Ok(expected));
        let plain = read("<volume><name>a</name><target><path>/p/a</path></target></volume>").unwrap();
        assert_eq!((plain.backing, plain.capacity), (None, 0));
        assert!(read("<volume><name>a</name></volume>").is_err());
    }

    #[test]
    fn what_is_sent_to_libvirt_is_well_formed() {
        let layer = NewContent::Layer { backing: "/p/a & b".into(), format: "raw" };
        for content in [NewContent::Bytes, layer] {
            let xml = to_create(&NewVolume { name: "a & b".into(), content, capacity: 7 });
            let document = Document::parse(&xml).unwrap();
            assert_eq!(child_text(document.root_element(), "name"), Some("a & b"));
        }
        let pool = pool_to_define("a & b", "/p/a & b".into());
        assert_eq!(pool_folder(&pool), Ok("/p/a & b".into()));
        assert!(pool_folder("<pool/>").is_err());
    }
}

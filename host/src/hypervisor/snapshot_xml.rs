//! Snapshots' XML. Pure.

use roxmltree::Document;

use super::{NewSnapshot, Snapshot, xml::child_text};
use crate::base::xml_escape;

/// The XML of a snapshot to take. What it holds is left to libvirt: an internal one of all disks and of a running domain's
/// memory.
pub(super) fn to_take(snapshot: &NewSnapshot) -> String {
    format!(
        "<domainsnapshot><name>{}</name><description>{}</description></domainsnapshot>",
        xml_escape(&snapshot.name),
        xml_escape(&snapshot.description)
    )
}

/// Reads a snapshot as libvirt describes it. The error says what is wrong with the XML.
pub(super) fn read(xml: &str) -> Result<Snapshot, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    Ok(Snapshot {
        name: child_text(root, "name").ok_or("a snapshot has no <name>")?.to_owned(),
        description: child_text(root, "description").unwrap_or_default().to_owned(),
        creation_time: child_text(root, "creationTime")
            .and_then(|text| text.parse().ok())
            .ok_or("a snapshot has no <creationTime>")?,
        parent: root
            .children()
            .find(|node| node.has_tag_name("parent"))
            .and_then(|parent| child_text(parent, "name"))
            .map(str::to_owned),
        // `disk-snapshot` and `shutoff` hold no memory.
        live: matches!(child_text(root, "state"), Some("running" | "paused")),
    })
}

/// Sorts snapshots from the oldest to the newest. libvirt's times are whole seconds, so a parent goes before its children.
pub(super) fn sort(snapshots: &mut [Snapshot]) {
    let parents: std::collections::HashMap<_, _> =
        snapshots.iter().map(|snapshot| (snapshot.name.clone(), snapshot.parent.clone())).collect();
    let depth = |snapshot: &Snapshot| {
        std::iter::successors(snapshot.parent.as_ref(), |name| parents.get(*name).and_then(Option::as_ref))
            .take(parents.len())
            .count()
    };
    snapshots.sort_by_cached_key(|snapshot| (snapshot.creation_time, depth(snapshot), snapshot.name.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_libvirt_writes_it() {
        let xml = "<domainsnapshot>\n  <name>p.1.init</name>\n  <description>{&quot;key&quot;:&quot;&lt;a&gt;&quot;}</description>\n  \
            <state>running</state>\n  <parent>\n    <name>clean</name>\n  </parent>\n  <creationTime>1700000000</creationTime>\n  \
            <memory snapshot='internal'/>\n  <domain type='qemu'><name>vm</name><description>no</description></domain>\n</domainsnapshot>";
        let snapshot = Snapshot {
            name: "p.1.init".into(),
            description: "{\"key\":\"<a>\"}".into(),
            creation_time: 1_700_000_000,
            parent: Some("clean".into()),
            live: true,
        };
        assert_eq!(read(xml), Ok(snapshot));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for xml in ["", "<domainsnapshot/>", "<domainsnapshot><name>a</name></domainsnapshot>"] {
            assert!(read(xml).is_err(), "{xml}");
        }
    }

    #[test]
    fn the_oldest_is_first_and_a_parent_before_its_child() {
        let snapshot = |name: &str, creation_time, parent: Option<&str>| Snapshot {
            name: name.into(),
            description: String::new(),
            creation_time,
            parent: parent.map(str::to_owned),
            live: false,
        };
        let mut snapshots = [
            snapshot("a", 2, Some("b")),
            snapshot("b", 2, Some("c")),
            snapshot("c", 2, None),
            snapshot("z", 1, Some("lost")),
        ];
        sort(&mut snapshots);
        assert_eq!(snapshots.map(|snapshot| snapshot.name), ["z", "c", "b", "a"]);
    }
}

//! Snapshots' XML. Pure.

use camino::{Utf8Path, Utf8PathBuf};
use roxmltree::{Document, Node};

use super::{
    NewSnapshot, Snapshot,
    domain_xml::DiskTarget,
    xml::{child, child_text},
};
use crate::base::{SnapshotKind, xml_escape};

/// The XML of a snapshot to take of a domain with these disks, which runs or not. `tag` makes the names of an external one's
/// files differ from all that are there.
pub(super) fn to_take(snapshot: &NewSnapshot, disks: &[DiskTarget], runs: bool, tag: &str) -> String {
    let state = match snapshot.kind {
        // What it holds is left to libvirt: all disks and a running domain's memory.
        SnapshotKind::Internal => String::new(),
        SnapshotKind::External | SnapshotKind::Disk => external(snapshot, disks, runs, tag),
    };
    format!(
        "<domainsnapshot><name>{}</name><description>{}</description>{state}</domainsnapshot>",
        xml_escape(&snapshot.name),
        xml_escape(&snapshot.description)
    )
}

fn external(snapshot: &NewSnapshot, disks: &[DiskTarget], runs: bool, tag: &str) -> String {
    let folder = disks.first().and_then(|disk| disk.file.parent()).unwrap_or(Utf8Path::new("/"));
    let file = |of: &str, extension: &str| {
        // A project's id may have any character in it.
        let fine = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
        let name: String = snapshot.name.chars().take(100).map(fine).collect();
        xml_escape(folder.join(format!("{of}-{name}-{tag}.{extension}")).as_str())
    };
    let memory = if runs {
        format!("<memory snapshot='external' file='{}'/>", file("memory", "save"))
    } else {
        "<memory snapshot='no'/>".to_owned()
    };
    let disk = |disk: &DiskTarget| {
        let (target, file) = (xml_escape(&disk.target), file(&disk.target, "qcow2"));
        format!(
            "<disk name='{target}' snapshot='external'><driver type='qcow2'/><source file='{file}'/></disk>"
        )
    };
    format!("{memory}<disks>{}</disks>", disks.iter().map(disk).collect::<String>())
}

/// Reads a snapshot as libvirt describes it. The error says what is wrong with the XML.
pub(super) fn read(xml: &str) -> Result<Snapshot, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let kind = kind(root);
    Ok(Snapshot {
        name: child_text(root, "name").ok_or("a snapshot has no <name>")?.to_owned(),
        description: child_text(root, "description").unwrap_or_default().to_owned(),
        creation_time: child_text(root, "creationTime")
            .and_then(|text| text.parse().ok())
            .ok_or("a snapshot has no <creationTime>")?,
        parent: child(root, "parent").and_then(|parent| child_text(parent, "name")).map(str::to_owned),
        // `disk-snapshot` and `shutoff` hold no memory.
        live: matches!(child_text(root, "state"), Some("running" | "paused")),
        kind,
        files: if kind == SnapshotKind::Internal { Vec::new() } else { files(root) },
    })
}

fn kind(root: Node<'_, '_>) -> SnapshotKind {
    let memory = child(root, "memory").and_then(|memory| memory.attribute("snapshot"));
    let mut disks = child(root, "disks").into_iter().flat_map(|disks| disks.children());
    match memory {
        Some("external") => SnapshotKind::External,
        _ if disks.any(|disk| disk.attribute("snapshot") == Some("external")) => SnapshotKind::Disk,
        _ => SnapshotKind::Internal,
    }
}

/// The memory's file, and those of the domain's disks at the time: they are not written to since. What `<disks>` names are
/// the files that were put on top of them then.
fn files(root: Node<'_, '_>) -> Vec<Utf8PathBuf> {
    let memory = child(root, "memory").and_then(|memory| memory.attribute("file"));
    let domain = child(root, "domain").and_then(|domain| child(domain, "devices"));
    let disks = domain.into_iter().flat_map(|devices| devices.children());
    let disks = disks.filter(|node| node.has_tag_name("disk"));
    let disks = disks.filter(|disk| matches!(disk.attribute("device"), None | Some("disk")));
    let disks = disks.filter_map(|disk| child(disk, "source")?.attribute("file"));
    memory.into_iter().chain(disks).map(Utf8PathBuf::from).collect()
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
            kind: SnapshotKind::Internal,
            files: vec![],
        };
        assert_eq!(read(xml), Ok(snapshot));
    }

    #[test]
    fn the_files_of_an_external_one_are_memory_and_the_disks_of_the_time() {
        let xml = |state: &str, memory: &str| {
            format!(
                "<domainsnapshot><name>a</name><state>{state}</state><creationTime>1</creationTime>{memory}\
                 <disks><disk name='vda' snapshot='external'><source file='/later'/></disk></disks>\
                 <domain><devices><disk device='disk'><source file='/d'/></disk>\
                 <disk device='cdrom'><source file='/cd'/></disk></devices></domain></domainsnapshot>"
            )
        };
        let external = read(&xml("running", "<memory snapshot='external' file='/m'/>")).unwrap();
        assert_eq!((external.kind, external.live), (SnapshotKind::External, true));
        assert_eq!(external.files, ["/m", "/d"]);
        let disk = read(&xml("shutoff", "<memory snapshot='no'/>")).unwrap();
        assert_eq!((disk.kind, disk.live, disk.files), (SnapshotKind::Disk, false, vec!["/d".into()]));
    }

    #[test]
    fn each_kind_is_asked_for() {
        let disks = [("vda", "/m/disk 0"), ("vdb", "/other/b")]
            .map(|(target, file)| DiskTarget { target: target.into(), file: file.into() });
        let take = |kind, runs| {
            let snapshot = NewSnapshot { name: "a/b.1.init".into(), description: "<k>".into(), kind };
            to_take(&snapshot, &disks, runs, "0f")
        };
        assert_eq!(
            take(SnapshotKind::Internal, true),
            "<domainsnapshot><name>a/b.1.init</name><description>&lt;k&gt;</description></domainsnapshot>"
        );
        let external = take(SnapshotKind::External, true);
        for expected in [
            "<memory snapshot='external' file='/m/memory-a_b.1.init-0f.save'/>",
            "<disk name='vda' snapshot='external'><driver type='qcow2'/><source file='/m/vda-a_b.1.init-0f.qcow2'/></disk>",
            "<source file='/m/vdb-a_b.1.init-0f.qcow2'/>",
        ] {
            assert!(external.contains(expected), "{external}");
        }
        let disk = take(SnapshotKind::Disk, false);
        assert!(disk.contains("<memory snapshot='no'/>") && disk.contains("<disk name='vdb'"), "{disk}");
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
            kind: SnapshotKind::Internal,
            files: vec![],
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

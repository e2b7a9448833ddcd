use camino::Utf8PathBuf;
use serde_json::json;

use super::*;
use crate::base::{Checksum, ChecksumAlgorithm};
use crate::farm::yaml::Mistake;

const FOLDERS: Folders<'_> = Folders { tmp_dir: Some("/tmp/vm"), libvirt_pool_dir: Some("/pool") };

fn find(sources: &Value, src: &str) -> Result<Resource, String> {
    let told = |wrong: Mistake| {
        let Mistake { path, message, help, .. } = wrong;
        format!("{}: {message}; {}", self::path(&path), help.unwrap_or_default())
    };
    let sources = Sources::new(sources.as_array().unwrap(), FOLDERS, Utf8Path::new("/farm")).map_err(told)?;
    sources.find(src, || vec!["disks".into(), 0.into()]).map_err(told)
}

fn path(keys: &[Key]) -> String {
    let word = |key: &Key| match key {
        Key::Name(name) => name.clone(),
        Key::Index(index) => index.to_string(),
    };
    keys.iter().map(word).collect::<Vec<_>>().join(".")
}

fn callback(name: &str, keys: Value) -> Value {
    let mut action = keys;
    action["callback"] = json!(format!("callbacks/sources/{name}.yaml"));
    action
}

fn unarchive(member: Option<&str>) -> ResourceStep {
    ResourceStep::Unarchive { member: member.map(str::to_owned) }
}

#[test]
fn both_forms_give_one_pipeline() {
    let older = json!([{
        "uri": "https://example.org/x.qcow2.xz",
        "resource_name": "x.qcow2.xz",
        "checksum_uri": "https://example.org/SHA512SUMS",
        "checksum_type": "sha512",
        "unarchived": "x.qcow2",
    }]);
    let later = json!([{
        "before_provision": [
            callback("fetch", json!({
                "src": "https://example.org/x.qcow2.xz",
                "dest": "/tmp/vm/x.qcow2.xz",
                "checksum": "sha512:https://example.org/SHA512SUMS",
            })),
            callback("unarchive", json!({ "src": "x.qcow2.xz", "dest": "./unpacked" })),
        ],
        "on_provision": { "src": "/tmp/vm/unpacked/x.qcow2", "dest": "/pool/x.qcow2" },
    }]);
    let expected = Resource {
        uri: "https://example.org/x.qcow2.xz".into(),
        checksum: Some(Checksum::File {
            uri: "https://example.org/SHA512SUMS".into(),
            algorithm: Some(ChecksumAlgorithm::Sha512),
        }),
        steps: vec![unarchive(None)],
        setup: None,
    };
    for sources in [older, later] {
        for src in ["x.qcow2", "/pool/x.qcow2", "/elsewhere/x.qcow2"] {
            assert_eq!(find(&sources, src).as_ref(), Ok(&expected), "{src}");
        }
    }
}

#[test]
fn files_of_an_archive_are_found_by_their_paths_in_it() {
    let fetch = callback("fetch", json!({ "src": "https://example.org/a.tar.gz?x=1" }));
    let unpack = callback("unarchive", json!({ "src": "a.tar.gz", "dest": "a" }));
    let convert = callback(
        "img_convert",
        json!({ "src": "a/disk/x.vmdk", "dest": "x.qcow2", "from_format": "vmdk", "to_format": "qcow2" }),
    );
    let sources = json!([
        { "before_provision": [fetch, unpack, convert], "on_provision": [{ "src": "x.qcow2" }, { "src": "a/vmlinuz", "dest": "kernel" }] },
    ]);
    let disk = find(&sources, "x.qcow2").unwrap();
    let convert =
        ResourceStep::ImgConvert { from_format: Some(ImageFormat::Vmdk), to_format: ImageFormat::Qcow2 };
    assert_eq!(disk.steps, [unarchive(Some("disk/x.vmdk")), convert]);
    assert_eq!(find(&sources, "kernel").unwrap().steps, [unarchive(Some("vmlinuz"))]);
    assert_eq!(find(&sources, "a/initrd").unwrap().steps, [unarchive(Some("initrd"))]);

    let older = json!([{ "uri": "https://example.org/a.tgz", "unarchived": "x.raw" }]);
    assert_eq!(find(&older, "x.raw").unwrap().steps, [unarchive(Some("x.raw"))]);
    let only = json!([{ "uri": "https://example.org/a.zip", "resource_name": "x", "unarchived": true }]);
    assert_eq!(find(&only, "x").unwrap().steps, [unarchive(None)]);
}

#[test]
fn what_a_source_provides_hides_what_it_was_made_from() {
    let sources = json!([{
        "before_provision": [
            callback("fetch", json!({ "src": "https://example.org/x.qcow2" })),
            callback("copy", json!({ "src": "x.qcow2", "dest": "y.qcow2" })),
            callback("setup_image", json!({ "src": "y.qcow2", "root_password": "secret", "hostname": "h", "ssh_key": "keys/id.pub" })),
        ],
        "on_provision": { "callback": "install_to_libvirt", "src": "y.qcow2", "dest": "x.qcow2" },
    }]);
    let resource = find(&sources, "x.qcow2").unwrap();
    let setup = resource.setup.as_ref().unwrap();
    assert_eq!(setup.root_password.as_ref().unwrap().reveal(), "secret");
    assert_eq!(setup.ssh_key, Some(PublicKey::File(Utf8PathBuf::from("/farm/keys/id.pub"))));
    let shown = format!("{resource:?}{}", serde_json::to_string(&resource).unwrap());
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn files_of_this_host_may_be_written_as_uris() {
    for (uri, expected) in [
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file://elsewhere/a", "file://elsewhere/a"),
        ("a b%20c", "/farm/a b%20c"),
        ("https://example.org/a%20b", "https://example.org/a%20b"),
    ] {
        let found = find(&json!([{ "uri": uri, "resource_name": "x" }]), "x");
        assert_eq!(found.unwrap().uri, expected);
    }
}

#[test]
fn mistakes_are_told_with_their_places() {
    let fetch = || callback("fetch", json!({ "src": "https://example.org/x" }));
    let one = |action: Value| json!([{ "before_provision": [fetch(), action] }]);
    let at = "metadata.sources.0.before_provision.1";
    for (sources, place, why) in [
        (one(callback("fetsh", json!({}))), format!("{at}.callback"), "did you mean `fetch`?"),
        (
            one(json!({ "callback": "my/own.yaml" })),
            format!("{at}.callback"),
            "here: fetch, unarchive, copy, img_convert, setup_image",
        ),
        (
            one(json!({ "callback": "my/fetch.yaml" })),
            format!("{at}.callback"),
            "no callback `my/fetch.yaml`",
        ),
        (one(json!({ "src": "x" })), at.to_owned(), "no callback is named"),
        (one(callback("copy", json!({ "src": "y", "dest": "z" }))), format!("{at}.src"), "gives a file `y`"),
        (one(callback("copy", json!({ "src": "x" }))), at.to_owned(), "`dest` is missing"),
        (
            one(callback("copy", json!({ "src": "x", "dest": "y", "mode": 1 }))),
            format!("{at}.mode"),
            "unknown key `mode`",
        ),
        (
            one(callback("img_convert", json!({ "src": "x", "dest": "y", "to_format": "vmdk" }))),
            format!("{at}.to_format"),
            "made from qcow2 or raw",
        ),
        (
            one(callback("img_convert", json!({ "src": "x", "dest": "y", "to_format": "qcow3" }))),
            format!("{at}.to_format"),
            "unknown value `qcow3`",
        ),
        (
            one(callback("setup_image", json!({ "src": "x", "hostname": "a b" }))),
            format!("{at}.hostname"),
            "is no hostname",
        ),
        (
            one(callback("setup_image", json!({ "src": "x", "password": "p" }))),
            format!("{at}.password"),
            "nobody's password",
        ),
        (
            json!([{ "before_provision": [fetch()], "on_provision": { "callback": "install", "src": "x" } }]),
            "metadata.sources.0.on_provision.callback".into(),
            "install_to_libvirt",
        ),
        (
            json!([{ "before_provision": [fetch()], "on_provision": [{ "src": "y" }] }]),
            "metadata.sources.0.on_provision.0.src".into(),
            "gives a file `y`",
        ),
        (
            json!([{ "uri": "https://example.org/x", "checksum_type": "sha3" }]),
            "metadata.sources.0.checksum_type".into(),
            "expected md5, sha1, sha256 or sha512",
        ),
        (
            json!([{ "uri": "https://example.org/x", "checksum_type": "sha1", "checksum_value": "0".repeat(64) }]),
            "metadata.sources.0.checksum_value".into(),
            "no sha1 checksum: expected 40",
        ),
        (
            json!([{ "uri": "https://example.org/x", "checksum_type": "sha1" }]),
            "metadata.sources.0.checksum_type".into(),
            "without a checksum",
        ),
        (
            json!([{ "uri": "https://example.org/x", "unarchived": 3 }]),
            "metadata.sources.0.unarchived".into(),
            "true, false",
        ),
        (json!([{ "resource_name": "x" }]), "metadata.sources.0".into(), "`uri` is missing"),
        (
            json!([{ "uri": "https://example.org/y" }]),
            "disks.0".into(),
            "neither a resource of vm.metadata.sources (`y`) nor a file (/farm/x)",
        ),
    ] {
        let message = find(&sources, "x").unwrap_err();
        assert!(
            message.starts_with(&format!("{place}: ")) && message.contains(why),
            "{place}, {why}: {message}"
        );
    }
}

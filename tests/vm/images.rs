//! From a URL to a machine that answers: an image with cloud-init, packed, from a server that breaks off.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
};

use serde_json::Value;

use crate::farm::Farm;

/// Serves one file. The first answer breaks off half way; the rest is to be had by asking for it.
fn serve(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
            let start: usize = range.map_or(0, |start| start.parse().unwrap());
            let (total, last) = (content.len(), content.len() - 1);
            let status = match range {
                Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}"),
                None => "200 OK".to_owned(),
            };
            let length = total - start;
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"image\"\r\nContent-Length: {length}\r\n\r\n"
            );
            let end = if number == 0 { total / 2 } else { total };
            let _ = stream.write_all(&content[start..end]);
        }
    });
    format!("http://{address}/Debian-cloud.qcow2.gz")
}

fn packed(image: &Path) -> Vec<u8> {
    let output = Command::new("gzip").args(["--stdout", "--fast"]).arg(image).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn cloud_image_from_a_url_to_a_verified_session() {
    let farm = Farm::example();
    let machine = farm.machine("debian_vs");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/testbed/Debian-cloud.qcow2");
    let uri = serve(packed(&image));
    let platform = "farm/setup_vm/platforms/debian_vs.yaml";
    farm.edit(platform, |_| {
        format!(
            "vm:\n  metadata:\n    hostname: cloudy\n    cloud_init: true\n    auth: {{ user: tester, password: s3cret-word }}\n    \
             sources:\n      - {{ uri: \"{uri}\", unarchived: Debian-cloud.qcow2 }}\n      \
             - {{ uri: \"{{{{ images }}}}/vmlinuz\" }}\n      - {{ uri: \"{{{{ images }}}}/initrd.img\" }}\n  \
             disks:\n    - {{ src: Debian-cloud.qcow2, size: 3G }}\n"
        )
    });
    farm.edit("farm/farm.yaml", |text| text + "connection_timeout: 600\n");
    let first = farm.up(&[&machine]);
    first.passed();

    // The key that was pinned before the machine was made is the one that it has.
    let reached: Value = serde_json::from_str(&farm.prints(&["ssh-config", &machine, "--json"])).unwrap();
    let host_key = reached[0]["host_key"].as_str().unwrap();
    let in_guest = farm.in_guest("debian_vs", "sudo cat /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(in_guest.starts_with(host_key), "{in_guest}: {host_key}");
    assert_eq!(
        farm.in_guest("debian_vs", "hostname; id -un; sudo -n id -un; cloud-init status"),
        "cloudy\ntester\nroot\nstatus: done\n"
    );
    let size = farm.in_guest("debian_vs", "lsblk --bytes --nodeps --noheadings --output SIZE /dev/vda");
    assert_eq!(size.trim(), (3u64 << 30).to_string());

    // What it was told holds secrets, and only its reader and its owner can see it. Passwords are hashed.
    let seed = farm.path(&format!("home/data/machines/{machine}/seed.iso"));
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o077, 0);
    let seed = String::from_utf8_lossy(&fs::read(&seed).unwrap()).into_owned();
    assert!(seed.contains("$6$") && !seed.contains("s3cret-word"));

    // The image has no checksum, so it was pinned; what a machine stands on is not pruned.
    assert!(fs::read_to_string(farm.path("farm/farmhand.lock")).unwrap().contains(&uri));
    let pruned: Value = serde_json::from_str(&farm.prints(&["image", "prune", "--json"])).unwrap();
    let from: Vec<_> =
        pruned.as_array().unwrap().iter().map(|image| image["from"][0].as_str().unwrap()).collect();
    assert_eq!(from, [uri.as_str()], "the packed file alone");

    // Files go to it and come back.
    fs::write(farm.path("there"), "content").unwrap();
    let (there, back) = (farm.path("there"), farm.path("back"));
    farm.prints(&["copy", there.to_str().unwrap(), &format!("{machine}:file")]);
    farm.prints(&["copy", &format!("{machine}:file"), back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back).unwrap(), "content");

    // The same machine through its guest agent alone.
    farm.edit(platform, |text| {
        text.replace("    cloud_init: true\n", "    cloud_init: true\n    transport: agent\n")
    });
    let second = farm.up(&[&machine]);
    second.passed();
    assert_eq!(second.operations(&machine), ["restore init", "main", "terminate", "shutdown"]);

    // What it is told at its first boot is part of what it is.
    farm.edit(platform, |text| {
        text.replace("cloud_init: true", "cloud_init: { user_data: { packages: [curl] } }")
    });
    let plan = farm.prints(&["plan", &machine]);
    assert!(plan.contains("what it is told at its first boot changed"), "{plan}");
    farm.prints(&["destroy", &machine]);
    assert_eq!(farm.traces(), Vec::<String>::new());
}

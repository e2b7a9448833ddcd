//! Tries to reach, from `/srv`, which it was granted, what lies elsewhere; and to put artifacts elsewhere.

use hostile::*;

const PATHS: [&str; 9] = [
    "/etc/shadow",
    "/srv/../etc/shadow",
    "/srv/./../etc/shadow",
    "/srv//../etc/shadow",
    "/srv/x/../../etc/shadow",
    "srv/x",
    "/srv/x\0/../../etc/shadow",
    "//etc/shadow",
    "/srvx",
];

const NAMES: [&str; 6] = ["../escaped", "/tmp/escaped", "a/b", "..", ".hidden", "a\0b"];

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let mut through: Vec<String> = Vec::new();
        for path in PATHS {
            if guest.read_file(path, 1 << 20, false).is_ok() {
                through.push(format!("read {path:?}"));
            }
            if guest.write_file(path, &[Content::Bytes(b"x".to_vec())], 0o644, false).is_ok() {
                through.push(format!("wrote {path:?}"));
            }
            if guest.open_file(path, false).is_ok() {
                through.push(format!("opened {path:?}"));
            }
            if guest.create_file(path, 0o644, false).is_ok_and(|file| FileWriter::finish(file).is_ok()) {
                through.push(format!("created {path:?}"));
            }
            if guest.save_file("name", path, false).is_ok() {
                through.push(format!("kept {path:?}"));
            }
        }
        for name in NAMES {
            if guest.save_artifact(name, b"x").is_ok() {
                through.push(format!("kept as {name:?}"));
            }
        }
        done(format!("got through: {through:?}"))
    }
}

bad!(Module);

//! Asks for a path that terminals act on: what it asks for would be shown as something else.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        let reason = "to see\x1b[1A\x1b[2K".to_owned();
        let values = vec!["/x\x1b[1A\x1b[2K\rfiles /etc/motd".to_owned()];
        Descriptor {
            summary: "Reads\x1b[2J a file\nor two".to_owned(),
            authors: vec!["\x1b]0;me\x07".to_owned()],
            license: "\u{9b}2JMIT".to_owned(),
            capabilities: vec![CapabilityRequest { capability: Capability::Files, values, reason }],
            ..descriptor("bad")
        }
    }

    fn run(_: Context, _: &Guest) -> Result<Outcome, Failure> {
        done("")
    }
}

bad!(Module);

//! Says that it is the package module, which has been granted root.

use hostile::*;

struct Module;

impl Bad for Module {
    fn describe() -> Descriptor {
        let request =
            |capability| CapabilityRequest { capability, values: Vec::new(), reason: "as ever".to_owned() };
        Descriptor {
            provides: vec!["package".to_owned()],
            capabilities: vec![request(Capability::Exec), request(Capability::Become)],
            ..descriptor("debian-apt")
        }
    }

    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        guest.exec(&Command { become_: true, ..command(["id"]) }).map_err(fail)?;
        done("it was believed")
    }
}

bad!(Module);

//! Built against the contract as it was released in version 0.1.0. Makes the call that its settings name.

wit_bindgen::generate!({
    world: "phase-module",
    path: "../../../wit/released/0.1.0",
    generate_unused_types: true,
});

use farmhand::phase::{guest, types};

include!("../src/denied.rs");

struct Module;

impl Guest for Module {
    fn describe() -> Descriptor {
        Descriptor {
            name: "released".to_owned(),
            version: "0.1.0".to_owned(),
            summary: "Makes one call".to_owned(),
            authors: Vec::new(),
            license: String::new(),
            provides: Vec::new(),
            platforms: Vec::new(),
            phases: Vec::new(),
            capabilities: Vec::new(),
            settings_schema: "{}".to_owned(),
        }
    }

    fn run(context: Context, guest: &guest::Guest_) -> Result<Outcome, Failure> {
        let settings: serde_json::Value = serde_json::from_str(&context.settings)
            .map_err(|error| Failure::InvalidSettings(error.to_string()))?;
        let name = settings["call"].as_str().unwrap_or_default();
        match call(name, guest) {
            Err(error @ types::GuestError::Denied(_)) => Err(Failure::Guest(error)),
            Err(error) => Ok(Outcome { changed: false, summary: format!("{error:?}") }),
            Ok(()) => Ok(Outcome { changed: false, summary: "ok".to_owned() }),
        }
    }
}

export!(Module);

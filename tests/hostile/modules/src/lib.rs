//! What the bad modules share: the contract, and as little as can be on top of it. They are not written with the SDK, which
//! would keep them from the worst.

/// What wit-bindgen makes of the contract.
#[allow(clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "phase-module",
        path: "../../../wit",
        generate_unused_types: true,
        pub_export_macro: true,
        default_bindings_module: "hostile::bindings",
        export_macro_name: "export_phase_module",
    });
}

pub use bindings::{
    Context, Descriptor, Failure, Outcome,
    farmhand::phase::{
        guest::{
            Command, Content, Event, Exit, FileReader, FileWriter, Guest_ as Guest, Output, Process, Variable,
        },
        log::{self, Level},
        types::{Capability, CapabilityRequest, GuestError, Phase},
    },
};

/// A bad module.
pub trait Bad {
    /// What it says of itself.
    fn describe() -> Descriptor {
        descriptor("bad")
    }

    /// What it does.
    fn run(context: Context, guest: &Guest) -> Result<Outcome, Failure>;
}

/// Makes a type the module of its file.
#[macro_export]
macro_rules! bad {
    ($module:ty) => {
        struct Exported;

        impl $crate::bindings::Guest for Exported {
            fn describe() -> $crate::Descriptor {
                <$module as $crate::Bad>::describe()
            }

            fn run(
                context: $crate::Context,
                guest: &$crate::Guest,
            ) -> Result<$crate::Outcome, $crate::Failure> {
                <$module as $crate::Bad>::run(context, guest)
            }
        }

        $crate::bindings::export_phase_module!(Exported with_types_in $crate::bindings);
    };
}

/// A module that asks for nothing and takes any settings.
pub fn descriptor(name: &str) -> Descriptor {
    Descriptor {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        summary: "Misbehaves".to_owned(),
        authors: Vec::new(),
        license: String::new(),
        provides: Vec::new(),
        platforms: Vec::new(),
        phases: Vec::new(),
        capabilities: Vec::new(),
        settings_schema: "{}".to_owned(),
    }
}

/// An end that looks harmless.
pub fn done(summary: impl Into<String>) -> Result<Outcome, Failure> {
    Ok(Outcome { changed: false, summary: summary.into() })
}

/// A command without anything special.
pub fn command(argv: impl IntoIterator<Item = impl Into<String>>) -> Command {
    Command {
        argv: argv.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        cwd: None,
        stdin: Vec::new(),
        become_: false,
        timeout: None,
        log_output: false,
        read_only: false,
    }
}

/// A call's error, as it is, for the end of the module.
pub fn fail(error: GuestError) -> Failure {
    Failure::Guest(error)
}

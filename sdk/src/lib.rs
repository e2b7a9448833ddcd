//! Write phase modules for farmhand in Rust.
//!
//! A phase module is a WebAssembly component that farmhand runs to carry out a phase (install dependencies, prepare the
//! project, ...) on a virtual machine. It sees nothing but its settings and the guest that it is lent, so that the same
//! module with the same settings does the same to the same guest.
//!
//! ```
//! use farmhand_sdk::prelude::*;
//!
//! /// Makes sure that a user exists.
//! struct EnsureUser;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     /// The user's login name.
//!     name: String,
//! }
//!
//! impl PhaseModule for EnsureUser {
//!     type Settings = Settings;
//!
//!     fn describe() -> Descriptor {
//!         descriptor!("Makes sure that a user exists")
//!             .asks_for(Capability::Exec, "runs id and useradd")
//!             .asks_for(Capability::Become, "useradd needs root")
//!     }
//!
//!     fn run(_context: &Context, settings: Settings, guest: &Guest) -> Result<Outcome, Failure> {
//!         if guest.check(["id", "-u", &settings.name])? {
//!             return Ok(Outcome::unchanged(format!("{} exists", settings.name)));
//!         }
//!         guest.run(["useradd", "--create-home", &settings.name])?;
//!         Ok(Outcome::changed(format!("added {}", settings.name)))
//!     }
//! }
//!
//! farmhand_sdk::phase_module!(EnsureUser);
//!
//! // No VM and no WebAssembly is needed to test it:
//! use farmhand_sdk::testing::{Script, context};
//! let guest = Script::new();
//! guest.expect(["id", "-u", "ci"]).as_root().exits(1);
//! guest.expect(["useradd", "--create-home", "ci"]).as_root();
//! let outcome = guest.run_module::<EnsureUser>(&context().as_root(), serde_json::json!({ "name": "ci" })).unwrap();
//! assert!(outcome.changed);
//! ```
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown`; `farmhand module build` does that and turns the result into a
//! component.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[doc(hidden)]
pub mod bindings;
mod content;
mod context;
mod descriptor;
#[doc(hidden)]
pub mod export;
mod file;
mod guest;
pub mod log;
mod outcome;
pub mod packages;
pub mod testing;

pub use content::{Content, Secret, TextOrSecret};
pub use context::Context;
pub use descriptor::{Descriptor, PhaseModule};
pub use file::{FileReader, FileWriter, Pieces, Writing};
pub use guest::{Backend, Command, CommandBuilder, CommandOutput, Event, Events, Guest, Process, Running};
pub use outcome::Outcome;

pub use bindings::farmhand::phase::{
    guest::{Exit, Facts, Variable},
    types::{Capability, Denial, Failure, GuestError, Phase},
};

pub use schemars;
pub use serde;
pub use serde_json;

/// What nearly every module needs.
pub mod prelude {
    pub use crate::{
        Capability, Context, Descriptor, Failure, Guest, GuestError, Outcome, Phase, PhaseModule, Secret,
        descriptor,
    };
    pub use schemars::JsonSchema;
    pub use serde::Deserialize;
}

/// Makes a type that implements [`PhaseModule`] the module of this crate. Once in a crate.
#[macro_export]
macro_rules! phase_module {
    ($module:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::bindings::Guest for Exported {
                fn describe() -> $crate::bindings::Descriptor {
                    $crate::export::describe::<$module>()
                }

                fn run(
                    context: $crate::bindings::Context,
                    guest: &$crate::bindings::farmhand::phase::guest::Guest_,
                ) -> ::core::result::Result<$crate::bindings::Outcome, $crate::bindings::Failure> {
                    $crate::export::run::<$module>(context, guest)
                }
            }

    $crate::bindings::export_phase_module!(Exported with_types_in $crate::bindings);
        };
    };
}

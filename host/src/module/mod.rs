//! Phase modules: strangers' code, run with nothing but what it was granted. Only this room knows wasmtime.
//!
//! An [`Engine`] compiles and runs; a [`Library`] finds; a [`Module`] is one that was found, checked, and asked what it is.
//! What a module may do is decided in one place for each capability, in `capability/`; what it may use up stands in
//! [`Limits`].
//!
//! A module is checked in this order, each check cheaper than the next, and nothing of the guest is touched before the last
//! one: size, validity (by wasmparser, because wasmtime's own decoder can be made to take minutes), imports (only the ones of
//! `wit/`), exports, its descriptor, then at each call grants and settings.

mod admit;
mod bindings;
mod build;
mod cache;
mod call;
mod capability;
mod descriptor;
mod engine;
mod error;
mod grants;
mod library;
mod limits;
mod loaded;
mod schema;
mod state;
mod steps;
mod text;
mod ticker;

pub use build::{BuildError, build};
pub use call::{Call, Context, Level, ModuleLog, Outcome};
pub use descriptor::{CapabilityRequest, Descriptor};
pub use engine::Engine;
pub use error::{Blame, Failure, LimitHit, ModuleError};
pub use grants::{Capability, NotGranted};
pub use library::{Broken, Library, ResolveError, default_folders};
pub use limits::Limits;
pub use loaded::Module;
pub use schema::SettingsProblem;
pub use steps::{ModuleIdentity, PhaseModule, ResolvedStep, ResolvedSteps};

#[cfg(test)]
mod tests;

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
mod check;
mod compile;
mod descriptor;
mod engine;
mod error;
mod grants;
mod known;
mod library;
mod limits;
mod loaded;
mod notes;
mod pin;
mod play;
mod probes;
mod schema;
mod secrets;
mod state;
mod steps;
mod text;
mod ticker;
mod transcript;
mod wasi;

pub use build::{BuildError, build, test};
pub use call::{Call, Context, Level, ModuleLog, Outcome, Rehearsal};
pub use check::{Check, CheckedAnswer, CheckedCall, CheckedCalls};
pub use compile::compile_as_child;
pub use descriptor::{CapabilityRequest, Descriptor};
pub use engine::Engine;
pub use error::{Blame, Failure, LimitHit, ModuleError};
pub use grants::{Capability, Denial, NotGranted};
pub use known::KnownAs;
pub use library::{Broken, Library, ResolveError, default_folders};
pub use limits::Limits;
pub use loaded::Module;
pub use pin::{PinMismatch, pin};
pub use play::play;
pub use probes::Probes;
pub use schema::SettingsProblem;
pub use secrets::Secrets;
pub use steps::{ModuleIdentity, PhaseModule, ResolvedStep, ResolvedSteps, UsedModule};
pub use transcript::{
    Answer, Answers, Bytes, CallError, CommandCall, Content, Ended, GuestCall, RecordedCall, RecordedContext,
    Recording, Replay, Transcript, in_words,
};

#[cfg(test)]
mod tests;

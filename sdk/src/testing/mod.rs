//! Guests for tests: one that follows a script, and one that plays back what was recorded on a real machine. A module's logic
//! so is tested by `cargo test` on the development machine, without a VM and without WebAssembly.

mod recording;
mod script;
mod streamed;

pub use recording::Recording;
pub use script::{Answer, Script};

use crate::{Context, Phase};

/// A context for tests: phase `dependencies` of machine `machine`, platform `debian_vs` on target `amd64`, as login user.
pub fn context() -> Context {
    Context {
        phase: Phase::Dependencies,
        platform: "debian_vs".to_owned(),
        target: "amd64".to_owned(),
        machine: "machine".to_owned(),
        r#become: false,
    }
}

impl Context {
    /// The same with `become: true`.
    #[must_use]
    pub fn as_root(self) -> Self {
        Self { r#become: true, ..self }
    }
}

use crate::Phase;

/// For what and with what a module is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The phase that is being carried out.
    pub phase: Phase,
    /// The platform's name in the farm, e.g. `debian_vs`.
    pub platform: String,
    /// The target's name in the farm, e.g. `amd64`.
    pub target: String,
    /// The machine's name.
    pub machine: String,
    /// Whether the step asks for root in the guest (`become: true`). Commands and files follow it on their own.
    pub r#become: bool,
}

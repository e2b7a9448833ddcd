/// What a module did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the guest's state was changed. An idempotent module's second run says `false`.
    pub changed: bool,
    /// One line for the operator, e.g. `installed curl 7.88.1`.
    pub summary: String,
}

impl Outcome {
    /// Something was changed.
    pub fn changed(summary: impl Into<String>) -> Self {
        Self { changed: true, summary: summary.into() }
    }

    /// All was as it should be.
    pub fn unchanged(summary: impl Into<String>) -> Self {
        Self { changed: false, summary: summary.into() }
    }
}

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{Capability, Context, Failure, Guest, Outcome, Phase};

/// A phase module. [`phase_module!`](crate::phase_module) makes it the one of its crate.
pub trait PhaseModule {
    /// The step's settings (`with:`). farmhand checks them against their schema before it calls the module; doc comments
    /// on the fields become the schema's descriptions. Use `#[serde(deny_unknown_fields)]`, so that a mistyped setting is
    /// found.
    type Settings: DeserializeOwned + JsonSchema;

    /// Says what the module is. Called with nothing granted.
    fn describe() -> Descriptor;

    /// Carries out a phase on a guest. Should do nothing, and say so, when there is nothing to do.
    fn run(context: &Context, settings: Self::Settings, guest: &Guest<'_>) -> Result<Outcome, Failure>;
}

/// What a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) summary: String,
    pub(crate) authors: Vec<String>,
    pub(crate) license: String,
    pub(crate) provides: Vec<String>,
    pub(crate) platforms: Vec<String>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) capabilities: Vec<(Capability, Vec<String>, String)>,
}

impl Descriptor {
    /// A module for any platform and any phase that asks for nothing. `name` is lower-case letters, digits and `-`;
    /// `version` a semantic version; `summary` one line.
    pub fn new(name: impl Into<String>, version: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            summary: summary.into(),
            authors: Vec::new(),
            license: String::new(),
            provides: Vec::new(),
            platforms: Vec::new(),
            phases: Vec::new(),
            capabilities: Vec::new(),
        }
    }

    /// What the crate says of itself in its Cargo.toml: see [`descriptor!`](crate::descriptor).
    #[doc(hidden)]
    pub fn of_crate(name: &str, version: &str, summary: &str, authors: &str, license: &str) -> Self {
        let authors = authors.split(':').filter(|author| !author.is_empty()).map(str::to_owned).collect();
        Self { authors, license: license.to_owned(), ..Self::new(name, version, summary) }
    }

    /// Adds an author, e.g. `Ada Lovelace <ada@example.org>`.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.authors.push(author.into());
        self
    }

    /// Says the licence, as an SPDX expression.
    #[must_use]
    pub fn license(mut self, license: impl Into<String>) -> Self {
        self.license = license.into();
        self
    }

    /// Adds a name under which steps can use it (`uses: package`), beside its own.
    #[must_use]
    pub fn provides(mut self, name: impl Into<String>) -> Self {
        self.provides.push(name.into());
        self
    }

    /// Claims platforms: exact names or globs (`debian*`), matched with the platform's name in the farm. (`ID` and `ID_LIKE` of
    /// the guest's os-release(5) come after that where they are known. They are not yet when farmhand chooses a module: it has
    /// seen no guest then.)
    #[must_use]
    pub fn platforms(mut self, globs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.platforms.extend(globs.into_iter().map(Into::into));
        self
    }

    /// Restricts it to some phases.
    #[must_use]
    pub fn phases(mut self, phases: impl IntoIterator<Item = Phase>) -> Self {
        self.phases.extend(phases);
        self
    }

    /// Asks for a capability without which it can't work. The reason is one sentence, shown to the operator.
    ///
    /// For files and secrets, that leaves open which ones: they follow from the settings (a path is recognized by
    /// `#[schemars(extend("format" = "guest-path"))]` on its setting, a secret by its type).
    #[must_use]
    pub fn asks_for(mut self, capability: Capability, reason: impl Into<String>) -> Self {
        self.capabilities.push((capability, Vec::new(), reason.into()));
        self
    }

    /// Asks for files: those whose absolute paths match one of these globs (`*` stays within a folder, `**` goes through
    /// folders).
    #[must_use]
    pub fn asks_for_files(
        mut self,
        globs: impl IntoIterator<Item = impl Into<String>>,
        reason: impl Into<String>,
    ) -> Self {
        let globs = globs.into_iter().map(Into::into).collect();
        self.capabilities.push((Capability::Files, globs, reason.into()));
        self
    }
}

/// A [`Descriptor`] with name, version, authors and licence as they stand in the crate's Cargo.toml:
/// `descriptor!("what it does, in one line")`.
#[macro_export]
macro_rules! descriptor {
    ($summary:expr) => {
        $crate::Descriptor::of_crate(
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            $summary,
            env!("CARGO_PKG_AUTHORS"),
            env!("CARGO_PKG_LICENSE"),
        )
    };
}

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a machine's life that phase modules carry out, in the order in which the phases run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Brings the system up to date and installs what the project needs. Kept as a checkpoint.
    Dependencies,
    /// Prepares the project. Kept as a checkpoint.
    Init,
    /// The work itself, on every run.
    Main,
    /// Ends what was begun: always runs, also after a phase before it failed.
    Terminate,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 4] = [Self::Dependencies, Self::Init, Self::Main, Self::Terminate];

    /// The phase's name, as it stands in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dependencies => "dependencies",
            Self::Init => "init",
            Self::Main => "main",
            Self::Terminate => "terminate",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A state of a machine that farmhand keeps as a libvirt snapshot. Each one stands on the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoint {
    /// The freshly installed system, after its first boot.
    Clean,
    /// After the phase `dependencies`.
    Dependencies,
    /// After the phase `init`.
    Init,
}

impl Checkpoint {
    /// All checkpoints, from the shallowest to the deepest.
    pub const ALL: [Self; 3] = [Self::Clean, Self::Dependencies, Self::Init];

    /// The checkpoint's short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Dependencies => "dependencies",
            Self::Init => "init",
        }
    }

    /// The phase whose result it keeps, if any.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Clean => None,
            Self::Dependencies => Some(Phase::Dependencies),
            Self::Init => Some(Phase::Init),
        }
    }

    /// The name of its libvirt snapshot. `clean` belongs to the machine and is shared by all projects; the others belong to
    /// one revision of one project.
    pub fn snapshot_name(self, project_id: &str, revision: &str) -> String {
        match self {
            Self::Clean => self.name().to_owned(),
            Self::Dependencies | Self::Init => format!("{project_id}.{revision}.{}", self.name()),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

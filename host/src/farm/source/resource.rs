use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::base::{Checksum, Secret};

/// A file that a machine is made from: where it comes from, and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Where it comes from: `http(s)://`, or an absolute path.
    pub uri: String,
    /// What that must be. Without one it is pinned when it is first used.
    pub checksum: Option<Checksum>,
    /// What is done to it, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ResourceStep>,
    /// What is written into the machine's disk that is made from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<ImageSetup>,
}

impl Resource {
    /// A file that is used as it is.
    pub(super) fn new(uri: String, checksum: Option<Checksum>) -> Self {
        Self { uri, checksum, steps: Vec::new(), setup: None }
    }

    pub(super) fn then(mut self, step: ResourceStep) -> Self {
        self.steps.push(step);
        self
    }
}

/// Something that is done to a file, giving another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceStep {
    /// It is unpacked: what it is compressed with (gzip, bzip2, xz, zstd) is told from its content, and so is whether it is an
    /// archive (tar, ZIP).
    Unarchive {
        /// The file of an archive that counts, by its path in it. The only file that there is, if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        member: Option<String>,
    },
    /// It is converted to another format of disk images.
    ImgConvert {
        /// The format that it has; told from its content if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        from_format: Option<ImageFormat>,
        /// The format that it gets: qcow2 or raw.
        to_format: ImageFormat,
    },
}

/// A format of disk images, as `qemu-img` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes and nothing else.
    Raw,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's.
    Vhdx,
    /// Virtual PC's and the older Hyper-V's (VHD).
    Vpc,
}

impl ImageFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
        }
    }

    /// Whether a machine's disk can be made from it as it is.
    pub fn can_be_base(self) -> bool {
        matches!(self, Self::Qcow2 | Self::Raw)
    }
}

/// What `setup_image` writes into a machine's own disk before its first boot. Nothing of it gets into the image that the
/// disk is made from, which other machines share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageSetup {
    /// root's password.
    #[serde(skip)]
    pub root_password: Option<Secret>,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// A user that is made if it is not there.
    pub user: Option<String>,
    /// That user's password.
    #[serde(skip)]
    pub password: Option<Secret>,
    /// A public key that may log in as that user, or as root if there is none.
    pub ssh_key: Option<PublicKey>,
}

/// A public SSH key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicKey {
    /// The key in OpenSSH's one-line form.
    Line(String),
    /// The file that holds it.
    File(Utf8PathBuf),
}

//! Words that every room uses: names, phases, digests, folders.

mod checksum;
mod count;
mod digest;
mod dirs;
mod grants;
mod login;
mod phase;
mod problem;
mod snapshot;
mod text;
mod time;
mod xml;

pub use checksum::{Checksum, ChecksumAlgorithm, ChecksumError, ChecksumValue};
pub use count::counted;
pub use digest::{Digest, DigestError};
pub use dirs::{Dirs, DirsError};
pub use grants::{Grants, PathGlob, PathGlobError};
pub use login::{Become, BecomeMethod, Credential, Login, Secret, is_password_key};
pub use phase::{Checkpoint, Phase};
pub use problem::{Problem, Problems, SourceFile};
pub use snapshot::SnapshotKind;
pub use text::{MAX_LINE, plain, plain_lines};
pub use time::{in_words, parse_duration};
pub use xml::xml_escape;

//! In which state a machine is, as far as that can be told: so that what its guest answers is known again when it is back
//! there.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    base::Checkpoint,
    module::Probes,
    plan::{Operation, Wanted},
};

/// The file with what a machine's guest answered.
pub(super) fn probes_file(folder: &Utf8Path, machine: &str) -> Utf8PathBuf {
    folder.join(format!("{machine}.json"))
}

/// Follows an operation that was carried out. (What a phase does, its calls say one by one.)
pub(super) fn follow(probes: &Probes, operation: Operation, wanted: &Wanted) {
    let checkpoint = match operation {
        // What is installed is what `clean` is made of.
        Operation::Install => Checkpoint::Clean,
        Operation::Restore { checkpoint } | Operation::Create { checkpoint } => checkpoint,
        Operation::Startup | Operation::Discard { .. } | Operation::Phase { .. } | Operation::Shutdown => {
            return;
        }
    };
    probes.reached(wanted.record(checkpoint).key);
}

/// Reads what is known, off the async threads.
pub(super) async fn open(path: Option<Utf8PathBuf>) -> Probes {
    let Some(path) = path else { return Probes::default() };
    tokio::task::spawn_blocking(move || Probes::open(&path)).await.unwrap_or_default()
}

/// Writes what is known, off the async threads.
pub(super) async fn save(probes: Arc<Probes>, path: Utf8PathBuf) -> std::io::Result<()> {
    let save = move || probes.save(&path);
    tokio::task::spawn_blocking(save).await.map_err(std::io::Error::other)?
}

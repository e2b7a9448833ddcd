use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
};

use camino::{Utf8Path, Utf8PathBuf};

use super::{EVENTS, Outline, Record, RecordError, RecordedEvents};
use crate::run::RunId;

/// How many runs an error names.
const NAMED: usize = 3;

/// The records of all runs on this host: a folder a run.
#[derive(Debug, Clone)]
pub struct Records {
    folder: Utf8PathBuf,
}

impl Records {
    /// Those in this folder, which need not exist.
    pub fn new(folder: Utf8PathBuf) -> Self {
        Self { folder }
    }

    /// Begins the record of a run, and removes old ones of the same project, so that there are at most `keep` with the new
    /// one. Runs that go on are never removed. An old record that can't be removed is no error, but the second result.
    ///
    /// The files are only for their owner: what commands in guests wrote is in them.
    pub fn begin(
        &self,
        run: &RunId,
        project: &str,
        keep: NonZeroUsize,
    ) -> Result<(Record, Option<RecordError>), RecordError> {
        let make = |folder: &Utf8Path, existing| {
            let made = DirBuilder::new().mode(0o700).recursive(existing).create(folder);
            made.map_err(RecordError::write(folder))
        };
        make(&self.folder, true)?;
        // A run is seen to go on only when its file is locked: nobody removes records between its making and its locking.
        let turn = self.folder.join(".lock");
        let _turn = create(&turn, OpenOptions::new().create(true).truncate(false))
            .and_then(|file| file.lock().map(|()| file))
            .map_err(RecordError::write(&turn))?;
        let folder = self.folder.join(run.as_str());
        make(&folder, false)?;
        let path = folder.join(EVENTS);
        let events = create(&path, OpenOptions::new().create_new(true)).map_err(RecordError::write(&path))?;
        // Who looks whether it is locked holds it for a moment.
        events.lock().map_err(RecordError::write(&path))?;
        let removed = self.remove_old(run, project, keep);
        Ok((Record::new(folder, events), removed.err()))
    }

    fn remove_old(&self, new: &RunId, project: &str, keep: NonZeroUsize) -> Result<(), RecordError> {
        let mut kept = 1;
        for run in self.folders()?.into_iter().filter(|run| run != new) {
            let folder = self.folder.join(run.as_str());
            if is_locked(&folder.join(EVENTS)) {
                continue;
            }
            match RecordedEvents::open(&folder.join(EVENTS)) {
                Ok(events) if events.head().project != project => continue,
                Ok(_) if kept < keep.get() => {
                    kept += 1;
                    continue;
                }
                Ok(_) => {}
                // It was killed before its first event, or while it was removed.
                Err(RecordError::NoRecord { source: None, .. }) => {}
                Err(RecordError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                // Of another version of farmhand, or damaged: not ours to judge.
                Err(_) => continue,
            }
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RecordError::Remove { path: folder, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The runs that have a record, the newest first.
    pub fn runs(&self) -> Result<Vec<RunId>, RecordError> {
        let mut runs = self.folders()?;
        runs.retain(|run| std::fs::metadata(self.events_of(run)).is_ok_and(|file| file.len() > 0));
        Ok(runs)
    }

    /// The run that is meant: by its name, by the beginning or the end of its name if no other run's is like that, or the
    /// newest one by `last`.
    pub fn find(&self, wanted: &str) -> Result<RunId, RecordError> {
        let runs = self.runs()?;
        if wanted == "last" {
            return runs.into_iter().next().ok_or(RecordError::NoRuns);
        }
        let fits = |run: &&RunId| run.as_str().starts_with(wanted) || run.as_str().ends_with(wanted);
        let matching: Vec<_> = runs.iter().filter(fits).cloned().collect();
        match &matching[..] {
            [run] => Ok(run.clone()),
            [] if runs.is_empty() => Err(RecordError::NoRuns),
            [] => {
                let nearest = nearest(wanted, runs.iter().map(RunId::as_str));
                let nearest = runs.iter().filter(|run| nearest.contains(&run.as_str())).cloned().collect();
                Err(RecordError::Unknown { wanted: wanted.to_owned(), nearest })
            }
            [..] => Err(RecordError::Ambiguous {
                wanted: wanted.to_owned(),
                count: matching.len(),
                matching: matching.into_iter().take(NAMED).collect(),
            }),
        }
    }

    /// The events of a run.
    pub fn events(&self, run: &RunId) -> Result<RecordedEvents, RecordError> {
        RecordedEvents::open(&self.events_of(run))
    }

    /// Whether a run goes on at this moment.
    pub fn is_running(&self, run: &RunId) -> bool {
        is_locked(&self.events_of(run))
    }

    /// A run in a few words.
    pub fn outline(&self, run: &RunId) -> Result<Outline, RecordError> {
        // Asked first: a run that ends meanwhile has its last event then.
        let running = self.is_running(run);
        Outline::of(self.events(run)?, running)
    }

    fn events_of(&self, run: &RunId) -> Utf8PathBuf {
        self.folder.join(run.as_str()).join(EVENTS)
    }

    /// All folders that are named like runs, the newest first.
    pub(super) fn folders(&self) -> Result<Vec<RunId>, RecordError> {
        let entries = match self.folder.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RecordError::read(&self.folder)(error)),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(RecordError::read(&self.folder))?;
            runs.extend(entry.file_name().parse::<RunId>().ok());
        }
        runs.sort_unstable_by(|a, b| b.cmp(a));
        Ok(runs)
    }
}

fn create(path: &Utf8Path, options: &mut OpenOptions) -> io::Result<File> {
    options.write(true).mode(0o600).open(path)
}

fn is_locked(path: &Utf8Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// The names that are nearest to the one that was asked for, the nearest first.
pub(in crate::report) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<_> = names.map(|name| (strsim::levenshtein(wanted, name), name)).collect();
    names.sort_by_key(|(distance, _)| *distance);
    names.into_iter().take(NAMED).map(|(_, name)| name).collect()
}

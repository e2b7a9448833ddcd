//! What is made of a source: unpacked, converted. It is kept by what it was made from and how, so it is made once.

use std::{fs::File, sync::Arc};

use camino::Utf8PathBuf;

use super::{
    Doing, ImageError, Progress, ProgressFn,
    convert::convert,
    fetch::{CancelOnDrop, blocking, write_error},
    growth::{Follow, Growth},
    index::{self, Entry},
    location::{Location, shown},
    sparse::{self, Fault, Written},
    store::{Source, Store, StoredFile, key, store_error},
    unpack::unpack,
};
use crate::{base::Digest, farm::ResourceStep};

/// Stands in the keys of what is made: another number when the same step gives something else than it did.
const VERSION: u32 = 1;

impl Store {
    /// Has what a source is after its steps.
    pub(super) async fn prepare(
        &self,
        source: &Source,
        progress: &ProgressFn,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        if let Some(stored) = self.find(source).await? {
            return Ok(stored);
        }
        let mut stored = self.begin(source, progress, is_image).await?;
        for (index, step) in source.steps.iter().enumerate() {
            let last = index + 1 == source.steps.len();
            stored = self.derive(&stored, &shown(&source.uri), step, progress, is_image && last).await?;
        }
        Ok(stored)
    }

    /// What a source is after its steps, if all of that was done before. What came in between may be gone.
    async fn find(&self, source: &Source) -> Result<Option<StoredFile>, ImageError> {
        let (store, source) = (self.clone(), source.clone());
        blocking(move || Ok(store.known_digest(&source).and_then(|digest| store.stored(&digest)))).await
    }

    /// Fetches a source. What is to be unpacked is unpacked while it comes.
    async fn begin(
        &self,
        source: &Source,
        progress: &ProgressFn,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let streams = matches!(Location::parse(&source.uri)?, Location::Http(_));
        let step = source.steps.first().filter(|_| streams);
        let Some(step @ ResourceStep::Unarchive { member }) = step else {
            return self.fetch(source, progress, is_image && source.steps.is_empty(), None).await;
        };
        let along = key_of_half(source, step);
        let _lock = self.lock(&along).await?;
        let growth = Arc::new(Growth::default());
        let cancel = CancelOnDrop::default();
        let unpacking = {
            let (store, growth, cancelled, member) =
                (self.clone(), growth.clone(), cancel.flag(), member.clone());
            blocking(move || {
                store.remove_halves(&along);
                let into = store.create_partial(&store.beside(&along, "partial"))?;
                let whole = || growth.whole();
                let follow = Follow::new(Arc::clone(&growth));
                let written = unpack(follow, whole, member.as_deref(), &into, &store.bounds, &cancelled);
                Ok((into, written))
            })
        };
        let (fetched, unpacked) =
            tokio::join!(self.fetch(source, progress, false, Some(growth.clone())), unpacking);
        let (store, uri, step) = (self.clone(), shown(&source.uri), step.clone());
        let is_image = is_image && source.steps.len() == 1;
        blocking(move || {
            let kept = fetched.and_then(|fetched| {
                // What went wrong while it came is tried again from the store, which says why.
                // An archive may be read to its end before its download is, and what was read may be what was wrong.
                if growth.is_whole()
                    && let Ok((file, Ok(written))) = unpacked
                {
                    let entry = made(&uri, &step, &fetched, written);
                    let key = derived_key(&fetched.digest, &step);
                    store.place_half(&file, &along, &key, entry, is_image)?;
                }
                Ok(fetched)
            });
            store.remove_halves(&along);
            kept
        })
        .await
    }

    /// Has what a step makes of a file.
    async fn derive(
        &self,
        from: &StoredFile,
        uri: &str,
        step: &ResourceStep,
        progress: &ProgressFn,
        is_image: bool,
    ) -> Result<StoredFile, ImageError> {
        let key = derived_key(&from.digest, step);
        let find = || {
            let (store, digest, step) = (self.clone(), from.digest, step.clone());
            blocking(move || Ok(store.known_derived(&digest, &step).and_then(|digest| store.stored(&digest))))
        };
        if let Some(stored) = find().await? {
            return Ok(stored);
        }
        let lock = self.lock(&key).await?;
        if let Some(stored) = find().await? {
            return Ok(stored);
        }
        let partial = self.beside(&key, "partial");
        let made = match step {
            ResourceStep::Unarchive { member } => {
                progress(Progress { doing: Doing::Unpacking, done: 0, total: None });
                self.unpack(from, uri, member.clone(), &key, partial).await
            }
            ResourceStep::ImgConvert { from_format, to_format } => {
                progress(Progress { doing: Doing::Converting, done: 0, total: None });
                self.remove_and_make_folders(&key).await?;
                let converted =
                    convert(&from.path, uri, *from_format, *to_format, &partial, &self.bounds).await;
                match converted {
                    Ok(()) => hashed(partial).await,
                    Err(error) => Err(error),
                }
            }
        };
        let (store, uri, step, from) = (self.clone(), uri.to_owned(), step.clone(), from.clone());
        blocking(move || {
            let placed = made.and_then(|(file, written)| {
                store.place(&file, &key, self::made(&uri, &step, &from, written), is_image)
            });
            store.remove_halves(&key);
            drop(lock);
            placed
        })
        .await
    }

    async fn unpack(
        &self,
        from: &StoredFile,
        uri: &str,
        member: Option<String>,
        key: &Digest,
        partial: Utf8PathBuf,
    ) -> Result<(File, Written), ImageError> {
        let cancel = CancelOnDrop::default();
        let (store, cancelled, key) = (self.clone(), cancel.flag(), *key);
        let (path, uri) = (from.path.clone(), uri.to_owned());
        blocking(move || {
            store.remove_leftovers();
            store.remove_halves(&key);
            let into = store.create_partial(&partial)?;
            let read = |source| ImageError::Read { path: path.clone(), source };
            let packed = File::open(&path).map_err(read)?;
            let whole = || File::open(&path);
            match unpack(packed, whole, member.as_deref(), &into, &store.bounds, &cancelled) {
                Ok(written) => Ok((into, written)),
                Err(Fault::Input(message)) => Err(ImageError::Unpack { uri, message }),
                Err(Fault::Output(source)) => Err(write_error(source)),
            }
        })
        .await
    }

    async fn remove_and_make_folders(&self, key: &Digest) -> Result<(), ImageError> {
        let (store, key) = (self.clone(), *key);
        blocking(move || {
            store.remove_leftovers();
            store.remove_halves(&key);
            store.make_folders()
        })
        .await
    }

    /// As [`Self::place`], for a half that was made under another name.
    fn place_half(
        &self,
        file: &File,
        half: &Digest,
        key: &Digest,
        entry: Entry,
        is_image: bool,
    ) -> Result<(), ImageError> {
        let (from, to) = (self.beside(half, "partial"), self.beside(key, "partial"));
        // Whoever makes the same at this moment has its own file, and both are the same in the end.
        let Some(_lock) = self.try_lock(key)? else { return Ok(()) };
        std::fs::rename(&from, &to).map_err(store_error("rename", &from))?;
        let placed = self.place(file, key, entry, is_image);
        self.remove_halves(key);
        placed.map(drop)
    }

    /// What a step makes of that content, if it was done before.
    pub(super) fn known_derived(&self, from: &Digest, step: &ResourceStep) -> Option<Digest> {
        index::read(&self.beside(&derived_key(from, step), "json")).map(|entry| entry.digest)
    }
}

/// The name, in the store, of what a step makes of some content.
fn derived_key(from: &Digest, step: &ResourceStep) -> Digest {
    // A step always has a JSON form.
    Digest::of(serde_json::to_string(&(VERSION, from, step)).unwrap_or_default())
}

/// The name of what is unpacked while it comes, before it is known what it is unpacked from.
fn key_of_half(source: &Source, step: &ResourceStep) -> Digest {
    derived_key(&key(source), step)
}

fn made(uri: &str, step: &ResourceStep, from: &StoredFile, written: Written) -> Entry {
    let how = match step {
        ResourceStep::Unarchive { member: None } => "unpacked".to_owned(),
        ResourceStep::Unarchive { member: Some(member) } => format!("`{member}` unpacked"),
        ResourceStep::ImgConvert { to_format, .. } => format!("as {}", to_format.name()),
    };
    let Written { size, digest } = written;
    Entry { uri: format!("{uri} ({how})"), digest, size, stat: None, verified: None, from: Some(from.digest) }
}

async fn hashed(path: Utf8PathBuf) -> Result<(File, Written), ImageError> {
    let cancel = CancelOnDrop::default();
    let cancelled = cancel.flag();
    blocking(move || {
        let file = File::open(&path).map_err(store_error("read", &path))?;
        let written = sparse::hash(&file, &cancelled).map_err(store_error("read", &path))?;
        Ok((file, written))
    })
    .await
}

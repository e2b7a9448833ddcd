//! A stand-in for images and disks.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use camino::Utf8PathBuf;
use indexmap::IndexMap;

use crate::{
    base::Digest,
    farm::{Machine, Resource},
    guest::simulated::HOST_KEY,
    image::{Format, ImageError},
    run::{Fetched, ProgressInWords, Seed, Storage, StorageError},
};

/// Images that are there at once, and the disks that were made of them.
#[derive(Default)]
pub(super) struct Images {
    /// The machines that have disks.
    pub(super) disks: Mutex<BTreeSet<String>>,
    /// A machine whose image can't be fetched, and why.
    pub(super) missing: Mutex<HashMap<String, String>>,
    /// Whether the images are no longer in the cache, so that their digests are not known before they are fetched again.
    pub(super) forgotten: AtomicBool,
}

impl Images {
    /// The same images and disks, with troubles of their own.
    pub(super) fn fork(&self) -> Self {
        Self { disks: Mutex::new(self.disks.lock().unwrap().clone()), ..Self::default() }
    }
}

fn digest(name: &str, uri: &str) -> Digest {
    Digest::of(format!("{name} {uri}"))
}

#[async_trait]
impl Storage for Images {
    fn known(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        let known = |(name, resource): (String, &Resource)| {
            let digest = digest(&name, &resource.uri);
            (name, (!self.forgotten.load(Ordering::Relaxed)).then_some(digest))
        };
        machine.resources().into_iter().map(known).collect()
    }

    async fn identify(&self, machine: &Machine) -> IndexMap<String, Option<Digest>> {
        self.known(machine)
    }

    async fn fetch(
        &self,
        machine: &Machine,
        _progress: ProgressInWords,
    ) -> Result<IndexMap<String, Fetched>, StorageError> {
        if let Some(message) = self.missing.lock().unwrap().get(&machine.name).cloned() {
            let uri = machine.disks[0].image.uri.clone();
            let source = Box::new(ImageError::Unusable { uri, message });
            return Err(StorageError::Fetch { name: "disk 0".to_owned(), source });
        }
        let fetched = |(name, resource): (String, &Resource)| {
            let digest = digest(&name, &resource.uri);
            (
                name,
                Fetched {
                    path: "/images/image".into(),
                    digest,
                    size: 1,
                    format: Some(Format::Qcow2),
                    virtual_size: 1,
                },
            )
        };
        Ok(machine.resources().into_iter().map(fetched).collect())
    }

    async fn create_disks(
        &self,
        machine: &Machine,
        fetched: &IndexMap<String, Fetched>,
    ) -> Result<Vec<Utf8PathBuf>, StorageError> {
        self.disks.lock().unwrap().insert(machine.name.clone());
        Ok((0..fetched.len()).map(|index| format!("/machines/{}/disk{index}", machine.name).into()).collect())
    }

    async fn create_seed(&self, machine: &Machine) -> Result<Option<Seed>, StorageError> {
        let seed = || Seed {
            path: format!("/machines/{}/seed.iso", machine.name).into(),
            host_key: HOST_KEY.to_owned(),
        };
        Ok(machine.first_boot().map(|_| seed()))
    }

    async fn remove_disks(&self, machine: &str) -> Result<(), StorageError> {
        self.disks.lock().unwrap().remove(machine);
        Ok(())
    }
}

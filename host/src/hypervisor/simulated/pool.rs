//! Simulated storage pools. They keep what is uploaded to their volumes.

use std::collections::BTreeMap;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};

use super::{Method, Simulated, State};
use crate::hypervisor::{HypervisorError, NewContent, NewVolume, Pools, Uploaded, Volume};

/// A pool, its folder and its volumes with their content.
#[derive(Clone)]
pub(super) struct SimulatedPool {
    folder: Utf8PathBuf,
    volumes: BTreeMap<String, (Volume, Vec<u8>)>,
}

impl Simulated {
    /// What was uploaded to a volume; `None` if there is no such volume.
    pub fn volume_content(&self, pool: &str, name: &str) -> Option<Vec<u8>> {
        self.state().pools.get(pool)?.volumes.get(name).map(|(_, content)| content.clone())
    }
}

impl State {
    fn pool(&mut self, name: &str) -> Result<&mut SimulatedPool, String> {
        let missing = || format!("Storage pool not found: no storage pool with matching name '{name}'");
        self.pools.get_mut(name).ok_or_else(missing)
    }
}

#[async_trait]
impl Pools for Simulated {
    async fn pools(&self) -> Result<Vec<String>, HypervisorError> {
        self.call(Method::Pools, "", "", |state| Ok(state.pools.keys().cloned().collect())).await
    }

    async fn ensure_pool(&self, name: &str, folder: &Utf8Path) -> Result<(), HypervisorError> {
        self.call(Method::EnsurePool, name, folder.as_str(), |state| {
            let new = SimulatedPool { folder: folder.to_owned(), volumes: BTreeMap::new() };
            let pool = state.pools.entry(name.to_owned()).or_insert(new);
            if pool.folder == folder {
                Ok(())
            } else {
                Err(format!("it exists already, as the folder {}", pool.folder))
            }
        })
        .await
    }

    async fn remove_pool(&self, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::RemovePool, name, "", |state| {
            state.pools.remove(name);
            Ok(())
        })
        .await
    }

    async fn volumes(&self, pool: &str) -> Result<Option<Vec<Volume>>, HypervisorError> {
        self.call(Method::Volumes, pool, "", |state| {
            let volumes =
                |pool: &SimulatedPool| pool.volumes.values().map(|(volume, _)| volume.clone()).collect();
            Ok(state.pools.get(pool).map(volumes))
        })
        .await
    }

    async fn create_volume(&self, pool: &str, volume: &NewVolume) -> Result<Utf8PathBuf, HypervisorError> {
        self.call(Method::CreateVolume, pool, &volume.name, |state| {
            let backing = match &volume.content {
                NewContent::Bytes => None,
                NewContent::Layer { backing, .. } => Some(backing.clone()),
            };
            let all = state.pools.values().flat_map(|pool| pool.volumes.values());
            if backing.as_ref().is_some_and(|backing| all.clone().all(|(volume, _)| volume.path != *backing))
            {
                return Err(format!("Could not open '{}'", backing.unwrap_or_default()));
            }
            let pool = state.pool(pool)?;
            if pool.volumes.contains_key(&volume.name) {
                return Err(format!("storage volume '{}' exists already", volume.name));
            }
            let path = pool.folder.join(&volume.name);
            let name = volume.name.clone();
            let made = Volume { name: name.clone(), path: path.clone(), backing, capacity: volume.capacity };
            pool.volumes.insert(name, (made, Vec::new()));
            Ok(path)
        })
        .await
    }

    async fn upload_volume(
        &self,
        pool: &str,
        name: &str,
        file: &Utf8Path,
        uploaded: Uploaded,
    ) -> Result<(), HypervisorError> {
        self.call(Method::UploadVolume, pool, name, |state| {
            let volumes = &mut state.pool(pool)?.volumes;
            let (_, content) = volumes.get_mut(name).ok_or("Storage volume not found")?;
            *content = std::fs::read(file).map_err(|error| format!("{file} can't be read: {error}"))?;
            uploaded(content.len() as u64);
            Ok(())
        })
        .await
    }

    async fn delete_volume(&self, pool: &str, name: &str) -> Result<(), HypervisorError> {
        self.call(Method::DeleteVolume, pool, name, |state| {
            state.pool(pool)?.volumes.remove(name);
            Ok(())
        })
        .await
    }
}

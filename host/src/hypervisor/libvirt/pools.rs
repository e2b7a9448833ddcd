//! Storage pools and volumes, as libvirt has them.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    time::Duration,
};

use async_trait::async_trait;
use backon::{BlockingRetryable as _, ExponentialBuilder};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::SeekFrom as Extent;
use virt::{
    connect::Connect,
    error::{Error, ErrorDomain, ErrorNumber},
    storage_pool::StoragePool,
    storage_vol::StorageVol,
    stream::Stream,
    sys,
};

use super::{
    ASK_LIMIT, CHANGE_LIMIT, Libvirt,
    calls::{Fault, c_text, if_any},
};
use crate::hypervisor::{HypervisorError, NewVolume, Pools, Uploaded, Volume, pool_xml};

/// How much is sent at once: libvirt's own limit for a message is 32 MiB, and it sends no more than 256 KiB of a stream in one.
const PIECE: usize = 256 << 10;
/// Holes that are shorter are sent like data: beginning anew behind one costs more.
const SHORT_HOLE: u64 = 1 << 20;
/// What is no larger than this (a seed) is not to wait until large files have gone up.
const SMALL: u64 = 4 << 20;
/// An upload that is slower than this, in bytes a second, is taken to hang.
const SLOWEST: u64 = 64 << 10;
/// How long a pool is waited for in which volumes are being made: together, at first between two tries, and at most.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

#[async_trait]
impl Pools for Libvirt {
    async fn pools(&self) -> Result<Vec<String>, HypervisorError> {
        self.call(ASK_LIMIT, "list the storage pools", |connect| {
            let mut names = Vec::new();
            for pool in connect.list_all_storage_pools(0)? {
                // It may have gone since.
                names.extend(if_any(pool.get_name(), ErrorNumber::NoStoragePool)?);
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn ensure_pool(&self, name: &str, folder: &Utf8Path) -> Result<(), HypervisorError> {
        let (operation, name, folder) =
            (format!("make the storage pool {name}"), name.to_owned(), folder.to_owned());
        self.call(CHANGE_LIMIT, &operation, move |connect| ensure(connect, &name, &folder)).await
    }

    async fn remove_pool(&self, name: &str) -> Result<(), HypervisorError> {
        let (operation, name) = (format!("remove the storage pool {name}"), name.to_owned());
        self.call(CHANGE_LIMIT, &operation, move |connect| remove(connect, &name)).await
    }

    async fn volumes(&self, pool: &str) -> Result<Option<Vec<Volume>>, HypervisorError> {
        let (operation, pool) = (format!("list the volumes of storage pool {pool}"), pool.to_owned());
        self.call(ASK_LIMIT, &operation, move |connect| {
            let Some(found) = lookup_if_any(connect, &pool)? else { return Ok(None) };
            match volumes(&found) {
                // It has gone meanwhile.
                Err(_) if lookup_if_any(connect, &pool)?.is_none() => Ok(None),
                volumes => volumes.map(Some),
            }
        })
        .await
    }

    async fn create_volume(&self, pool: &str, volume: &NewVolume) -> Result<Utf8PathBuf, HypervisorError> {
        let operation = format!("make the volume {} in storage pool {pool}", volume.name);
        let (pool, xml) = (pool.to_owned(), pool_xml::to_create(volume));
        self.call(CHANGE_LIMIT, &operation, move |connect| {
            let volume = StorageVol::create_xml(&lookup(connect, &pool)?, c_text(&xml)?, 0)?;
            Ok(Utf8PathBuf::from(volume.get_path()?))
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
        let operation = format!("upload {file} to the volume {name} in storage pool {pool}");
        // One that is not there is told by the upload itself.
        let size = tokio::fs::metadata(file).await.map(|metadata| metadata.len()).unwrap_or_default();
        let limit = CHANGE_LIMIT + Duration::from_secs(size / SLOWEST);
        let (pool, name, file) = (pool.to_owned(), name.to_owned(), file.to_owned());
        let call = move |connect: &Connect| upload(connect, &pool, &name, &file, &uploaded);
        if size > SMALL {
            self.long_call(limit, &operation, call).await
        } else {
            self.call(limit, &operation, call).await
        }
    }

    async fn delete_volume(&self, pool: &str, name: &str) -> Result<(), HypervisorError> {
        let operation = format!("delete the volume {name} in storage pool {pool}");
        let (pool, name) = (pool.to_owned(), name.to_owned());
        self.call(CHANGE_LIMIT, &operation, move |connect| {
            let volume = StorageVol::lookup_by_name(&lookup(connect, &pool)?, c_text(&name)?);
            match if_any(volume, ErrorNumber::NoStorageVolume)? {
                Some(volume) => if_any(volume.delete(0), ErrorNumber::NoStorageVolume).map(drop),
                None => Ok(()),
            }
        })
        .await
    }
}

fn lookup(connect: &Connect, name: &str) -> Result<StoragePool, Fault> {
    Ok(StoragePool::lookup_by_name(connect, c_text(name)?)?)
}

fn lookup_if_any(connect: &Connect, name: &str) -> Result<Option<StoragePool>, Fault> {
    if_any(StoragePool::lookup_by_name(connect, c_text(name)?), ErrorNumber::NoStoragePool)
}

fn ensure(connect: &Connect, name: &str, folder: &Utf8Path) -> Result<(), Fault> {
    let pool = match lookup_if_any(connect, name)? {
        Some(pool) => pool,
        None => {
            let defined =
                StoragePool::define_xml(connect, c_text(&pool_xml::pool_to_define(name, folder))?, 0);
            // Another one may have made it just now.
            match lookup_if_any(connect, name)? {
                Some(pool) => pool,
                None => defined?,
            }
        }
    };
    let found = pool_xml::pool_folder(&pool.get_xml_desc(0)?).map_err(Fault::Answer)?;
    if found != folder {
        return Err(Fault::Refused(format!("it exists already, as the folder {found}")));
    }
    start(&pool)
}

fn volumes(pool: &StoragePool) -> Result<Vec<Volume>, Fault> {
    start(pool)?;
    unless_busy(|| pool.refresh(0))?;
    let mut volumes = Vec::new();
    for volume in pool.list_all_volumes(0)? {
        if let Some(xml) = if_any(volume.get_xml_desc(0), ErrorNumber::NoStorageVolume)? {
            volumes.push(pool_xml::read(&xml).map_err(Fault::Answer)?);
        }
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}

/// Makes a pool's folder where that is missing, and starts the pool.
fn start(pool: &StoragePool) -> Result<(), Fault> {
    if pool.is_active()? {
        return Ok(());
    }
    let started = pool.build(sys::VIR_STORAGE_POOL_BUILD_NEW).and_then(|_| pool.create(0));
    match started {
        // Another one may have started it just now.
        Err(_) if pool.is_active()? => Ok(()),
        started => Ok(started.map(drop)?),
    }
}

/// Calls once more while it may be that a volume is being made in the pool: libvirt has no error of its own for that, and does
/// not wait by itself.
fn unless_busy<T>(call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LAST_PAUSE)
        .without_max_times()
        .with_total_delay(Some(PATIENCE));
    let may_be_busy =
        |error: &Error| error.code() == ErrorNumber::InternalError && error.domain() == ErrorDomain::Storage;
    call.retry(pauses).when(may_be_busy).call()
}

fn remove(connect: &Connect, name: &str) -> Result<(), Fault> {
    let Some(pool) = lookup_if_any(connect, name)? else { return Ok(()) };
    start(&pool)?;
    unless_busy(|| pool.refresh(0))?;
    for volume in pool.list_all_volumes(0)? {
        if_any(volume.delete(0), ErrorNumber::NoStorageVolume)?;
    }
    unless_busy(|| pool.destroy())?;
    pool.delete(sys::VIR_STORAGE_POOL_DELETE_NORMAL)?;
    Ok(pool.undefine()?)
}

fn upload(
    connect: &Connect,
    pool: &str,
    name: &str,
    path: &Utf8Path,
    uploaded: &Uploaded,
) -> Result<(), Fault> {
    let volume = StorageVol::lookup_by_name(&lookup(connect, pool)?, c_text(name)?)?;
    let unreadable = |error: io::Error| Fault::Refused(format!("{path} can't be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; PIECE];
    let mut sent = 0;
    for extent in extents(&file).map_err(unreadable)? {
        file.seek(SeekFrom::Start(extent.start)).map_err(unreadable)?;
        let mut rest = extent.end - extent.start;
        let stream = Stream::new(connect, 0)?;
        volume.upload(&stream, extent.start, rest, 0)?;
        while rest > 0 {
            let most = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
            let read = file.read(&mut buffer[..most]).map_err(unreadable)?;
            if read == 0 {
                let _ = stream.abort();
                return Err(Fault::Refused(format!("{path} has become shorter")));
            }
            let mut piece = &buffer[..read];
            while !piece.is_empty() {
                let taken = stream.send(piece)?;
                piece = &piece[taken..];
            }
            rest -= read as u64;
            sent += read as u64;
            uploaded(sent);
        }
        stream.finish()?;
    }
    Ok(())
}

/// The parts of a file that hold data, in order; holes between two of them that are not worth a gap belong to them. A file
/// system that knows no holes gives the whole.
fn extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    let size = file.metadata()?.len();
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, Extent::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = rustix::fs::seek(file, Extent::Hole(start)).unwrap_or(size).clamp(start + 1, size);
        match extents.last_mut() {
            Some(last) if start - last.end < SHORT_HOLE => last.end = end,
            _ => extents.push(start..end),
        }
        at = end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        assert_eq!(extents(&file).unwrap(), []);
        file.set_len(64 << 20).unwrap();
        assert_eq!(extents(&file).unwrap(), []);
        for offset in [0, 8 << 10, 32 << 20] {
            file.write_all_at(&[1; 4096], offset).unwrap();
        }
        let extents = extents(&file).unwrap();
        assert_eq!(extents.iter().map(|extent| extent.start).collect::<Vec<_>>(), [0, 32 << 20]);
        assert!(extents.iter().map(|extent| extent.end - extent.start).sum::<u64>() < 1 << 20);
    }
}

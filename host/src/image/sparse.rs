//! Writes content to a file, hashing it on the way and leaving holes where there are only zeros; never more than allowed.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
};

use sha2::{Digest as _, Sha256};

use super::fetch::write_sparse;
use crate::base::Digest;

const BUFFER: usize = 1 << 20;
/// Holes are looked for in pieces of this size: the usual cluster of a disk image.
const PIECE: usize = 64 << 10;

/// How large what is made from a file may get. Archives and compressed files can claim to hold any amount ("bombs").
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The whole size in bytes, holes included.
    pub(super) size: u64,
    /// Bytes outside of holes that may come from each packed byte. Disk images hold a few at most.
    pub(super) ratio: u64,
    /// Bytes outside of holes that may be there in any case.
    pub(super) allowance: u64,
    /// How many files an archive may list.
    pub(super) members: usize,
    /// How many bytes of an archive may lie between two files.
    pub(super) header: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { size: 256 << 30, ratio: 200, allowance: 1 << 30, members: 100_000, header: 1 << 20 }
    }
}

impl Bounds {
    /// How many bytes outside of holes may be made from so many packed ones.
    pub(super) fn data(&self, packed: u64) -> u64 {
        packed.saturating_mul(self.ratio).saturating_add(self.allowance)
    }
}

/// Why content could not be written.
#[derive(Debug)]
pub(super) enum Fault {
    /// What is read is broken, or larger than allowed.
    Input(String),
    /// The file can't be written.
    Output(io::Error),
}

impl Fault {
    pub(super) fn input(error: impl ToString) -> Self {
        Self::Input(error.to_string())
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// Writes all of `from` into an empty file. `data` tells how many bytes may lie outside of holes by now.
pub(super) fn write(
    from: &mut dyn Read,
    into: &File,
    bounds: &Bounds,
    data: &dyn Fn() -> u64,
    cancelled: &AtomicBool,
) -> Result<Written, Fault> {
    let (mut hasher, mut size, mut written) = (Sha256::new(), 0, 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = fill(from, &mut buffer).map_err(Fault::input)?;
        let chunk = buffer.get(..length).unwrap_or_default();
        if size + length as u64 > bounds.size {
            return Err(Fault::Input(format!("it unpacks to more than {} bytes", bounds.size)));
        }
        hasher.update(chunk);
        for piece in chunk.chunks(PIECE) {
            if write_sparse(into, piece, size).map_err(Fault::Output)? {
                written += piece.len() as u64;
            }
            size += piece.len() as u64;
        }
        if written > data() {
            let message =
                format!("it unpacks to {written} bytes or more that are not zero, too many for its size");
            return Err(Fault::Input(message));
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(Fault::Input("it was given up".to_owned()));
        }
        if length < buffer.len() {
            break;
        }
    }
    into.set_len(size).map_err(Fault::Output)?;
    Ok(Written { size, digest: Digest::from_hasher(hasher) })
}

/// Hashes a whole file.
pub(super) fn hash(file: &File, cancelled: &AtomicBool) -> io::Result<Written> {
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        match file.read_at(&mut buffer, size) {
            Ok(0) => return Ok(Written { size, digest: Digest::from_hasher(hasher) }),
            Ok(length) => {
                hasher.update(buffer.get(..length).unwrap_or_default());
                size += length as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was given up"));
        }
    }
}

/// Fills the buffer; less only at the end.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

//! Runs `qemu-img`.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use tokio::process::Command;

use super::ImageError;

/// Runs `qemu-img` to its end, and gives what it printed. It is killed when the future is dropped, or `limit` has passed.
pub(super) async fn qemu_img(
    arguments: &[&OsStr],
    limit: Duration,
    operation: impl Fn() -> String,
) -> Result<Vec<u8>, ImageError> {
    let error = |message: String| ImageError::QemuImg { operation: operation(), message };
    let run = Command::new("qemu-img").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, run)
        .await
        .map_err(|_| error(format!("it took longer than {} s", limit.as_secs())))?
        .map_err(|failed| error(format!("it can't be run ({failed}): is QEMU installed?")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(error(words.trim().trim_start_matches("qemu-img: ").to_owned()))
}

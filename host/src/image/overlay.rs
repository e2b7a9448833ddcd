//! Machines' disks: qcow2 overlays on base images, by `qemu-img`.

use std::{
    ffi::OsStr,
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::{Format, ImageError, format::inspect, qemu_img::qemu_img};

/// How long `qemu-img` may take; what it is asked for here takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A machine's disk as `qemu-img` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
    /// The base image, if it has one.
    #[serde(rename = "full-backing-filename")]
    pub base: Option<Utf8PathBuf>,
    /// The base image's format as it is pinned in the disk.
    #[serde(rename = "backing-filename-format")]
    pub base_format: Option<Format>,
    /// The snapshots inside of it.
    #[serde(default)]
    pub snapshots: Vec<DiskSnapshot>,
}

/// A snapshot inside of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskSnapshot {
    /// Its name.
    pub name: String,
    /// The machine's memory and devices in it, in bytes.
    pub vm_state_size: u64,
}

/// Makes a machine's disk, in one step: it is there whole, or not at all. One that is there already is replaced. Only its owner
/// may read it, and those whom libvirt lets: it comes to hold what is secret in the guest, with internal snapshots also what is
/// in its memory.
///
/// `size` in bytes is that of the base if absent. The base's format is written into the disk, so that QEMU does not guess it
/// from what the base holds.
///
/// # Errors
/// [`ImageError::QemuImg`] with `qemu-img`'s own words.
pub async fn create_overlay(
    base: &Utf8Path,
    base_format: Format,
    path: &Utf8Path,
    size: Option<u64>,
) -> Result<(), ImageError> {
    let operation = || format!("create {path} on {base}");
    let refused = |message: &str| ImageError::QemuImg { operation: operation(), message: message.to_owned() };
    if !base.is_absolute() || !path.is_absolute() {
        // `qemu-img` would take `a:b` for a protocol and `-a` for an option.
        return Err(refused("both paths must be absolute"));
    }
    if let Some(size) = size {
        let held = virtual_size(base, base_format).map_err(|message| refused(&message))?;
        if size < held {
            return Err(refused(&format!(
                "the image holds {held} bytes, so a disk of {size} bytes would cut it off"
            )));
        }
    }
    let temporary = path.with_extension("partial");
    let mut arguments: Vec<&OsStr> =
        ["create", "-q", "-f", "qcow2", "-F", base_format.name()].map(OsStr::new).into();
    arguments.extend([OsStr::new("-b"), base.as_ref(), temporary.as_ref()]);
    let size = size.map(|size| size.to_string());
    arguments.extend(size.as_ref().map(OsStr::new));
    let place = async {
        tokio::fs::set_permissions(&temporary, Permissions::from_mode(0o600)).await?;
        tokio::fs::rename(&temporary, path).await
    };
    let renamed = match qemu_img(&arguments, LIMIT, operation).await {
        Ok(_) => place.await.map_err(|error| refused(&error.to_string())),
        Err(error) => Err(error),
    };
    if renamed.is_err() {
        let _ = tokio::fs::remove_file(&temporary).await;
    }
    renamed
}

/// What a guest sees of a base, in bytes.
fn virtual_size(base: &Utf8Path, format: Format) -> Result<u64, String> {
    let file = File::open(base).map_err(|error| error.to_string())?;
    match format {
        Format::Raw => file.metadata().map(|metadata| metadata.len()).map_err(|error| error.to_string()),
        Format::Qcow2 => inspect(&file).map(|(_, size)| size),
    }
}

/// Looks at a machine's disk, also while the machine runs. Only for disks that farmhand made: `qemu-img` trusts what is in
/// them.
///
/// # Errors
/// [`ImageError::QemuImg`] with `qemu-img`'s own words.
pub async fn inspect_disk(path: &Utf8Path) -> Result<Disk, ImageError> {
    let operation = || format!("inspect {path}");
    let arguments = ["info", "--force-share", "-f", "qcow2", "--output=json"].map(OsStr::new);
    let output = qemu_img(&[&arguments[..], &[path.as_ref()]].concat(), LIMIT, operation).await?;
    serde_json::from_slice(&output)
        .map_err(|error| ImageError::QemuImg { operation: operation(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8Path::from_path(self.0.path()).unwrap().join(name)
        }
    }

    /// A folder with a raw base of 1 MiB that looks like a qcow2 image with a backing file.
    fn folder() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let mut bytes = vec![0; 1 << 20];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        std::fs::write(folder.path("base"), bytes).unwrap();
        folder
    }

    #[tokio::test]
    async fn the_base_and_its_format_are_pinned() {
        let folder = folder();
        let (base, disk) = (folder.path("base"), folder.path("disk0.qcow2"));
        create_overlay(&base, Format::Raw, &disk, None).await.unwrap();
        let expected = Disk {
            virtual_size: 1 << 20,
            base: Some(base.clone()),
            base_format: Some(Format::Raw),
            snapshots: vec![],
        };
        assert_eq!(inspect_disk(&disk).await.unwrap(), expected);
        assert_eq!(std::fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o600);
        let take = ["snapshot", "-c", "clean"].map(OsStr::new);
        qemu_img(&[&take[..], &[disk.as_ref()]].concat(), Duration::from_secs(60), || "take one".into())
            .await
            .unwrap();
        let taken = DiskSnapshot { name: "clean".into(), vm_state_size: 0 };
        assert_eq!(inspect_disk(&disk).await.unwrap().snapshots, [taken]);

        create_overlay(&base, Format::Raw, &disk, Some(5 << 30)).await.unwrap();
        assert_eq!(inspect_disk(&disk).await.unwrap().virtual_size, 5 << 30);

        let smaller = create_overlay(&base, Format::Raw, &disk, Some(512)).await.unwrap_err().to_string();
        assert!(smaller.contains("1048576 bytes") && smaller.contains("512 bytes"), "{smaller}");
    }

    #[tokio::test]
    async fn failures_have_qemu_imgs_own_words_and_leave_nothing() {
        let folder = folder();
        let missing = create_overlay(&folder.path("none"), Format::Qcow2, &folder.path("disk"), None).await;
        let message = missing.unwrap_err().to_string();
        assert!(message.contains("No such file or directory") && message.contains("none"), "{message}");
        let nowhere = create_overlay(&folder.path("base"), Format::Raw, &folder.path("no/disk"), None).await;
        assert!(nowhere.unwrap_err().to_string().contains("No such file or directory"));
        assert!(
            create_overlay("nbd:localhost:1".into(), Format::Raw, &folder.path("disk"), None).await.is_err()
        );
        assert!(inspect_disk(&folder.path("base")).await.is_err());
        assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1);
    }
}

//! Converts an image into another format, by `qemu-img`.

use std::{ffi::OsStr, fs::File, os::unix::fs::MetadataExt as _, time::Duration};

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::json;

use super::{ImageError, fetch::blocking, format, qemu_img::qemu_img, sparse::Bounds};
use crate::farm::ImageFormat;

const ASK_LIMIT: Duration = Duration::from_secs(60);
const CONVERT_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How often it is looked at whether the new image gets too large.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
}

/// Converts the image `from` (an absolute path) into the new file `into`. `uri` is where it comes from, for people.
///
/// `qemu-img` is given no image that could lead it to other files of this host, and is told to open no parent.
pub(super) async fn convert(
    from: &Utf8Path,
    uri: &str,
    from_format: Option<ImageFormat>,
    to_format: ImageFormat,
    into: &Utf8Path,
    bounds: &Bounds,
) -> Result<(), ImageError> {
    let unusable = |message: String| ImageError::Unusable { uri: uri.to_owned(), message };
    let path = from.to_owned();
    let (found, packed) = blocking(move || {
        let file = File::open(&path).map_err(|source| ImageError::Read { path: path.clone(), source })?;
        let packed = file.metadata().map_err(|source| ImageError::Read { path: path.clone(), source })?.len();
        Ok((format::convertible(&file, from_format), packed))
    })
    .await?;
    let found = found.map_err(unusable)?;

    let operation = || format!("convert {uri} from {} to {}", found.name(), to_format.name());
    let word = |text: &'static str| OsStr::new(text);
    let image = alone(from, found);
    let arguments = [word("info"), word("--output=json"), OsStr::new(&image)];
    let info = qemu_img(&arguments, ASK_LIMIT, operation).await?;
    let info: Info = serde_json::from_slice(&info)
        .map_err(|error| ImageError::QemuImg { operation: operation(), message: error.to_string() })?;
    if info.virtual_size > bounds.size {
        return Err(unusable(format!(
            "its virtual size is {} bytes; {} is the most",
            info.virtual_size, bounds.size
        )));
    }
    let arguments = [
        word("convert"),
        word("-q"),
        word("-O"),
        OsStr::new(to_format.name()),
        OsStr::new(&image),
        into.as_ref(),
    ];
    let most = bounds.data(packed);
    let watched = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let used = tokio::fs::metadata(into).await.map_or(0, |metadata| metadata.blocks() * 512);
            if used > most {
                return unusable(format!("it converts to {used} bytes or more, too many for its size"));
            }
        }
    };
    tokio::select! {
        converted = qemu_img(&arguments, CONVERT_LIMIT, operation) => converted.map(drop),
        error = watched => Err(error),
    }
}

/// An image for `qemu-img`: a file in that format and nothing else, whatever it names as its parent.
fn alone(path: &Utf8Path, format: ImageFormat) -> String {
    let file = json!({ "driver": "file", "filename": path });
    format!("json:{}", json!({ "driver": format.name(), "backing": null, "file": file }))
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;

    fn qemu_img_now(arguments: &[&str]) {
        let output = std::process::Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[tokio::test]
    async fn no_parent_is_opened_even_if_an_image_names_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8PathBuf::from_path_buf(folder.path().join(name)).unwrap();
        let (secret, child, copy) = (path("a secret, \"quoted\""), path("child"), path("copy"));
        std::fs::write(&secret, [1; 1 << 20]).unwrap();
        qemu_img_now(&["create", "-q", "-f", "qcow2", "-b", secret.as_str(), "-F", "raw", child.as_str()]);
        let image = alone(&child, ImageFormat::Qcow2);
        qemu_img_now(&["convert", "-O", "raw", &image, copy.as_str()]);
        assert!(std::fs::read(&copy).unwrap() == [0; 1 << 20]);
        qemu_img_now(&["convert", "-O", "raw", &alone(&secret, ImageFormat::Raw), copy.as_str()]);
        assert!(std::fs::read(&copy).unwrap() == [1; 1 << 20]);
    }
}

//! Converts an image into another format, by `qemu-img`.

use std::{ffi::OsStr, fs::File, os::unix::fs::MetadataExt as _, time::Duration};

use camino::Utf8Path;
use serde::Deserialize;

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
/// `qemu-img` is given no image that could lead it to other files of this host.
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
    let format = OsStr::new(found.name());
    let arguments = [word("info"), word("-f"), format, word("--output=json"), from.as_ref()];
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
        word("-f"),
        format,
        word("-O"),
        OsStr::new(to_format.name()),
        from.as_ref(),
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

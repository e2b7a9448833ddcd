//! Where a source is.

use camino::Utf8PathBuf;
use reqwest::Url;

use super::ImageError;

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Local(Utf8PathBuf),
    Http(Url),
}

impl Location {
    pub(super) fn parse(uri: &str) -> Result<Self, ImageError> {
        if uri.starts_with('/') {
            return Ok(Self::Local(uri.into()));
        }
        let error = || ImageError::Source(shown(uri));
        let url = Url::parse(uri).map_err(|_| error())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(url)),
            "file" => {
                let path = url.to_file_path().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
                path.map(Self::Local).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }

    /// The last part of its path.
    pub(super) fn file_name(&self) -> &str {
        match self {
            Self::Local(path) => path.file_name().unwrap_or_default(),
            Self::Http(url) => url.path().rsplit('/').next().unwrap_or_default(),
        }
    }
}

/// A URI for people and records: without what may be secret in it (user and password, query).
pub(super) fn shown(uri: &str) -> String {
    let Ok(mut url) = Url::parse(uri) else { return uri.to_owned() };
    if !url.has_host() {
        return uri.to_owned();
    }
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_paths_or_uris() {
        let parse = |uri| Location::parse(uri);
        assert_eq!(parse("/a b/c%20d").unwrap(), Location::Local("/a b/c%20d".into()));
        assert_eq!(parse("file:///a/c%20d").unwrap(), Location::Local("/a/c d".into()));
        assert_eq!(parse("https://example.org/x/y.qcow2?z=/1").unwrap().file_name(), "y.qcow2");
        for uri in ["", "a", "./a", "ftp://example.org/a", "file://other-host/a", "http://"] {
            assert!(matches!(parse(uri), Err(ImageError::Source(_))), "{uri}");
        }
    }

    #[test]
    fn secrets_of_a_uri_are_not_shown() {
        assert_eq!(shown("https://u:p@example.org/x?token=t"), "https://example.org/x?...");
        assert_eq!(shown("/a?b"), "/a?b");
    }
}

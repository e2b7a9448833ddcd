//! Locks, as libvirt keeps them: in secrets' XML. Pure.
//!
//! A lock is an ephemeral secret without a value. libvirt refuses a second secret with the same usage and another UUID, and
//! that is what makes it a lock; its description holds the owner.

use roxmltree::Document;
use uuid::Uuid;

use super::{DomainLock, xml::child_text};
use crate::base::xml_escape;

/// The usage that a lock's secret is defined for.
pub(super) fn usage(domain: &str) -> String {
    format!("farmhand/lock/{domain}")
}

/// The XML of a lock's secret.
pub(super) fn to_define(domain: &str, lock: &DomainLock) -> String {
    format!(
        "<secret ephemeral='yes' private='no'><uuid>{}</uuid><description>{}</description>\
         <usage type='tls'><name>{}</name></usage></secret>",
        lock.id,
        xml_escape(&lock.owner),
        xml_escape(&usage(domain))
    )
}

/// Reads a lock as libvirt describes its secret. The error says what is wrong with the XML.
pub(super) fn read(xml: &str) -> Result<DomainLock, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let id = child_text(root, "uuid").ok_or("a secret has no <uuid>")?;
    Ok(DomainLock {
        id: Uuid::try_parse(id).map_err(|error| format!("a secret's <uuid> is none: {error}"))?,
        owner: child_text(root, "description").unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let lock = DomainLock { id: Uuid::from_u128(7), owner: r#"{"host":"<a> & 'π'"}"#.to_owned() };
        assert_eq!(read(&to_define("a & b", &lock)), Ok(lock));
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        for xml in ["", "<secret/>", "<secret><uuid>7</uuid></secret>"] {
            assert!(read(xml).is_err(), "{xml}");
        }
    }
}

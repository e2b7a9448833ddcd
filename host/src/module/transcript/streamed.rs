use sha2::{Digest as _, Sha256};

use super::{Bytes, Content};
use crate::{base::Digest, module::bindings::farmhand::phase::guest as wit};

/// A larger content is known by its size and digest.
const MAX_KEPT: usize = 64 << 10;

/// What a module writes to a file piece by piece, as a call has it in the end. How it was cut makes no difference.
#[derive(Default)]
pub(in crate::module) struct StreamedContent {
    size: u64,
    /// What was written so far; nothing once it is too large.
    parts: Vec<Content>,
    kept: usize,
    hasher: Sha256,
}

impl StreamedContent {
    /// Adds a piece, which stands for so many bytes, and gives the size of all.
    pub(in crate::module) fn add(&mut self, content: &wit::Content, size: usize) -> u64 {
        self.size = self.size.saturating_add(size as u64);
        match content {
            wit::Content::Bytes(bytes) => {
                self.hasher.update(bytes);
                if self.has_room(bytes.len()) {
                    match self.parts.last_mut() {
                        Some(Content::Bytes(last)) => last.0.extend_from_slice(bytes),
                        _ => self.parts.push(Content::Bytes(Bytes(bytes.clone()))),
                    }
                }
            }
            wit::Content::Secret(name) => {
                let stands_for_it = format!("<secret {name}>");
                self.hasher.update(&stands_for_it);
                if self.has_room(stands_for_it.len()) {
                    self.parts.push(Content::Secret { secret: name.clone() });
                }
            }
        }
        self.size
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.kept = self.kept.saturating_add(bytes);
        let fits = self.kept <= MAX_KEPT;
        if !fits {
            self.parts = Vec::new();
        }
        fits
    }

    /// All of it.
    pub(in crate::module) fn finish(self) -> Vec<Content> {
        if self.kept <= MAX_KEPT {
            return self.parts;
        }
        vec![Content::Large { size: self.size, digest: Digest::from_hasher(self.hasher) }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> Vec<Content> {
        let mut content = StreamedContent::default();
        for piece in pieces {
            content.add(&wit::Content::Bytes(piece.to_vec()), piece.len());
        }
        content.finish()
    }

    #[test]
    fn it_makes_no_difference_how_a_content_is_cut() {
        assert_eq!(written(&[b"a", b"", b"bc"]), written(&[b"abc"]));
        assert_eq!(written(&[]), []);
        let large = vec![b'x'; MAX_KEPT + 1];
        let (first, second) = large.split_at(1000);
        assert_eq!(written(&[first, second]), written(&[&large]));
        let digest = Digest::of(&large);
        assert_eq!(written(&[&large]), [Content::Large { size: large.len() as u64, digest }]);
    }

    #[test]
    fn a_secret_is_known_by_its_name_alone() {
        let secret = wit::Content::Secret("TOKEN".to_owned());
        let mut content = StreamedContent::default();
        assert_eq!(content.add(&wit::Content::Bytes(b"a".to_vec()), 1), 1);
        assert_eq!(content.add(&secret, 7), 8);
        let parts = content.finish();
        assert_eq!(parts[1], Content::Secret { secret: "TOKEN".to_owned() });

        let mut content = StreamedContent::default();
        for _ in 0..10_000 {
            content.add(&secret, 0);
        }
        assert!(matches!(content.finish()[..], [Content::Large { size: 0, .. }]));
    }
}

use std::cell::RefCell;

use crate::{Content, GuestError, Pieces, Writing};

/// The largest piece that the host gives.
const PIECE: usize = 64 << 10;

/// A content that is given as the host gives it.
pub(super) struct InPieces(RefCell<std::vec::IntoIter<u8>>);

impl InPieces {
    pub(super) fn of(content: Vec<u8>) -> Self {
        Self(RefCell::new(content.into_iter()))
    }
}

impl Pieces for InPieces {
    fn next(&self) -> Result<Option<Vec<u8>>, GuestError> {
        let piece: Vec<u8> = self.0.borrow_mut().by_ref().take(PIECE).collect();
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// Gathers what is written, and hands it over as a whole at the end.
pub(super) struct Parts<F> {
    parts: RefCell<Vec<Content>>,
    finish: F,
}

impl<F: FnOnce(&[Content]) -> Result<(), GuestError>> Parts<F> {
    pub(super) fn new(finish: F) -> Self {
        Self { parts: RefCell::default(), finish }
    }
}

impl<F: FnOnce(&[Content]) -> Result<(), GuestError>> Writing for Parts<F> {
    fn write(&self, content: &Content) -> Result<(), GuestError> {
        let mut parts = self.parts.borrow_mut();
        // How it was cut makes no difference.
        match (parts.last_mut(), content) {
            (Some(Content::Bytes(last)), Content::Bytes(more)) => last.extend_from_slice(more),
            _ => parts.push(content.clone()),
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GuestError> {
        (self.finish)(&self.parts.into_inner())
    }
}

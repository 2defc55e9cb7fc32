//! The copy of a request's body that a retry sends again.
//!
//! Pieces share their memory with those sent; past the buffer limit the copy is dropped, and with
//! it the retries.

use bytes::Bytes;

use crate::message::Fields;

/// What was read of the body so far.
#[derive(Debug)]
pub struct Replay {
    pieces: Vec<Bytes>,
    trailers: Option<Fields>,
    size: usize,
    limit: usize,
    /// False when nothing is kept: there is no retry policy, or the body was larger than the limit.
    keep: bool,
}

impl Replay {
    /// A copy of at most `limit` bytes, or none at all.
    pub fn new(keep: bool, limit: usize) -> Self {
        Self { pieces: Vec::new(), trailers: None, size: 0, limit, keep }
    }

    /// True when the copy is given up with this piece.
    pub fn push(&mut self, piece: &Bytes) -> bool {
        if self.keep && self.size.saturating_add(piece.len()) <= self.limit {
            self.size += piece.len();
            self.pieces.push(piece.clone());
            return false;
        }
        self.pieces = Vec::new();
        std::mem::take(&mut self.keep)
    }

    pub fn set_trailers(&mut self, trailers: &Fields) {
        if self.keep {
            self.trailers = Some(trailers.clone());
        }
    }

    /// Nothing of a body was read so far.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }

    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_its_limit_the_copy_is_gone_for_good() {
        let mut replay = Replay::new(true, 4);
        assert!(!replay.push(&Bytes::from_static(b"abc")));
        assert!(replay.push(&Bytes::from_static(b"de")));
        assert!(!replay.push(&Bytes::from_static(b"f")));
        assert!(replay.pieces().is_empty());
    }
}

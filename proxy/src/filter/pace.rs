//! How fast the body of a response may go: a slice of bytes for each sixteenth of a second.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// Slices in a second, and the time between two: Envoy's timers count whole milliseconds.
const SLICES: u32 = 16;
const INTERVAL: Duration = Duration::from_millis(63);

/// A slice each sixteenth of a second; the first at once, unused ones are saved up for a second.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes.
    slice: usize,
    /// Bytes left of the slice that was begun.
    left: usize,
    /// When the oldest slice that was not begun became due.
    due: Instant,
}

impl Pace {
    pub(crate) fn new(kib_per_second: u64, now: Instant) -> Self {
        let slice = kib_per_second.saturating_mul(1024) / u64::from(SLICES);
        Self { slice: usize::try_from(slice).unwrap_or(usize::MAX).max(1), left: 0, due: now }
    }

    /// The next part of a piece that may go, or how long to wait for it.
    pub(crate) fn next(&mut self, piece: &mut Bytes, now: Instant) -> Result<Bytes, Duration> {
        if self.left == 0 {
            if now < self.due {
                return Err(self.due - now);
            }
            // More than a second's slices are not saved.
            let oldest = now.checked_sub(INTERVAL * (SLICES - 1)).unwrap_or(now);
            self.due = self.due.max(oldest) + INTERVAL;
            self.left = self.slice;
        }
        let part = piece.split_to(piece.len().min(self.left));
        self.left -= part.len();
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_goes_at_once_and_one_more_each_sixteenth_of_a_second() {
        let now = Instant::now();
        let mut pace = Pace::new(1, now);
        let mut piece = Bytes::from(vec![0; 200]);
        assert_eq!(pace.next(&mut piece, now).unwrap().len(), 64);
        let wait = pace.next(&mut piece, now).unwrap_err();
        assert_eq!(wait, INTERVAL);
        assert_eq!(pace.next(&mut piece, now + wait).unwrap().len(), 64);
        assert!(pace.next(&mut piece, now + wait).is_err());
        assert_eq!(piece.len(), 72);
    }
}

//! A histogram of fixed size: buckets on a logarithmic scale, eight to each power of two.
//!
//! One thread records; the admin thread sums the shards and reads quantiles, each within a bucket's
//! width (at most an eighth). The buckets are allocated with the first value.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Exact below 16, then eight buckets for each power of two up to 2^40.
const BUCKETS: usize = 16 + 8 * 36;

/// Counts of values by size; the last cell is the sum of the values.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<[AtomicU64]>>);

impl Histogram {
    /// Records a value: milliseconds for times, otherwise bytes or a count, as Envoy has them.
    pub(crate) fn record(&self, value: u64) {
        let cells = self.0.get_or_init(|| (0..=BUCKETS).map(|_| AtomicU64::new(0)).collect());
        for (at, more) in [(bucket_of(value), 1), (BUCKETS, value)] {
            if let Some(cell) = cells.get(at) {
                cell.store(cell.load(Relaxed).saturating_add(more), Relaxed);
            }
        }
    }

    /// Whether a value was recorded.
    pub(crate) fn is_used(&self) -> bool {
        self.0.get().is_some()
    }

    /// Adds this shard to a summary.
    pub(crate) fn add_to(&self, summary: &mut Summary) {
        let Some((sum, buckets)) = self.0.get().and_then(|cells| cells.split_last()) else { return };
        summary.buckets.resize(BUCKETS, 0);
        for (total, bucket) in summary.buckets.iter_mut().zip(buckets) {
            *total = total.saturating_add(bucket.load(Relaxed));
        }
        summary.sum = summary.sum.saturating_add(sum.load(Relaxed));
    }
}

/// The sum of a histogram's shards; without buckets while nothing was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    buckets: Vec<u64>,
    pub sum: u64,
}

impl Summary {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value below which that share (0 to 1) of the recorded values lies; `None` when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0;
        for (at, &bucket) in self.buckets.iter().enumerate().filter(|(_, bucket)| **bucket > 0) {
            #[allow(clippy::cast_precision_loss)] // as above
            let (start, width, inside) = (lower_bound(at) as f64, width_of(at) as f64, bucket as f64);
            #[allow(clippy::cast_precision_loss)] // as above
            let part = (rank - below as f64) / inside;
            if part <= 1.0 {
                return Some(if width <= 1.0 { start } else { start + width * part.max(0.0) });
            }
            below += bucket;
        }
        None
    }

    /// How many values were at most `bound`; exact where `bound` is a bucket's border.
    pub(crate) fn count_up_to(&self, bound: u64) -> u64 {
        self.buckets.iter().take(bucket_of(bound) + 1).sum()
    }

    /// What this summary holds beyond an earlier one of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect();
        Self { buckets, sum: self.sum.saturating_sub(earlier.sum) }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < 16 {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = 63 - value.leading_zeros();
    let eighth = (value >> (power - 3)) & 7;
    (16 + (power as usize - 4) * 8 + usize::try_from(eighth).unwrap_or(0)).min(BUCKETS - 1)
}

fn lower_bound(at: usize) -> u64 {
    if at < 16 {
        return at as u64;
    }
    let (power, eighth) = ((at - 16) / 8 + 4, (at - 16) % 8);
    (8 + eighth as u64) << (power - 3)
}

fn width_of(at: usize) -> u64 {
    if at < 16 { 1 } else { 1 << ((at - 16) / 8 + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_an_eighth_of_the_truth() {
        let histogram = Histogram::default();
        (1..=10_000).for_each(|value| histogram.record(value));
        let mut summary = Summary::default();
        histogram.add_to(&mut summary);
        assert_eq!(summary.count(), 10_000);
        for share in [0.25, 0.5, 0.9, 0.99] {
            let got = summary.quantile(share).unwrap();
            assert!((got / (share * 10_000.0) - 1.0).abs() < 0.125, "{share}: {got}");
        }
        assert_eq!(summary.count_up_to(1_023), 1_023);
    }

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for at in 0..BUCKETS - 1 {
            assert_eq!(lower_bound(at) + width_of(at), lower_bound(at + 1));
            assert_eq!(bucket_of(lower_bound(at)), at);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }
}

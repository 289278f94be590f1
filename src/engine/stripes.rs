//! [`Stripes`]: which rows surely did not change, in little memory and without a lock.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::quality::{FixedState, RandomState};
#[cfg(not(all(test, shuttle)))]
use zerocopy::FromZeros;

use crate::id::Commit;
use crate::sync::SIMULATED;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The hash of a row's address, with keys that each process draws for itself: nobody outside can choose
/// names that meet in one stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowHash(u64);

impl RowHash {
    pub(crate) fn of(row: &[u8]) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        Self(if SIMULATED { FixedState::default().hash_one(row) } else { KEYS.hash_one(row) })
    }
}

/// For each stripe of rows the newest commit that changed any of them.
///
/// A writer marks all rows that its commit changes **before** anybody can read from that commit. So whoever
/// reads from a commit finds its marks and all that are older.
pub(crate) struct Stripes {
    stripes: Box<[AtomicU64]>,
    /// What happened before this commit, they don't know: it was not marked.
    floor: AtomicU64,
}

impl Stripes {
    /// At least this many stripes.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.next_power_of_two();
        // Memory that is zero already: most of it is never written in a small store.
        #[cfg(not(all(test, shuttle)))]
        if let Ok(stripes) = <[AtomicU64]>::new_box_zeroed_with_elems(count) {
            return Self { stripes, floor: AtomicU64::default() };
        }
        Self { stripes: (0..count).map(|_| AtomicU64::default()).collect(), floor: AtomicU64::default() }
    }

    /// Notes that this commit changes the row.
    pub(crate) fn mark(&self, row: RowHash, commit: Commit) {
        self.stripe(row).fetch_max(commit.number(), Ordering::Release);
    }

    /// No commit after this one that can be read from has changed the row.
    pub(crate) fn last(&self, row: RowHash) -> Commit {
        Commit::new(self.stripe(row).load(Ordering::Acquire))
    }

    /// Notes that not all commits before this one were marked. It counts for readers of older commits too: what was read
    /// behind the gap says nothing of what was before it.
    pub(crate) fn raise_floor(&self, commit: Commit) {
        self.floor.fetch_max(commit.number(), Ordering::Release);
    }

    /// Whether a row is the same in both commits for sure, of which one is read from.
    pub(crate) fn is_same(&self, row: RowHash, one: Commit, other: Commit) -> bool {
        let older = one.min(other);
        older.number() >= self.floor.load(Ordering::Acquire) && self.last(row) <= older
    }

    fn stripe(&self, RowHash(hash): RowHash) -> &AtomicU64 {
        let place = hash & (self.stripes.len() as u64 - 1);
        &self.stripes[usize::try_from(place).expect("it is less than the length")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripe_has_the_newest_mark_of_its_rows() {
        let (stripes, row) = (Stripes::new(1), RowHash::of(b"row"));
        assert_eq!(stripes.last(row), Commit::new(0));
        stripes.mark(row, Commit::new(7));
        stripes.mark(RowHash::of(b"another"), Commit::new(5));
        assert_eq!(stripes.last(row), Commit::new(7), "marks only grow");
        assert_eq!(stripes.last(RowHash::of(b"any")), Commit::new(7), "there is but one stripe");
    }

    #[test]
    fn the_number_of_stripes_is_a_power_of_two() {
        for (asked, made) in [(0, 1), (1, 1), (2, 2), (3, 4), (1 << 16, 1 << 16)] {
            assert_eq!(Stripes::new(asked).stripes.len(), made);
        }
    }

    #[test]
    fn rows_are_spread_over_all_stripes() {
        let stripes = Stripes::new(64);
        for number in 0..6400_u32 {
            stripes.mark(RowHash::of(&number.to_be_bytes()), Commit::new(1));
        }
        assert!(stripes.stripes.iter().all(|stripe| stripe.load(Ordering::Relaxed) == 1));
        assert_eq!(RowHash::of(b"row"), RowHash::of(b"row"));
        assert_ne!(RowHash::of(b"row"), RowHash::of(b"wor"));
    }
}

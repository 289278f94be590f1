//! The rows of commits that are in the log and not yet in the table file, in memory, in order.
//!
//! Each version of a row stays beside the older ones until the whole is dropped, so a reader of any
//! commit finds what it must see while later commits are added, and neither waits for the other.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

use crossbeam_skiplist::SkipMap;

use super::wal;
use crate::engine::{RowHash, Stripes};
use crate::error::Result;
use crate::format::{Row, Stored, Value};
use crate::id::Commit;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a version takes in memory besides its bytes, about: a node of the list.
const ROW_OVERHEAD: usize = 128;

#[derive(Default)]
pub(super) struct Memtable {
    versions: SkipMap<Version, ()>,
    bytes: AtomicUsize,
}

/// A row as one commit left it. Ordered by the row, of one row the newest first.
struct Version {
    /// What all rows of the commit share.
    bytes: Arc<[u8]>,
    row: Range<usize>,
    value: Option<Range<usize>>,
    commit: Commit,
}

/// Where a version lies, owned or borrowed.
trait Place {
    fn row(&self) -> &[u8];
    fn commit(&self) -> Commit;
}

impl Memtable {
    /// Adds what commits wrote, as it is in the log, and marks the rows.
    pub(super) fn insert(&self, commits: &Arc<[u8]>, stripes: &Stripes) -> Result<()> {
        let mut rows = 0;
        wal::read_commits(commits, |commit, row| {
            if let Some((row, value)) = row {
                rows += 1;
                stripes.mark(RowHash::of(&commits[row.clone()]), commit);
                self.versions.insert(Version { bytes: commits.clone(), row, value, commit }, ());
            }
        })?;
        self.bytes.fetch_add(commits.len() + rows * ROW_OVERHEAD, Relaxed);
        Ok(())
    }

    /// How much memory it takes, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Shows the row as a reader of `commit` sees it, unless the last commit that wrote it deleted it. `false`
    /// if no commit up to that one wrote it here.
    pub(super) fn with_row(&self, row: &[u8], commit: Commit, see: &mut dyn FnMut(Value<'_>)) -> bool {
        let place: &dyn Place = &(row, commit);
        let found = self.versions.lower_bound(Bound::Included(place));
        let Some(found) = found.filter(|found| found.key().row() == row) else { return false };
        found.key().value().into_iter().for_each(see);
        true
    }

    /// The rows of a range as a reader of `commit` sees them, in order, deleted ones as `None`.
    pub(super) fn scan(
        &self,
        (from, to): crate::engine::Range<'_>,
        commit: Commit,
    ) -> impl Iterator<Item = (Row, Option<Stored>)> {
        let first = match from {
            // The newest version of a row is its first, the oldest its last.
            Bound::Included(row) => {
                self.versions.lower_bound(Bound::Included(&(row, Commit::new(u64::MAX)) as &dyn Place))
            }
            Bound::Excluded(row) => {
                self.versions.lower_bound(Bound::Excluded(&(row, Commit::default()) as &dyn Place))
            }
            Bound::Unbounded => self.versions.front(),
        };
        let to = to.map(<[u8]>::to_vec);
        let mut next = first;
        std::iter::from_fn(move || {
            loop {
                let entry = next.take()?;
                let version = entry.key();
                let inside = match &to {
                    Bound::Included(to) => version.row() <= to.as_slice(),
                    Bound::Excluded(to) => version.row() < to.as_slice(),
                    Bound::Unbounded => true,
                };
                if !inside {
                    return None;
                }
                let row = version.row();
                if version.commit > commit {
                    let seen: &dyn Place = &(row, commit);
                    next = self.versions.lower_bound(Bound::Included(seen));
                    continue;
                }
                // Most rows have one version; of others, the older ones are passed over at once.
                next = entry.next();
                if next.as_ref().is_some_and(|next| next.key().row() == row) {
                    let oldest: &dyn Place = &(row, Commit::default());
                    next = self.versions.lower_bound(Bound::Excluded(oldest));
                }
                return Some((row.to_vec(), version.value().map(Value::to_stored)));
            }
        })
    }
}

impl Version {
    /// What the row holds; `None` if it was deleted.
    fn value(&self) -> Option<Value<'_>> {
        Some(Value { bytes: &self.bytes[self.value.clone()?], commit: self.commit })
    }
}

impl Place for Version {
    fn row(&self) -> &[u8] {
        &self.bytes[self.row.clone()]
    }

    fn commit(&self) -> Commit {
        self.commit
    }
}

impl Place for (&[u8], Commit) {
    fn row(&self) -> &[u8] {
        self.0
    }

    fn commit(&self) -> Commit {
        self.1
    }
}

impl<'a> Borrow<dyn Place + 'a> for Version {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.row().cmp(other.row()).then_with(|| other.commit().cmp(&self.commit()))
    }
}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for dyn Place + '_ {}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn Place).cmp(other as &dyn Place)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

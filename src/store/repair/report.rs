//! [`RepairReport`]: what a repair did, what it could not do, and what it can't know.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::Position;
use crate::id::Commit;

/// What a [repair](crate::repair()) did, what it could not do, and what it can't know.
///
/// Only a report that [is complete](Self::complete) says that the new store has all that the damaged one had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was rebuilt or left out, without any loss.
    pub repaired: Vec<Finding>,
    /// What is lost, and what was left out for that.
    pub lost: Vec<Finding>,
    /// Where something may be missing, or be as it was at an earlier moment, and nothing tells what: pages that do not
    /// fit their checksums, rows that were in them, commits of a write-ahead log that is missing or damaged.
    pub may_be_missing: Vec<Finding>,
    /// How many findings there are besides: each list has at most [`FINDINGS_MAX`](Self::FINDINGS_MAX).
    pub not_kept: u64,
    /// How many pages of the file did not fit their checksums, besides those that were healed.
    pub damaged_pages: u64,
    /// How many pages of the file had one flipped bit. The checksum of a page tells when the right bit was flipped back,
    /// so nothing is missing for them. Of some 64 pages this is tried.
    pub healed_pages: u64,
    /// What became of the write-ahead log beside the file.
    pub wal: WalUse,
    /// Behind the first commit of the new store, in its own incarnation.
    pub position: Position,
    /// Rows of all kinds, those of the history not counted.
    pub rows: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl RepairReport {
    /// How many findings of each kind are kept; the rest is counted.
    pub const FINDINGS_MAX: usize = 10_000;

    /// Whether the new store has all that was committed to the damaged one, as it was last: nothing is lost, nothing
    /// may be missing or older than it was, and every page of the file fits its checksum, or did before one bit was flipped.
    ///
    /// What no page tells is not seen: if the newest pages of a file were lost all together, with the first page, the
    /// file is what it was before, and complete. Nor is it seen if a write-ahead log ends earlier than it did, without
    /// a trace of what was behind.
    pub fn complete(&self) -> bool {
        self.lost.is_empty() && self.may_be_missing.is_empty() && self.damaged_pages == 0
    }
}

/// One thing that a [repair](crate::repair()) met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The address of the row, as `docs/format.md` draws it; what is not ASCII text is escaped. Empty if it is about no
    /// single row.
    pub row: String,
    /// What was done, in words.
    pub what: String,
}

/// What became of the write-ahead log beside a damaged file, in a [repair](crate::repair()).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WalUse {
    /// There is none, and the file does not say that it needs one.
    None,
    /// The file has all that is in it.
    NotNeeded,
    /// It was used, up to this commit.
    Used {
        /// The newest commit that was taken from it.
        up_to: Commit,
    },
    /// The file says that it needs it, and it is not there.
    Missing,
    /// It was not used.
    NotUsed {
        /// Why not.
        why: String,
    },
}

//! The seam: what an engine must do for a store. An engine knows only bytes, no records.
//!
//! A writing transaction reads single rows and never scans, so any engine that can compare single
//! rows at its commit can run it. What it writes is staged above the seam and handed over as one
//! batch, so a transaction that is refused, or changes nothing, never reaches the engine.

mod bell;
pub(crate) mod boot;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod direct;
pub(crate) mod disk;
pub(crate) mod embedded;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
mod load;
pub(crate) mod lock_holder;
#[cfg(test)]
mod lock_tests;
pub(crate) mod lock_wait;
mod newest;
pub(crate) mod redb;
#[cfg(test)]
pub(crate) mod scripted;
mod seal;
pub(crate) mod simulated;
mod stripes;
mod wal_id;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

pub use disk::Storage;
#[cfg(all(test, feature = "etcd"))]
pub(crate) use etcd::LeftOut;
#[cfg(feature = "etcd")]
pub use etcd::{ClusterStats, Etcd};
pub(crate) use newest::{Newest, Reading};
pub(crate) use stripes::{RowHash, Stripes};

use crate::error::Result;
use crate::format::{Row, Stored, Value};
use crate::id::Commit;

pub(crate) use self::redb::{DamagedPage, Draft, Instead, LogState, NewerCommit, Places, Salvage, Salvaged};
pub(crate) use load::{Load, LoadedRow};

/// What a commit writes: a value, or `None` for a row to be deleted.
pub(crate) type Batch = BTreeMap<Row, Option<Vec<u8>>>;

/// What a commit does to the log, in which the entries of commits lie in their order.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Log<'a> {
    /// The entry of this commit.
    pub(crate) append: Option<&'a [u8]>,
    /// Up to and with this commit, the entries go.
    pub(crate) trim: Option<Commit>,
}

/// A range of addresses.
pub(crate) type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Where the rows are kept.
pub(crate) trait Engine: Send + Sync {
    /// The newest durable commit, to be read from.
    fn begin_read(&self) -> Result<Reading>;

    /// The newest commit, to be read from and built upon. On an engine with one writer it waits for
    /// the transaction before it to end.
    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>>;

    /// Waits until there is a durable commit after this one, the time is over, or
    /// [`stop_waiting`](Self::stop_waiting) was called.
    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited>;

    /// Ends all waiting, now and from now on.
    fn stop_waiting(&self);

    /// Whether commits are numbered one after the other, so that the number of the next is known before it is made:
    /// that of the commit that was read, and one. Only such an engine takes a [`load`](WriteTransaction::load).
    fn knows_next_commit(&self) -> bool;

    /// Returns when all that was committed before is where it stays, and no longer in the write-ahead log only.
    fn checkpoint(&self) -> Result<()>;

    /// Compares pages of the newest commit with the checksums by which they are named, about as many bytes as are asked
    /// for, from where the last round ended; `None` on an engine whose pages are not in files of the store.
    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>>;

    /// What the engine did and knows.
    fn stats(&self) -> EngineStats;
}

/// What engines did and know.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineStats {
    /// Of the write-ahead log and its checkpoints; `None` without one.
    pub(crate) wal: Option<LogStats>,
    /// Of the pages; `None` if they are not in files of the store.
    pub(crate) pages: Option<PageState>,
}

/// Pages that were read one after the other.
#[derive(Debug, Default)]
pub(crate) struct PageRound {
    /// To go on from; `None` at the end.
    pub(crate) next: Option<Vec<u8>>,
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
    /// Where in the file pages lie that are not what they should be, and what is wrong.
    pub(crate) damaged: Vec<(u64, &'static str)>,
}

/// What an engine knows of its pages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageState {
    pub(crate) stats: PageStats,
    pub(crate) locks: LockStats,
    /// Whether the file was not closed by who wrote it last.
    pub(crate) unclean: bool,
    /// How long the file is.
    pub(crate) bytes: u64,
}

/// How the pages of a store's table are; see [`Stats`](crate::Stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PageStats {
    /// How many pages were found damaged since the store was opened, by a read or by a
    /// [check](crate::Store::check_pages): from the first on, writes are refused.
    pub damaged: u64,
    /// How many checks of all pages came to their end since the store was opened.
    pub checks: u64,
    /// How many bytes were read by checks, also by one that runs.
    pub checked_bytes: u64,
}

/// How the store waited for locks on its file that other processes hold; see [`Stats`](crate::Stats).
///
/// Processes that read a store hold a lock on the header of its file for microseconds, when a read begins. If such a process
/// is stopped just then, what writes the table waits for it: that is to be seen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LockStats {
    /// How often a lock was not to be had at once.
    pub waits: u64,
    /// The longest wait, the one that goes on now included.
    pub longest: Duration,
    /// How long a wait goes on now; `None` if nothing waits.
    pub waiting: Option<Duration>,
}

/// How [`Store::wait`](crate::Store::wait) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// There are commits that were asked for.
    Committed,
    /// The time was over first.
    TimedOut,
    /// The store is being closed.
    Closed,
}

/// Single rows and entries of the changelog, as one commit left them: all that operations read.
pub(crate) trait RowSource {
    /// The number of that commit.
    fn commit_read(&self) -> Commit;

    /// The rows at these addresses, in one round trip, each `None` if there is none.
    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>>;

    /// Shows the row at this address where it lies, if there is one.
    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()>;

    /// The entry of a commit in the changelog, if there is one.
    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>>;
}

/// One commit, as it was: what came after is not seen.
pub(crate) trait ReadTransaction: RowSource + Send + Sync {
    /// Whether the row with this hash surely holds here what it held at that commit, earlier or later.
    /// What is read is cached only with an engine that can tell.
    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool;

    /// Shows the first rows of a range where they lie, at most `limit`, in the order of their addresses. A
    /// row that is damaged is an error in its place; an error of the whole means that nothing can be read
    /// there.
    fn with_rows(
        &self,
        range: Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()>;

    /// The first entries of the changelog after a commit, at most `limit`, in order. Damage as in
    /// [`with_rows`](Self::with_rows).
    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>>;

    /// About how many rows and entries of the log there are, if that can be told without counting them; to tell
    /// how far a walk is.
    fn length(&self) -> Result<Option<u64>>;

    /// Looks through what the engine keeps for itself, if that is more than rows. Damage there may hide rows,
    /// so that a scan does not see that they are missing: it is `Corrupted`.
    fn audit(&self) -> Result<()>;
}

impl dyn ReadTransaction + '_ {
    /// The number of the commit.
    pub(crate) fn commit(&self) -> Commit {
        self.commit_read()
    }

    /// The rows that [`with_rows`](Self::with_rows) shows, copied.
    pub(crate) fn scan(&self, range: Range<'_>, limit: usize) -> Result<Vec<(Row, Result<Stored>)>> {
        let mut scanned = Vec::new();
        self.with_rows(range, limit, &mut |row, value| {
            scanned.push((row.to_vec(), value.map(Value::to_stored)));
        })?;
        Ok(scanned)
    }
}

/// A transaction that may commit. What it reads is of the newest commit.
pub(crate) trait WriteTransaction: RowSource {
    /// Ends without writing, and returns when all that was read is durable, and was there at one moment: what
    /// the transaction found, also a refusal, may then be told. If it was not, that is a `Conflict`.
    fn end(self: Box<Self>) -> Result<()>;

    /// Writes the batch and the log, all of it or nothing, and returns when it is durable. It fails with
    /// `Conflict` if a row that was read has changed since, with `CommitUnknown` if the outcome can't
    /// be told.
    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit>;

    /// Writes many commits, the first of them the next, and returns the last when
    /// they are durable; if there are none, nothing is written. They were made out upon their
    /// [base](Load::base), so it is a `Conflict` if that is not the newest commit. Each keeps within the limits of a transaction, and an engine
    /// may write them one by one; one that can writes all of them or nothing. It fails as
    /// [`commit`](Self::commit) does.
    fn load(self: Box<Self>, load: &Load) -> Result<Commit>;
}

/// What the write-ahead log of a store did since the store was opened; see [`Stats`](crate::Stats).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LogStats {
    /// How many commits became durable.
    pub commits: u64,
    /// In how many groups: each is one write and one sync.
    pub groups: u64,
    /// The bytes of all groups.
    pub bytes: u64,
    /// The time that the writes and syncs of all groups took.
    pub sync_time: Duration,
    /// The longest of them.
    pub sync_time_max: Duration,
    /// How many checkpoints brought the table file up to date.
    pub checkpoints: u64,
    /// The time that all of them took, in the background.
    pub checkpoint_time: Duration,
    /// The longest of them.
    pub checkpoint_time_max: Duration,
    /// How often a write had to wait for a checkpoint, because the log was full.
    pub waits_for_checkpoint: u64,
    /// Whether a checkpoint runs now.
    pub checkpointing: bool,
    /// How many commits are in the log and not in the table file, now.
    pub commits_behind: u64,
    /// How much memory their rows take now, about, in bytes.
    pub memory_bytes: u64,
}

impl LogStats {
    fn note_group(&mut self, commits: u64, bytes: usize, took: Duration) {
        self.commits += commits;
        self.groups += 1;
        self.bytes += bytes as u64;
        self.sync_time += took;
        self.sync_time_max = self.sync_time_max.max(took);
    }

    fn note_checkpoint(&mut self, took: Duration) {
        self.checkpoints += 1;
        self.checkpoint_time += took;
        self.checkpoint_time_max = self.checkpoint_time_max.max(took);
    }
}

//! The seam: what an engine must do for a store. An engine knows only bytes, no records.
//!
//! A writing transaction reads single rows and never scans, so any engine that can compare single
//! rows at its commit can run it. What it writes is staged above the seam and handed over as one
//! batch, so a transaction that is refused, or changes nothing, never reaches the engine.

#[cfg(test)]
pub(crate) mod conformance;
mod load;
pub(crate) mod redb;
#[cfg(test)]
pub(crate) mod scripted;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::format::{Row, Stored};
use crate::id::Commit;

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
    fn begin_read(&self) -> Result<Arc<dyn ReadTransaction>>;

    /// The newest commit, to be read from and built upon. On an engine with one writer it waits for
    /// the transaction before it to end.
    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>>;

    /// Waits until there is a durable commit after this one, the time is over, or
    /// [`stop_waiting`](Self::stop_waiting) was called.
    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited>;

    /// Ends all waiting, now and from now on.
    fn stop_waiting(&self);
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

/// One commit, as it was: what came after is not seen.
pub(crate) trait ReadTransaction: Send + Sync {
    /// Its number.
    fn commit(&self) -> Commit;

    /// The rows at these addresses, in one round trip, each `None` if there is none.
    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>>;

    /// The first rows of a range, at most `limit`, in the order of their addresses. A row that is
    /// damaged is an error in its place; an error of the whole means that nothing can be read there.
    fn scan(&self, range: Range<'_>, limit: usize) -> Result<Vec<(Row, Result<Stored>)>>;

    /// The entry of a commit in the log, if there is one.
    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>>;

    /// The first entries of the log after a commit, at most `limit`, in order. Damage as in
    /// [`scan`](Self::scan).
    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>>;
}

/// A transaction that may commit.
pub(crate) trait WriteTransaction {
    /// The number of the commit that it reads.
    fn commit_read(&self) -> Commit;

    /// The number that its own commit will have.
    fn next_commit(&self) -> Commit;

    /// As [`ReadTransaction::get`].
    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>>;

    /// As [`ReadTransaction::log_entry`].
    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>>;

    /// Writes the batch and the log, all of it or nothing, and returns when it is durable. It fails with
    /// `Conflict` if a row that was read has changed since, with `CommitUnknown` if the outcome can't
    /// be told.
    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit>;

    /// Writes many commits, the first of them [`next_commit`](Self::next_commit), and returns the last when
    /// they are durable; if there are none, nothing is written. They were made out upon their
    /// [base](Load::base), so it is a `Conflict` if that is not the newest commit. Each keeps within the limits of a transaction, and an engine
    /// may write them one by one; one that can writes all of them or nothing. It fails as
    /// [`commit`](Self::commit) does.
    fn load(self: Box<Self>, load: &Load) -> Result<Commit>;
}

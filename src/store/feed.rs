//! The changes of the whole store in their order, and how much of them is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{OnlyWrite, Store};
use crate::change::{CommitRecord, Position};
use crate::engine::{Log, Waited};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::page::Limit;
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::txn::{changes_after, floor_of, trim_step};

/// Commits in their order, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changes {
    /// Commits that changed keys or aliases. Numbers may be missing, changes are not.
    pub commits: Vec<CommitRecord>,
    /// Behind everything that was returned here or before.
    pub position: Position,
}

/// The feed of changes. For the platform: it tells of all scopes.
impl Store {
    /// The newest position: behind the newest commit.
    pub fn position(&self) -> Result<Position> {
        Ok(self.position_after(self.inner.engine.begin_read()?.commit()))
    }

    /// The position behind a commit of this store, such as that of a [`Snapshot`](crate::Snapshot): whoever read
    /// something there learns by [`changes`](Self::changes) after it what happened since.
    pub fn position_after(&self, commit: Commit) -> Position {
        Position { incarnation: self.inner.incarnation, commit }
    }

    /// The changes of the whole store behind a position, or from the beginning: commit by commit,
    /// whole ones, at most `limit`, in their order, without gaps. For the platform.
    ///
    /// A page that is full, by `limit` or by 4 MiB, ends with its last entry, even if there are only commits
    /// without changes behind it; any other ends with the newest commit. A position behind commit 0 is the beginning.
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled),
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore),
    /// [`HistoryTrimmed`](Error::HistoryTrimmed) if something behind the position was trimmed: read the
    /// present state anew and go on from there. [`CommitNotFound`](Error::CommitNotFound) for a
    /// position that is not reached yet.
    pub fn changes(&self, after: Option<&Position>, limit: Limit) -> Result<Changes> {
        self.must_have_history()?;
        let after = after.map_or(Ok(Commit::default()), |position| self.commit_of(position))?;
        let rows = self.inner.engine.begin_read()?;
        let (commits, last) = changes_after(&*rows, after, limit.get())?;
        Ok(Changes { commits, position: self.position_after(last) })
    }

    /// Waits until there is a durable commit behind a position, so that
    /// [`changes`](Self::changes) has something to tell, or the time is over, or the store is
    /// [closed](Self::close). A commit that changed no record wakes too: one of pruning, or one that only
    /// keeps the outcome of a request. Where the writer is another process, it may come 10 ms late. It
    /// blocks the thread, and works in a store without history.
    ///
    /// # Errors
    ///
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore), [`Io`](Error::Io).
    pub fn wait(&self, after: &Position, timeout: Duration) -> Result<Waited> {
        self.inner.engine.wait(self.commit_of(after)?, timeout)
    }

    /// Says that the store is to be closed: everyone who [waits](Self::wait), on any handle, is woken,
    /// and nobody waits any more. Reads and writes go on; the store is closed when its last handle is
    /// dropped.
    pub fn close(self) {
        self.inner.engine.stop_waiting();
    }

    /// Up to which commit the history was trimmed, a commit whose changes were; 0 if it is whole.
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled).
    pub fn history_floor(&self) -> Result<Commit> {
        self.must_have_history()?;
        Ok(floor_of(&*self.inner.engine.begin_read()?)?.commit)
    }

    /// Removes the history up to and with a commit, in transactions of up to 100 entries each, now and
    /// whatever [`Retention`](crate::Retention) says. Present records stay as they are. Returns the
    /// floor: asking for what lies below is [`HistoryTrimmed`](Error::HistoryTrimmed) from then on. For
    /// the platform.
    ///
    /// The floor is always a commit whose changes were trimmed: the newest one up to `to` that changed a
    /// record. If there is none behind the present floor, nothing changes, no commit is made, and the
    /// present floor is returned. `to` may be any number up to the newest commit, also one that a restore
    /// left out.
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled), [`CommitNotFound`](Error::CommitNotFound) for a
    /// commit to come, and those of [`write`](Self::write).
    pub fn trim_history(&self, to: Commit) -> Result<Commit> {
        let trim = || self.trim_up_to(to);
        telemetry::told(Call::TrimHistory, Place::default(), trim, |floor| Summary {
            commit: Some(*floor),
            ..Summary::default()
        })
    }

    fn trim_up_to(&self, to: Commit) -> Result<Commit> {
        self.must_have_history()?;
        let rows = self.inner.engine.begin_read()?;
        if to > rows.commit() {
            return Err(Error::CommitNotFound(to));
        }
        let (floor, length) = (floor_of(&*rows)?.commit.number(), rows.length()?);
        drop(rows);
        // As many as the numbers, unless a restore left some out.
        let total = to.number().saturating_sub(floor);
        progress::begin("trimming", length.map(|length| total.min(length)));
        while let Some(trimmed) = self.trim(to, |_| true)? {
            progress::at(trimmed.number().saturating_sub(floor).min(total));
        }
        self.history_floor()
    }

    /// Carries out one step of trimming; returns the new floor, or `None` if nothing was left to do.
    pub(super) fn trim(&self, to: Commit, may_go: impl Fn(&CommitRecord) -> bool) -> Result<Option<Commit>> {
        let _only = OnlyWrite::on_this_thread()?;
        self.inner.engine.retry_on_conflict(|attempt| {
            let transaction = self.inner.engine.begin_attempt(attempt)?;
            let rows = self.inner.engine.begin_read()?;
            let step = trim_step(&*rows, &*transaction, to, &may_go);
            let Ok(Some((batch, floor))) = step else {
                transaction.end()?;
                return step.map(|_| None);
            };
            transaction.commit(&batch, Log { append: None, trim: Some(floor) })?;
            Ok(Some(floor))
        })
    }

    pub(super) fn must_have_history(&self) -> Result<()> {
        if self.inner.policy.history { Ok(()) } else { Err(Error::HistoryDisabled) }
    }

    pub(super) fn commit_of(&self, position: &Position) -> Result<Commit> {
        if position.incarnation == self.inner.incarnation {
            Ok(position.commit)
        } else {
            Err(Error::PositionOfAnotherStore)
        }
    }
}

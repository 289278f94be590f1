//! Commits: each builds on the one before it, they are written to the log in groups, and published when that is synced.

use std::io;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Instant;

#[cfg(test)]
use super::Sabotage;
use super::memtable::Memtable;
use super::snapshot::Snapshot;
use super::wal::{self, Mark, RedoLog, Segment};
use super::{Shared, State};
use crate::engine::redb::{LogState, log_row};
use crate::engine::{Batch, Load, Log, RowSource, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{Stored, Value};
use crate::id::Commit;
use crate::sync::{MutexGuard, SIMULATED, thread};
use crate::telemetry;

/// The most bytes of commits in a group, unless it is one commit that has more.
const GROUP_BYTES: usize = 1 << 20;

/// How often a thread looks whether the writer is free before it sleeps.
const YIELDS_MAX: u32 = if SIMULATED { 1 } else { 100 };

/// Where the next commit goes.
pub(super) struct Writer {
    /// The newest commit, durable or not.
    pub(super) newest: Commit,
    /// The segment of the log, and how many bytes of it are spoken for.
    pub(super) segment: Segment,
    pub(super) used: u64,
    /// Whether the table file says that it needs the log.
    pub(super) in_use: bool,
    /// Whether a commit was made since the store was opened: the first goes to the table, because many a process makes no
    /// other, and then needs no log.
    pub(super) has_written: bool,
}

/// Commits that are written and synced together.
pub(super) struct Group {
    pub(super) number: u64,
    pub(super) segment: Segment,
    pub(super) last: Commit,
    pub(super) count: u64,
    pub(super) commits: Vec<u8>,
}

pub(super) struct EmbeddedWrite<'a> {
    pub(super) shared: &'a Shared,
    pub(super) snapshot: Snapshot,
    pub(super) writer: MutexGuard<'a, Writer>,
}

impl RowSource for EmbeddedWrite<'_> {
    fn commit_read(&self) -> Commit {
        self.snapshot.commit
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.snapshot.get(rows)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.snapshot.with_row(row, see)
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.snapshot.changelog_entry(commit)
    }
}

impl WriteTransaction for EmbeddedWrite<'_> {
    fn end(self: Box<Self>) -> Result<()> {
        let (shared, read) = (self.shared, self.snapshot.commit);
        drop(self);
        #[cfg(test)]
        if shared.is_sabotaged(Sabotage::EndDoesNotWait) {
            return Ok(());
        }
        // What was read is lost if it can't be made durable, and nothing was written on top of it.
        shared.make_durable(read).map_err(|_| Error::Poisoned)
    }

    fn load(self: Box<Self>, load: &Load) -> Result<Commit> {
        let Self { shared, snapshot, mut writer } = *self;
        if load.base() != snapshot.commit {
            return Err(Error::Conflict);
        }
        if !load.is_empty() {
            writer.has_written = true;
            shared.load(&mut writer, load)?;
        }
        Ok(load.last_commit())
    }

    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        let commit = Commit::new(self.snapshot.commit.number() + 1);
        let Self { shared, snapshot, mut writer } = *self;
        let own = log_row(commit);
        let trimmed = match log.trim {
            Some(trim) => snapshot.log_rows_up_to(trim)?,
            None => Vec::new(),
        };
        let rows = batch.iter().map(|(row, value)| (row.as_slice(), value.as_deref()));
        let rows = rows.chain(log.append.map(|entry| (own.as_slice(), Some(entry))));
        let rows = rows.chain(trimmed.iter().map(|row| (row.as_slice(), None)));
        let bytes: Arc<[u8]> = match wal::encode_commit(commit, rows) {
            Ok(bytes) => bytes.into(),
            Err(refused) => {
                // That it is too large may be because of what is not durable yet.
                drop(writer);
                shared.make_durable(snapshot.commit).map_err(|_| Error::Poisoned)?;
                return Err(refused);
            }
        };
        let frame_bytes = wal::frame_bytes(bytes.len());
        let is_first = !std::mem::replace(&mut writer.has_written, true) && !writer.in_use;
        if is_first || shared.log_source.is_none() {
            shared.commit_to_table(&mut writer, commit, &bytes)?;
            return Ok(commit);
        }
        shared.use_log(&mut writer)?;
        if frame_bytes > writer.segment.length {
            shared.commit_to_table(&mut writer, commit, &bytes)?;
            shared.make_larger(&mut writer, frame_bytes);
            return Ok(commit);
        }
        shared.make_room(&mut writer, frame_bytes)?.insert(&bytes, &shared.stripes)?;
        writer.newest = commit;
        shared.lock().queue(writer.segment, commit, &bytes);
        // From here on the next transaction runs, on top of this one.
        drop(writer);
        #[cfg(test)]
        if shared.is_sabotaged(Sabotage::CommitDoesNotWait) && commit.number().is_multiple_of(2) {
            return Ok(commit);
        }
        shared.make_durable(commit)?;
        Ok(commit)
    }
}

impl State {
    pub(super) fn queue(&mut self, segment: Segment, commit: Commit, commits: &[u8]) {
        let open = self.groups.back_mut();
        let open = open
            .filter(|group| group.segment == segment && group.commits.len() + commits.len() <= GROUP_BYTES);
        if let Some(group) = open {
            group.commits.extend(commits);
            group.last = commit;
            group.count += 1;
            return;
        }
        let number = self.next_group;
        self.next_group += 1;
        self.groups.push_back(Group { number, segment, last: commit, count: 1, commits: commits.to_vec() });
    }

    /// The number of the group that a commit which is not durable is in.
    fn group_of(&self, commit: Commit) -> u64 {
        let writing = self.writing.filter(|(_, last)| commit <= *last).map(|(number, _)| number);
        let waiting = || self.groups.iter().find(|group| commit <= group.last).map(|group| group.number);
        writing.or_else(waiting).unwrap_or_default()
    }
}

impl Shared {
    /// Waits for the transaction that runs to end. It takes microseconds, less than to be put to sleep and
    /// woken: so a thread looks a few times before.
    pub(super) fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        for _ in 0..YIELDS_MAX {
            match self.writer.try_lock() {
                Ok(writer) => return writer,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that there is a log, and that the table file says that it needs it, before the first commit is in there.
    ///
    /// # Errors
    ///
    /// Nothing of this commit was written then.
    pub(super) fn use_log(&self, writer: &mut Writer) -> Result<()> {
        if writer.in_use {
            return Ok(());
        }
        let log = self.log_to_use(writer)?;
        // First, so that who finds the log in use finds that its mark says so.
        let mut state = self.lock();
        let durable = state.durable;
        let told = self.publish(&mut state, durable, |mark| mark.closed = false);
        drop(state);
        let in_use = LogState::InUse { id: log.id(), floor: Commit::default() };
        if let Err(error) = told.and_then(|()| self.table.mark(in_use)) {
            self.fail(&error);
            // Whatever came of it, nothing of this commit was written.
            return Err(match error {
                Error::Io(_) => error,
                other => io::Error::other(other.to_string()).into(),
            });
        }
        writer.in_use = true;
        Ok(())
    }

    /// The log, which is made or opened if it was not needed up to now.
    pub(super) fn log_to_use(&self, writer: &mut Writer) -> Result<Arc<RedoLog>> {
        if let Some(log) = self.lock().log.clone() {
            return Ok(log);
        }
        let source = self.log_source.as_ref();
        let source = source.ok_or_else(|| io::Error::other("this store has no log"))?;
        let log = Arc::new(source.open(&self.table)?);
        // First, so that a log whose mark is not locked is not used.
        log.lock_mark()?;
        writer.segment = log.end().segment;
        writer.used = 0;
        let mut state = self.lock();
        state.mark = Mark { end: log.end(), ..state.mark };
        state.log = Some(log.clone());
        drop(state);
        Ok(log)
    }

    /// Waits until a frame of this many bytes has a place in the log and its rows one in memory, and
    /// returns where the rows go.
    pub(super) fn make_room(&self, writer: &mut Writer, frame_bytes: u64) -> Result<Arc<Memtable>> {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if state.failed.is_some() {
                return Err(Error::Poisoned);
            }
            let full = writer.used + frame_bytes > writer.segment.length;
            let due = full || state.view.active.bytes() >= self.checkpoint_bytes;
            if full {
                self.want_growth(&mut state, writer);
            }
            match &state.view.frozen {
                None if due && !state.view.active.is_empty() => self.freeze(&mut state, writer),
                // The segment may be one from which the checkpoint is still to be made.
                Some(frozen) if full || frozen.oldest_sequence + 2 <= writer.segment.sequence => {
                    if !waited {
                        state.stats.waits_for_checkpoint += 1;
                    }
                    waited = true;
                    state = self.checkpointed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                _ => {
                    writer.used += frame_bytes;
                    return Ok(state.view.active.clone());
                }
            }
        }
    }

    /// Returns when this commit is in the log for good. Whoever comes first writes for all that wait.
    pub(super) fn make_durable(&self, commit: Commit) -> Result<()> {
        let mut state = self.lock();
        loop {
            if state.durable >= commit {
                return Ok(());
            }
            if let Some(why) = &state.failed {
                return Err(Error::CommitUnknown(why.clone()));
            }
            let next = if state.writing.is_none() { state.groups.pop_front() } else { None };
            if let (Some(group), Some(log)) = (next, state.log.clone()) {
                state.writing = Some((group.number, group.last));
                drop(state);
                state = self.write(&group, &log);
            } else {
                let group = state.group_of(commit);
                let condvar = &self.written[usize::from(!group.is_multiple_of(2))];
                state = condvar.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes a group, publishes its commits, and wakes those who wait for that.
    #[expect(clippy::disallowed_methods, reason = "it is measured how long a sync takes")]
    fn write(&self, group: &Group, log: &RedoLog) -> MutexGuard<'_, State> {
        #[cfg(test)]
        if self.is_sabotaged(Sabotage::PublishBeforeSync) {
            let state = self.lock();
            self.show(&state, group.last);
        }
        let started = Instant::now();
        let written = log.append(group.segment, &group.commits);
        let took = started.elapsed();
        let mut state = self.lock();
        state.writing = None;
        let own = usize::from(!group.number.is_multiple_of(2));
        let published = written
            .map_err(Error::from)
            .and_then(|end| self.publish(&mut state, group.last, |mark| mark.end = end));
        match published {
            Ok(()) => {
                state.stats.note_group(group.count, group.commits.len(), took);
                self.bell.ring(group.last);
                self.written[own].notify_all();
                #[cfg(all(test, shuttle))]
                if self.is_sabotaged(Sabotage::NextGroupIsNotWoken) {
                    return state;
                }
                self.written[1 - own].notify_one();
                drop(state);
                telemetry::log_synced(group.count, group.commits.len(), took);
            }
            Err(error) => {
                #[cfg(all(test, shuttle))]
                if self.is_sabotaged(Sabotage::FailureIsNotedLate) {
                    drop(state);
                    self.fail(&error);
                    return self.lock();
                }
                // While the lock is held: nobody may append where this failed.
                self.fail_with(state, &error);
            }
        }
        self.lock()
    }
}

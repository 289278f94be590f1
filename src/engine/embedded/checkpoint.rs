//! The checkpoint: what is in memory goes to the table, in the background, and by bulk loads.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::commit::Writer;
use super::snapshot::{Frozen, View};
use super::wal::{log_bytes, read_commits};
use super::{Growth, Shared, State};
use crate::engine::redb::{LogState, RedbRead};
use crate::engine::{Load, RowHash};
use crate::error::{Error, Result};
use crate::format::Stored;
use crate::id::Commit;
use crate::sync::MutexGuard;
use crate::telemetry;

/// How many rows a checkpoint writes in one commit of the table file. Until that is done redb keeps the
/// pages of before, and the log's syncs wait behind its own: so a few thousand pages at most. Each commit
/// has two syncs and some pages of its own: so not fewer rows than this.
#[cfg(not(test))]
const PART_ROWS: usize = 2000;
/// So few that each checkpoint has several parts.
#[cfg(test)]
const PART_ROWS: usize = 5;

impl Shared {
    /// Gives the active memtable to the checkpoint, and begins another with the next segment.
    pub(super) fn freeze(&self, state: &mut State, writer: &mut Writer) {
        let oldest_sequence = writer.segment.sequence;
        let frozen = Frozen { rows: state.view.active.clone(), last: writer.newest, oldest_sequence };
        let base = state.view.base.clone();
        state.view = Arc::new(View { active: Arc::default(), frozen: Some(Arc::new(frozen)), base });
        if let Some(log) = &state.log {
            writer.segment = log.next(writer.segment);
        }
        writer.used = 0;
        self.work.notify_all();
    }

    /// Asks for larger segments, because one is full before it was time for a checkpoint. Not before the segment that is
    /// written has what was asked for last.
    pub(super) fn want_growth(&self, state: &mut State, writer: &Writer) {
        let Some(log) = &state.log else { return };
        let (now, larger) = (log.segment_bytes(), log_bytes(2 * log.segment_bytes()));
        let is_due = now == writer.segment.length && larger <= self.log_bytes_max;
        if is_due && state.growth == Growth::None {
            state.growth = Growth::Wanted;
            self.work.notify_all();
        }
    }

    /// After a commit that fits into no segment, and went to the table with all that was before it: goes on with larger
    /// segments if there are, and asks for such if it would fit into the largest that there may be.
    pub(super) fn make_larger(&self, writer: &mut Writer, frame_bytes: u64) {
        let mut state = self.lock();
        let Some(log) = state.log.clone() else { return };
        let mut largest = log.segment_bytes();
        while log_bytes(2 * largest) <= self.log_bytes_max {
            largest *= 2;
        }
        while writer.segment.length < log.segment_bytes() {
            // One with an odd sequence is the first that is larger. Nothing is left out: nothing is in the log only.
            writer.segment = log.next(writer.segment);
            writer.used = 0;
        }
        if writer.segment.length < frame_bytes && frame_bytes <= largest {
            self.want_growth(&mut state, writer);
        }
    }

    /// Makes room for larger segments. Without space for them, those that there are have to do.
    fn grow(&self) {
        let log = self.lock().log.clone();
        let grown = log.map_or(Ok(()), |log| log.grow());
        let growth = if grown.is_ok() { Growth::None } else { Growth::Impossible };
        self.lock().growth = growth;
        if let Err(error) = grown {
            telemetry::log_not_grown(&error);
        }
    }

    /// Writes many commits to the table file, past the log: they are durable there too.
    pub(super) fn load(&self, writer: &mut Writer, load: &Load) -> Result<()> {
        self.write_to_table(writer, load.last_commit(), load.addresses(), |state| {
            self.table.load(load, state)
        })
    }

    /// Writes one commit to the table file, past the log.
    pub(super) fn commit_to_table(&self, writer: &mut Writer, commit: Commit, bytes: &[u8]) -> Result<()> {
        let mut rows = Vec::new();
        read_commits(bytes, |commit, row| {
            if let Some((row, value)) = row {
                let stored = value.map(|value| Stored { commit, bytes: bytes[value].to_vec() });
                rows.push((bytes[row].to_vec(), stored));
            }
        })?;
        let addresses = rows.iter().map(|(row, _)| row.as_slice());
        self.write_to_table(writer, commit, addresses, |state| self.table.commit(&rows, commit, state))
    }

    /// Writes to the table file, past the log. What is in the log comes before it, so it goes first.
    fn write_to_table<'a>(
        &self,
        writer: &mut Writer,
        last: Commit,
        mut addresses: impl Iterator<Item = &'a [u8]>,
        write: impl FnOnce(LogState) -> Result<RedbRead>,
    ) -> Result<()> {
        let mut state = self.freeze_all(writer)?;
        while state.view.frozen.is_some() {
            state = self.after_checkpoint(state)?;
        }
        drop(state);
        // As the file says now: it may have been marked since the snapshot of it was taken that is read from.
        let log_state = self.table.log_state()?;
        addresses.by_ref().for_each(|row| self.stripes.mark(RowHash::of(row), last));
        if writer.in_use {
            self.mark_by_lock()?;
        } else if self.log_source.as_ref().is_some_and(|source| source.0.may_be_followed()) {
            // Followers go by the table and find it there before it is published here: from then on who reads here waits.
            self.table.announce(last)?;
        }
        let written = write(log_state);
        let mut state = self.lock();
        let published = written.and_then(|base| {
            let active = state.view.active.clone();
            state.view = Arc::new(View { active, frozen: None, base: Arc::new(base) });
            writer.newest = last;
            self.publish(&mut state, last, |mark| {
                mark.loads += 1;
                mark.base = last;
            })
        });
        match &published {
            Ok(()) => {
                drop(state);
                self.checkpointed.notify_all();
                self.bell.ring(last);
            }
            Err(error) => self.fail_with(state, error),
        }
        published
    }

    /// Has followers look whether this process is there, for as long as the table may have what the mark has not: without it
    /// they go by the table then.
    fn mark_by_lock(&self) -> Result<()> {
        let mut state = self.lock();
        let durable = state.durable;
        let published = self.publish(&mut state, durable, |mark| mark.boot = 0);
        if let Err(error) = &published {
            self.fail_with(state, error);
        }
        published
    }

    /// Brings all that is committed now into the table, durably. Others commit meanwhile.
    pub(super) fn checkpoint_all(&self) -> Result<()> {
        let last = self.lock_writer().newest;
        loop {
            let mut state = self.lock();
            while state.view.frozen.is_some() && state.view.base.commit() < last {
                state = self.after_checkpoint(state)?;
            }
            if state.failed.is_some() {
                return Err(Error::Poisoned);
            }
            if state.view.base.commit() >= last {
                return Ok(());
            }
            drop(state);
            let mut writer = self.lock_writer();
            let mut state = self.lock();
            if state.view.frozen.is_none() && !state.view.active.is_empty() {
                self.freeze(&mut state, &mut writer);
            }
        }
    }

    /// Gives all that is in memory to the checkpoint.
    fn freeze_all(&self, writer: &mut Writer) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while state.failed.is_none() && !state.view.active.is_empty() {
            if state.view.frozen.is_none() {
                self.freeze(&mut state, writer);
            } else {
                state = self.after_checkpoint(state)?;
            }
        }
        if state.failed.is_some() { Err(Error::Poisoned) } else { Ok(state) }
    }

    /// Waits for a checkpoint to end.
    fn after_checkpoint<'a>(&self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let state = self.checkpointed.wait(state).unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some() { Err(Error::Poisoned) } else { Ok(state) }
    }

    /// What the thread of the checkpoint does.
    pub(super) fn checkpoint_until_closed(&self) {
        loop {
            let mut state = self.lock();
            while state.view.frozen.is_none()
                && state.growth != Growth::Wanted
                && !state.closing
                && state.failed.is_none()
            {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.failed.is_some() {
                return;
            }
            let frozen = state.view.frozen.clone();
            let is_to_grow = state.growth == Growth::Wanted && !state.closing;
            drop(state);
            if is_to_grow {
                self.grow();
                continue;
            }
            let done = match &frozen {
                Some(frozen) => self.checkpoint(frozen),
                None => self.close(),
            };
            if let Err(error) = done {
                self.fail(&error);
            }
            if frozen.is_none() {
                return;
            }
        }
    }

    /// Writes what was frozen to the table file.
    #[expect(clippy::disallowed_methods, reason = "it is measured how long a checkpoint takes")]
    fn checkpoint(&self, frozen: &Frozen) -> Result<()> {
        let started = Instant::now();
        let needed = self.log_needed(frozen)?;
        let base = self.write_frozen(frozen, needed, needed)?;
        let took = started.elapsed();
        let mut state = self.lock();
        let active = state.view.active.clone();
        state.view = Arc::new(View { active, frozen: None, base });
        state.stats.note_checkpoint(took);
        let durable = state.durable;
        self.publish(&mut state, durable, |mark| mark.base = frozen.last)?;
        self.checkpointed.notify_all();
        drop(state);
        telemetry::checkpointed(frozen.last, took);
        Ok(())
    }

    /// What the table file says while it has rows of what was frozen.
    fn log_needed(&self, frozen: &Frozen) -> Result<LogState> {
        let id = self.lock().log.as_ref().map(|log| log.id());
        let id = id.ok_or_else(|| io::Error::other("there are commits in memory, and no log has them"))?;
        Ok(LogState::InUse { id, floor: frozen.last })
    }

    /// Writes what was frozen to the table file in parts, in the order of addresses.
    ///
    /// Up to the last part the file's newest commit stays that of before, so after a crash in between all
    /// of what was frozen is read from the log, which still has it, and lies over the parts. They hold rows
    /// of commits up to the last, so from the first part on the log must reach to that.
    fn write_frozen(&self, frozen: &Frozen, meanwhile: LogState, finally: LogState) -> Result<Arc<RedbRead>> {
        self.make_durable(frozen.last)?;
        let before = self.lock().view.base.commit();
        let mut rows = frozen.rows.scan((Bound::Unbounded, Bound::Unbounded), frozen.last).peekable();
        loop {
            let part: Vec<_> = rows.by_ref().take(PART_ROWS).collect();
            if rows.peek().is_none() {
                return Ok(Arc::new(self.table.checkpoint(&part, frozen.last, finally)?));
            }
            let base = self.table.checkpoint(&part, before, meanwhile)?;
            self.replace_base(Arc::new(base));
        }
    }

    /// Lets all who begin from now on read from this state of the table file, in which part of what is
    /// frozen is written: while the state of before is read from, redb can't use its pages again.
    ///
    /// It shows some rows as the last frozen commit left them. That is covered by what is frozen, for
    /// whoever reads from that commit or a later one; and all do, because that one is durable by now.
    fn replace_base(&self, base: Arc<RedbRead>) {
        let mut state = self.lock();
        let (active, frozen) = (state.view.active.clone(), state.view.frozen.clone());
        state.view = Arc::new(View { active, frozen, base });
        self.show(&state, state.durable);
    }

    /// Brings the table file up to date, so that it needs the log no more. Nobody uses the engine any
    /// more.
    pub(super) fn close(&self) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !writer.in_use {
            return Ok(());
        }
        let mut state = self.lock();
        self.freeze(&mut state, &mut writer);
        let (frozen, log) = (state.view.frozen.clone(), state.log.clone());
        drop(state);
        if let (Some(frozen), Some(log)) = (frozen, log) {
            let closed = LogState::Closed { id: log.id(), next: writer.segment.sequence };
            self.write_frozen(&frozen, self.log_needed(&frozen)?, closed)?;
        }
        writer.in_use = false;
        let mut state = self.lock();
        let durable = state.durable;
        self.publish(&mut state, durable, |mark| mark.closed = true)
    }
}

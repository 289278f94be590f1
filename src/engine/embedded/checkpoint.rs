//! The checkpoint: what is in memory goes to the table, in the background, and by bulk loads.

use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::commit::Writer;
use super::memtable::Memtable;
use super::snapshot::View;
use super::{Shared, State};
use crate::engine::redb::{LogState, RedbRead};
use crate::engine::{Load, ReadTransaction, RowHash};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::telemetry;

/// How many rows a checkpoint writes in one commit of the table file. Until that is done redb keeps the
/// pages of before, and the log's syncs wait behind its own: so a few thousand pages at most. Each commit
/// has two syncs and some pages of its own: so not fewer rows than this.
#[cfg(not(test))]
const PART_ROWS: usize = 2000;
/// So few that each checkpoint has several parts.
#[cfg(test)]
const PART_ROWS: usize = 5;

/// What the checkpoint is to write, or is writing, to the table file.
pub(super) struct Frozen {
    pub(super) rows: Arc<Memtable>,
    pub(super) last: Commit,
    /// The first segment of the log that it is in.
    pub(super) oldest_sequence: u64,
}

impl Shared {
    /// Gives the active memtable to the checkpoint, and begins another with the next segment.
    pub(super) fn freeze(&self, state: &mut State, writer: &mut Writer) {
        let frozen =
            Frozen { rows: state.view.active.clone(), last: writer.newest, oldest_sequence: writer.sequence };
        let base = state.view.base.clone();
        state.view = Arc::new(View { active: Arc::default(), frozen: Some(Arc::new(frozen)), base });
        writer.sequence += 1;
        writer.used = 0;
        self.work.notify_all();
    }

    /// Writes many commits to the table file, past the log: they are durable there too. What is in the log
    /// comes before them, so it goes first.
    pub(super) fn load(&self, writer: &mut Writer, load: &Load) -> Result<()> {
        let mut state = self.lock();
        while state.view.frozen.is_some() || !state.view.active.is_empty() {
            if state.failed.is_some() {
                return Err(Error::Poisoned);
            }
            if state.view.frozen.is_none() {
                self.freeze(&mut state, writer);
            }
            state = self.checkpointed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let floor = match state.view.base.log_state() {
            LogState::InUse { floor, .. } => floor,
            LogState::None | LogState::Closed { .. } => Commit::default(),
        };
        let log_state = LogState::InUse { id: self.log.id(), floor };
        drop(state);
        load.addresses().for_each(|row| self.stripes.mark(RowHash::of(row), load.last_commit()));
        let loaded = self.table.load(load, log_state);
        let mut state = self.lock();
        match loaded {
            Ok(base) => {
                let active = state.view.active.clone();
                state.view = Arc::new(View { active, frozen: None, base: Arc::new(base) });
                writer.newest = load.last_commit();
                let published = self.publish(&mut state, load.last_commit(), |mark| {
                    mark.loads += 1;
                    mark.base = load.last_commit();
                });
                drop(state);
                match &published {
                    Ok(()) => self.bell.ring(load.last_commit()),
                    Err(error) => self.fail(error),
                }
                published
            }
            Err(error) => {
                drop(state);
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// What the thread of the checkpoint does.
    pub(super) fn checkpoint_until_closed(&self) {
        loop {
            let mut state = self.lock();
            while state.view.frozen.is_none() && !state.closing && state.failed.is_none() {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.failed.is_some() {
                return;
            }
            let frozen = state.view.frozen.clone();
            drop(state);
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
        let base = self.write_frozen(frozen, self.log_needed(frozen))?;
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
    fn log_needed(&self, frozen: &Frozen) -> LogState {
        LogState::InUse { id: self.log.id(), floor: frozen.last }
    }

    /// Writes what was frozen to the table file in parts, in the order of addresses.
    ///
    /// Up to the last part the file's newest commit stays that of before, so after a crash in between all
    /// of what was frozen is read from the log, which still has it, and lies over the parts. They hold rows
    /// of commits up to the last, so from the first part on the log must reach to that.
    fn write_frozen(&self, frozen: &Frozen, finally: LogState) -> Result<Arc<RedbRead>> {
        self.make_durable(frozen.last)?;
        let before = self.lock().view.base.commit();
        let mut rows = frozen.rows.scan((Bound::Unbounded, Bound::Unbounded), frozen.last).peekable();
        loop {
            let part: Vec<_> = rows.by_ref().take(PART_ROWS).collect();
            if rows.peek().is_none() {
                return Ok(Arc::new(self.table.checkpoint(&part, frozen.last, finally)?));
            }
            let base = self.table.checkpoint(&part, before, self.log_needed(frozen))?;
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
        let frozen = state.view.frozen.clone();
        drop(state);
        if let Some(frozen) = frozen {
            self.write_frozen(&frozen, LogState::Closed { id: self.log.id() })?;
        }
        writer.in_use = false;
        let mut state = self.lock();
        let durable = state.durable;
        self.publish(&mut state, durable, |mark| mark.closed = true)
    }
}

//! The embedded engine with a redo log in front of its table file.
//!
//! A commit is durable when its rows are in the log: one sequential write and one sync, which all commits
//! share that wait at that time. Its rows are then served from memory, over those of the table file; and
//! in the background they are written there, many commits at once, in redb's safest mode (two phases,
//! quick repair), which frees the segment of the log that they were in.
//!
//! ```text
//! rows of a commit -> memtable and queue -> log, synced -> published
//!                     memtable full: frozen -> table file, by the checkpoint -> dropped
//! ```
//!
//! Writers build on commits that are not durable yet; readers never see those. So whatever a writing
//! transaction returns, a refusal too, waits until what it read is durable.

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::disk::StorageBackend;
use super::memtable::Memtable;
use super::redb::{LogState, RedbRead, TableFile, log_row};
use super::redo::{self, RedoLog};
use super::{
    Batch, Engine, Load, Log, LogStats, Newest, PageRound, PageState, Range, ReadTransaction, Reading,
    RowHash, Stripes, Waited, WriteTransaction,
};
use crate::error::{Error, Result};
use crate::format::{Row, Stored, Value};
use crate::id::Commit;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard, SIMULATED};
use crate::telemetry;

/// The most bytes of commits in a group, unless it is one commit that has more.
const GROUP_BYTES: usize = 1 << 20;

/// How many stripes of rows are told apart: 8 MiB of them. After a hundred thousand rows were changed, a row that
/// was not shares its stripe with one of them in a tenth of all cases.
#[cfg(not(any(test, fuzzing)))]
const STRIPES: usize = 1 << 20;
/// In tests so few that rows often share one, and stores are opened fast.
#[cfg(any(test, fuzzing))]
const STRIPES: usize = if SIMULATED { 64 } else { 1 << 12 };

/// How often a thread looks whether the writer is free before it sleeps.
const YIELDS_MAX: u32 = if SIMULATED { 1 } else { 100 };

/// How many rows a checkpoint writes in one commit of the table file. Until that is done redb keeps the
/// pages of before, and the log's syncs wait behind its own: so a few thousand pages at most. Each commit
/// has two syncs and some pages of its own: so not fewer rows than this.
#[cfg(not(test))]
const PART_ROWS: usize = 2000;
/// So few that each checkpoint has several parts.
#[cfg(test)]
const PART_ROWS: usize = 5;

/// How many times the length of a segment its rows may take in memory when a log is recovered. Two segments
/// of rows of 40 bytes take as much.
const MEMORY_OF_LOG: u64 = 10;

/// How many rows of the table file are read at once by a scan.
const ROWS_AT_ONCE: usize = 256;

/// For tests of the tests: a promise that the engine breaks.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    PublishBeforeSync,
    EndDoesNotWait,
    CommitDoesNotWait,
    #[cfg(shuttle)]
    NextGroupIsNotWoken,
}

/// A store with a redo log that this process may write.
pub(crate) struct LoggedEngine {
    shared: Arc<Shared>,
    checkpointer: Option<JoinHandle<()>>,
}

/// A store that was not closed cleanly, read with what its redo log holds.
pub(crate) struct LoggedReader {
    /// What is read lives as long as this.
    table: TableFile,
    newest: Newest,
    bell: Bell,
}

struct Shared {
    table: TableFile,
    log: RedoLog,
    /// When a memtable has this many bytes and the checkpoint is idle, it gets it.
    checkpoint_bytes: usize,
    newest: Newest,
    stripes: Arc<Stripes>,
    /// Held by the transaction that runs.
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// A group was written: by its number modulo 2.
    written: [Condvar; 2],
    /// There is something to do for the checkpoint.
    work: Condvar,
    /// A checkpoint ended.
    checkpointed: Condvar,
    bell: Bell,
    #[cfg(test)]
    sabotage: Mutex<Option<Sabotage>>,
}

/// Where the next commit goes.
struct Writer {
    /// The newest commit, durable or not.
    newest: Commit,
    /// The segment of the log, and how many bytes of it are spoken for.
    sequence: u64,
    used: u64,
    /// Whether the table file says that it needs the log.
    in_use: bool,
}

struct State {
    view: Arc<View>,
    durable: Commit,
    /// What waits to be written, in order; the last takes more.
    groups: VecDeque<Group>,
    next_group: u64,
    /// The number and the last commit of the group that is being written.
    writing: Option<(u64, Commit)>,
    /// Why nothing can be written any more.
    failed: Option<Box<str>>,
    closing: bool,
    stats: LogStats,
}

/// Commits that are written and synced together.
struct Group {
    number: u64,
    sequence: u64,
    last: Commit,
    count: u64,
    commits: Vec<u8>,
}

/// Where rows are looked for, the newest first.
struct View {
    active: Arc<Memtable>,
    frozen: Option<Arc<Frozen>>,
    base: Arc<RedbRead>,
}

/// What the checkpoint is to write, or is writing, to the table file.
struct Frozen {
    rows: Arc<Memtable>,
    last: Commit,
    /// The first segment of the log that it is in.
    oldest_sequence: u64,
}

/// The rows as one commit left them.
struct Snapshot {
    view: Arc<View>,
    commit: Commit,
    /// Marked by each commit before anybody can read it: rows with no newer mark than the table file are
    /// not in memory.
    stripes: Arc<Stripes>,
}

struct LoggedWrite<'a> {
    shared: &'a Shared,
    snapshot: Snapshot,
    writer: MutexGuard<'a, Writer>,
}

impl LoggedEngine {
    /// A store on its table file and the redo log on this disk.
    ///
    /// # Errors
    ///
    /// `LogMismatch` if the two don't belong together.
    pub(crate) fn on(
        table: TableFile,
        disk: Box<dyn StorageBackend>,
        checkpoint_bytes: usize,
    ) -> Result<Self> {
        let base = table.newest()?;
        let stripes = Arc::new(Stripes::new(STRIPES));
        let (log, frozen) = recover(&base, disk, &stripes, false)?;
        let in_use = matches!(base.log_state(), LogState::InUse { .. });
        frozen.iter().for_each(|frozen| telemetry::recovered(frozen.last));
        let durable = frozen.as_ref().map_or(base.commit(), |frozen| frozen.last);
        let view = View { active: Arc::default(), frozen: frozen.map(Arc::new), base: Arc::new(base) };
        let view = Arc::new(view);
        let sequence = log.sequence();
        let shared = Shared {
            table,
            log,
            checkpoint_bytes,
            newest: Newest::new(Snapshot { view: view.clone(), commit: durable, stripes: stripes.clone() }),
            stripes,
            writer: Mutex::new(Writer { newest: durable, sequence, used: 0, in_use }),
            state: Mutex::new(State {
                view,
                durable,
                groups: VecDeque::new(),
                next_group: 0,
                writing: None,
                failed: None,
                closing: false,
                stats: LogStats::default(),
            }),
            written: Default::default(),
            work: Condvar::new(),
            checkpointed: Condvar::new(),
            bell: Bell::default(),
            #[cfg(test)]
            sabotage: Mutex::default(),
        };
        shared.bell.ring(durable);
        let shared = Arc::new(shared);
        let of_thread = Arc::clone(&shared);
        let checkpointer = thread::Builder::new()
            .name("keystead checkpoint".to_owned())
            .spawn(move || of_thread.checkpoint_until_closed())?;
        Ok(Self { shared, checkpointer: Some(checkpointer) })
    }
}

#[cfg(test)]
impl LoggedEngine {
    pub(crate) fn sabotage(&self, sabotage: Option<Sabotage>) {
        *self.shared.sabotage.lock().unwrap() = sabotage;
    }
}

/// So that a test keeps hold of an engine that a store is on.
#[cfg(test)]
impl Engine for Arc<LoggedEngine> {
    fn begin_read(&self) -> Result<Reading> {
        (**self).begin_read()
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        (**self).begin_write()
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        (**self).wait(after, timeout)
    }

    fn stop_waiting(&self) {
        (**self).stop_waiting();
    }
}

#[cfg(test)]
impl Shared {
    fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        *self.sabotage.lock().unwrap() == Some(sabotage)
    }
}

/// Opens the log that belongs to a table file, and reads what that file has not.
fn recover(
    base: &RedbRead,
    disk: Box<dyn StorageBackend>,
    stripes: &Stripes,
    read_only: bool,
) -> Result<(RedoLog, Option<Frozen>)> {
    let (log, recovered) = RedoLog::open(disk, base.commit(), read_only)?;
    let mismatch = |what: &str| Err(Error::LogMismatch(what.into()));
    match base.log_state() {
        LogState::None => {}
        LogState::Closed { id } | LogState::InUse { id, .. } if id != log.id() => {
            return mismatch("it is the log of another store");
        }
        LogState::InUse { floor, .. } if recovered.newest.unwrap_or_default() < floor => {
            return mismatch("it is an older copy: commits that were in it are missing");
        }
        LogState::Closed { .. } if !recovered.frames.is_empty() => {
            return mismatch("it goes on where the store was closed");
        }
        LogState::Closed { .. } | LogState::InUse { .. } => {}
    }
    let Some(oldest_sequence) = recovered.oldest_sequence else { return Ok((log, None)) };
    let rows = Memtable::default();
    for frame in &recovered.frames {
        rows.insert(frame, stripes)?;
        // A row that the library writes takes at most a few times as much in memory.
        if rows.bytes() as u64 / MEMORY_OF_LOG > log.segment_bytes() {
            return Err(Error::Corrupted("the redo log has more rows than fit into memory".into()));
        }
    }
    let last = recovered.newest.unwrap_or_default();
    Ok((log, Some(Frozen { rows: Arc::new(rows), last, oldest_sequence })))
}

impl Engine for LoggedEngine {
    fn begin_read(&self) -> Result<Reading> {
        Ok(self.shared.newest.read())
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        let shared = &*self.shared;
        // A closure that panicked left nothing half done: its writes were only staged.
        let writer = shared.lock_writer();
        let state = shared.lock();
        if state.failed.is_some() {
            return Err(Error::Poisoned);
        }
        shared.table.must_be_sound()?;
        let view = state.view.clone();
        let snapshot = Snapshot { view, commit: writer.newest, stripes: shared.stripes.clone() };
        drop(state);
        Ok(Box::new(LoggedWrite { shared, snapshot, writer }))
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        Ok(self.shared.bell.wait(after, timeout))
    }

    fn stop_waiting(&self) {
        self.shared.bell.end();
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.shared.table.check_pages(after, bytes).map(Some)
    }

    fn page_state(&self) -> Option<PageState> {
        Some(self.shared.table.page_state())
    }

    fn log_stats(&self) -> Option<LogStats> {
        let state = self.shared.lock();
        let frozen = state.view.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes());
        let memory = state.view.active.bytes() + frozen;
        let behind = state.durable.number() - state.view.base.commit().number();
        Some(LogStats {
            memory_bytes: memory as u64,
            commits_behind: behind,
            checkpointing: state.view.frozen.is_some(),
            ..state.stats.clone()
        })
    }
}

impl LoggedEngine {
    /// Brings the table file up to date, so that it needs the log no more.
    ///
    /// # Errors
    ///
    /// `Io` if that failed: the store is as it was, and needs its log.
    pub(crate) fn close(mut self) -> Result<()> {
        self.end();
        let failed = self.shared.lock().failed.take();
        failed.map_or(Ok(()), |why| Err(io::Error::other(String::from(why)).into()))
    }

    fn end(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(checkpointer) = self.checkpointer.take() {
            // If it panicked, the log holds all that the table file has not.
            if checkpointer.join().is_err() {
                self.shared.lock().failed.get_or_insert_with(|| "the checkpoint panicked".into());
            }
        }
    }
}

impl Drop for LoggedEngine {
    fn drop(&mut self) {
        self.end();
    }
}

impl WriteTransaction for LoggedWrite<'_> {
    fn commit_read(&self) -> Commit {
        self.snapshot.commit
    }

    fn next_commit(&self) -> Commit {
        Commit::new(self.snapshot.commit.number() + 1)
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.snapshot.get(rows)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.snapshot.with_row(row, see)
    }

    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.snapshot.log_entry(commit)
    }

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
            shared.use_log(&mut writer)?;
            shared.load(&mut writer, load)?;
        }
        Ok(load.last_commit())
    }

    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        let commit = self.next_commit();
        let Self { shared, snapshot, mut writer } = *self;
        let own = log_row(commit);
        let trimmed = match log.trim {
            Some(trim) => snapshot.log_rows_up_to(trim)?,
            None => Vec::new(),
        };
        let rows = batch.iter().map(|(row, value)| (row.as_slice(), value.as_deref()));
        let rows = rows.chain(log.append.map(|entry| (own.as_slice(), Some(entry))));
        let rows = rows.chain(trimmed.iter().map(|row| (row.as_slice(), None)));
        let bytes: Arc<[u8]> = match redo::encode_commit(commit, rows, shared.log.segment_bytes()) {
            Ok(bytes) => bytes.into(),
            Err(refused) => {
                // That it is too large may be because of what is not durable yet.
                drop(writer);
                shared.make_durable(snapshot.commit).map_err(|_| Error::Poisoned)?;
                return Err(refused);
            }
        };
        shared.use_log(&mut writer)?;
        shared.make_room(&mut writer, redo::frame_bytes(bytes.len()))?.insert(&bytes, &shared.stripes)?;
        writer.newest = commit;
        shared.lock().queue(writer.sequence, commit, &bytes);
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
    fn queue(&mut self, sequence: u64, commit: Commit, commits: &[u8]) {
        let open = self.groups.back_mut();
        let open = open
            .filter(|group| group.sequence == sequence && group.commits.len() + commits.len() <= GROUP_BYTES);
        if let Some(group) = open {
            group.commits.extend(commits);
            group.last = commit;
            group.count += 1;
            return;
        }
        let number = self.next_group;
        self.next_group += 1;
        self.groups.push_back(Group { number, sequence, last: commit, count: 1, commits: commits.to_vec() });
    }

    /// The number of the group that a commit which is not durable is in.
    fn group_of(&self, commit: Commit) -> u64 {
        let writing = self.writing.filter(|(_, last)| commit <= *last).map(|(number, _)| number);
        let waiting = || self.groups.iter().find(|group| commit <= group.last).map(|group| group.number);
        writing.or_else(waiting).unwrap_or_default()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on nothing is written any more, and nobody waits for it.
    fn fail(&self, why: &Error) {
        let mut state = self.lock();
        let is_first = state.failed.is_none();
        state.failed.get_or_insert_with(|| why.to_string().into());
        drop(state);
        self.wake_all();
        if is_first {
            telemetry::stopped(why);
        }
    }

    /// Waits for the transaction that runs to end. It takes microseconds, less than to be put to sleep and
    /// woken: so a thread looks a few times before.
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        for _ in 0..YIELDS_MAX {
            match self.writer.try_lock() {
                Ok(writer) => return writer,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the table file says that it needs the log, before the first commit is in there.
    fn use_log(&self, writer: &mut Writer) -> Result<()> {
        if !writer.in_use {
            let marked = self.table.mark(LogState::InUse { id: self.log.id(), floor: Commit::default() });
            if let Err(error) = marked {
                self.fail(&error);
                // Whatever came of it, nothing of this commit was written.
                return Err(match error {
                    Error::Io(_) => error,
                    other => io::Error::other(other.to_string()).into(),
                });
            }
            writer.in_use = true;
        }
        Ok(())
    }

    /// Waits until a frame of this many bytes has a place in the log and its rows one in memory, and
    /// returns where the rows go.
    fn make_room(&self, writer: &mut Writer, frame_bytes: u64) -> Result<Arc<Memtable>> {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if state.failed.is_some() {
                return Err(Error::Poisoned);
            }
            let full = writer.used + frame_bytes > self.log.segment_bytes();
            let due = full || state.view.active.bytes() >= self.checkpoint_bytes;
            match &state.view.frozen {
                None if due && !state.view.active.is_empty() => self.freeze(&mut state, writer),
                // The segment may be one from which the checkpoint is still to be made.
                Some(frozen) if full || frozen.oldest_sequence + 2 <= writer.sequence => {
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

    /// Gives the active memtable to the checkpoint, and begins another with the next segment.
    fn freeze(&self, state: &mut State, writer: &mut Writer) {
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
    fn load(&self, writer: &mut Writer, load: &Load) -> Result<()> {
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
                state.durable = load.last_commit();
                writer.newest = load.last_commit();
                self.publish(&state);
                self.bell.ring(state.durable);
                Ok(())
            }
            Err(error) => {
                drop(state);
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// Returns when this commit is in the log for good. Whoever comes first writes for all that wait.
    fn make_durable(&self, commit: Commit) -> Result<()> {
        let mut state = self.lock();
        loop {
            if state.durable >= commit {
                return Ok(());
            }
            if let Some(why) = &state.failed {
                return Err(Error::CommitUnknown(why.clone()));
            }
            let next = if state.writing.is_none() { state.groups.pop_front() } else { None };
            if let Some(group) = next {
                state.writing = Some((group.number, group.last));
                drop(state);
                state = self.write(&group);
            } else {
                let group = state.group_of(commit);
                let condvar = &self.written[usize::from(!group.is_multiple_of(2))];
                state = condvar.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes a group, publishes its commits, and wakes those who wait for that.
    #[expect(clippy::disallowed_methods, reason = "it is measured how long a sync takes")]
    fn write(&self, group: &Group) -> MutexGuard<'_, State> {
        #[cfg(test)]
        if self.is_sabotaged(Sabotage::PublishBeforeSync) {
            let mut state = self.lock();
            let durable = std::mem::replace(&mut state.durable, group.last);
            self.publish(&state);
            state.durable = durable;
        }
        let started = Instant::now();
        let written = self.log.append(group.sequence, &group.commits);
        let took = started.elapsed();
        let mut state = self.lock();
        state.writing = None;
        let own = usize::from(!group.number.is_multiple_of(2));
        match written {
            Ok(()) => {
                state.durable = group.last;
                state.stats.note_group(group.count, group.commits.len(), took);
                self.publish(&state);
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
                drop(state);
                self.fail(&error.into());
            }
        }
        self.lock()
    }

    fn wake_all(&self) {
        self.written.iter().for_each(Condvar::notify_all);
        self.checkpointed.notify_all();
        self.work.notify_all();
    }

    fn publish(&self, state: &State) {
        let (view, stripes) = (state.view.clone(), self.stripes.clone());
        self.newest.publish(Snapshot { view, commit: state.durable, stripes });
    }

    /// What the thread of the checkpoint does.
    fn checkpoint_until_closed(&self) {
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
        self.publish(&state);
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
        self.publish(&state);
    }

    /// Brings the table file up to date, so that it needs the log no more. Nobody uses the engine any
    /// more.
    fn close(&self) -> Result<()> {
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
        Ok(())
    }
}

impl LoggedReader {
    /// Reads a store that nobody has open, with what its log holds; nothing is written.
    pub(crate) fn on(table: TableFile, disk: Option<Box<dyn StorageBackend>>) -> Result<Self> {
        let base = table.newest()?;
        let stripes = Arc::new(Stripes::new(STRIPES));
        let recovered = disk.map(|disk| recover(&base, disk, &stripes, true)).transpose()?;
        let frozen = recovered.and_then(|(_, frozen)| frozen);
        let commit = frozen.as_ref().map_or(base.commit(), |frozen| frozen.last);
        let view = View { active: Arc::default(), frozen: frozen.map(Arc::new), base: Arc::new(base) };
        let bell = Bell::default();
        bell.ring(commit);
        let newest = Newest::new(Snapshot { view: Arc::new(view), commit, stripes });
        Ok(Self { table, newest, bell })
    }
}

impl Engine for LoggedReader {
    fn begin_read(&self) -> Result<Reading> {
        Ok(self.newest.read())
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Err(Error::ReadOnly)
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        Ok(self.bell.wait(after, timeout))
    }

    fn stop_waiting(&self) {
        self.bell.end();
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.table.check_pages(after, bytes).map(Some)
    }

    fn page_state(&self) -> Option<PageState> {
        Some(self.table.page_state())
    }
}

impl Snapshot {
    fn row(&self, row: &[u8]) -> Result<Option<Stored>> {
        let mut found = None;
        self.with_row(row, &mut |value| found = Some(value.to_stored()))?;
        Ok(found)
    }

    /// The rows of a range that are in memory, in order, deleted ones as `None`.
    fn in_memory(&self, range: Range<'_>) -> impl Iterator<Item = (Row, Option<Stored>)> {
        let View { active, frozen, .. } = &*self.view;
        let mut active = active.scan(range, self.commit).peekable();
        let frozen = frozen.as_ref().map(|frozen| frozen.rows.scan(range, self.commit));
        let mut frozen = frozen.into_iter().flatten().peekable();
        std::iter::from_fn(move || {
            let next = [active.peek().map(|(row, _)| row), frozen.peek().map(|(row, _)| row)];
            let row = next.into_iter().flatten().min()?.clone();
            // Each that has the row goes on; the newer has its say.
            let newest = active.next_if(|(next, _)| *next == row);
            let older = frozen.next_if(|(next, _)| *next == row);
            newest.or(older)
        })
    }

    /// The places of the log's entries up to and with this commit.
    fn log_rows_up_to(&self, trim: Commit) -> Result<Vec<Row>> {
        let (first, last) = (log_row(Commit::default()), log_row(trim));
        let found = self.scan((Bound::Included(&first), Bound::Included(&last)), usize::MAX)?;
        Ok(found.into_iter().map(|(row, _)| row).collect())
    }
}

impl ReadTransaction for Snapshot {
    fn commit(&self) -> Commit {
        self.commit
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        rows.iter().map(|row| self.row(row)).collect()
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        let View { active, frozen, base } = &*self.view;
        if self.stripes.last(RowHash::of(row)) <= base.commit() {
            return base.with_row(row, see);
        }
        let in_memory = active.with_row(row, self.commit, see)
            || frozen.as_ref().is_some_and(|frozen| frozen.rows.with_row(row, self.commit, see));
        if in_memory { Ok(()) } else { base.with_row(row, see) }
    }

    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        self.stripes.last(row) <= commit.min(self.commit)
    }

    fn with_rows(
        &self,
        range: Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        let (from, to) = RedbRead::range_of_rows(range);
        let mut newer = self.in_memory((from, to)).peekable();
        let (mut from, mut left) = (from.map(<[u8]>::to_vec), limit);
        // Some of the table file's rows at a time, because those in memory may replace any of them.
        while left > 0 && newer.peek().is_some() {
            let at_once = left.min(ROWS_AT_ONCE);
            let (mut of_base, mut last) = (0, Row::new());
            let range = (from.as_ref().map(Vec::as_slice), to);
            self.view.base.with_rows(range, at_once, &mut |row, value| {
                of_base += 1;
                last.clear();
                last.extend_from_slice(row);
                while let Some((before, stored)) = newer.next_if(|(next, _)| left > 0 && **next < *row) {
                    show(&before, stored.as_ref(), &mut left, see);
                }
                if left == 0 {
                    return;
                }
                match newer.next_if(|(next, _)| **next == *row) {
                    Some((_, stored)) => show(row, stored.as_ref(), &mut left, see),
                    None => {
                        left -= 1;
                        see(row, value);
                    }
                }
            })?;
            if of_base < at_once {
                // Behind the last of the table file.
                while left > 0
                    && let Some((row, stored)) = newer.next()
                {
                    show(&row, stored.as_ref(), &mut left, see);
                }
                return Ok(());
            }
            from = Bound::Excluded(last);
        }
        if left == 0 {
            return Ok(());
        }
        self.view.base.with_rows((from.as_ref().map(Vec::as_slice), to), left, see)
    }

    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        Ok(self.row(&log_row(commit))?.map(|stored| stored.bytes))
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let (from, to) = (log_row(after), log_row(Commit::new(u64::MAX)));
        RedbRead::log_entries(self.scan((Bound::Excluded(&from), Bound::Included(&to)), limit)?)
    }

    fn length(&self) -> Result<Option<u64>> {
        self.view.base.length()
    }

    fn audit(&self) -> Result<()> {
        // Of each frame of the log the whole was read when it was opened.
        self.view.base.audit()
    }
}

/// Shows a row that is in memory, if it was not deleted.
fn show(
    row: &[u8],
    stored: Option<&Stored>,
    left: &mut usize,
    see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
) {
    if let Some(stored) = stored {
        *left -= 1;
        see(row, Ok(stored.into()));
    }
}

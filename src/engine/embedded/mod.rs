//! The embedded engine: a write-ahead log in front of its table, one file each.
//!
//! In memory, and on a storage without one for the log, each commit goes to the table.
//!
//! A commit is durable when its rows are in the log: one sequential write and one sync, which all commits
//! share that wait at that time. Its rows are then served from memory, over those of the table; and
//! in the background they are written there, many commits at once, in redb's safest mode (two phases,
//! quick repair), which frees the segment of the log that they were in.
//!
//! ```text
//! rows of a commit -> memtable and queue -> log, synced -> published          commit.rs, wal.rs
//!                     memtable full: frozen -> table, by the checkpoint -> dropped    checkpoint.rs
//! ```
//!
//! Writers build on commits that are not durable yet; readers never see those. So whatever a writing
//! transaction returns, a refusal too, waits until what it read is durable.

#[cfg(test)]
mod boot_tests;
mod checkpoint;
mod commit;
mod follower;
#[cfg(test)]
mod follower_moments;
#[cfg(test)]
mod follower_tests;
#[cfg(any(test, fuzzing))]
mod for_tests;
mod memtable;
mod recovery;
mod snapshot;
pub(crate) mod wal;
#[cfg(test)]
mod wal_tests;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use self::commit::{EmbeddedWrite, Group, Writer};
pub(crate) use self::follower::{FileId, FollowedFiles, Follower};
pub(crate) use self::recovery::MEMORY_OF_LOG;
use self::recovery::recover;
use self::snapshot::{Snapshot, View};
use self::wal::{Mark, Position, RedoLog};
use super::bell::Bell;
use super::disk::StorageBackend;
use super::redb::{LogState, TableFile};
use super::{
    Engine, EngineStats, LogStats, Newest, PageRound, PageState, Reading, Stripes, Waited, WriteTransaction,
};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::telemetry;

/// How many stripes the rows are spread over: they take 8 MiB. After a hundred thousand rows were changed, a row that
/// was not shares its stripe with one of them in a tenth of all cases.
#[cfg(not(any(test, fuzzing)))]
const STRIPES: usize = 1 << 20;
/// In tests so few that rows often share one, and stores are opened fast.
#[cfg(any(test, fuzzing))]
const STRIPES: usize = if crate::sync::SIMULATED { 64 } else { 1 << 12 };

/// For tests of the tests: a promise that the engine breaks.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    PublishBeforeSync,
    EndDoesNotWait,
    CommitDoesNotWait,
    #[cfg(shuttle)]
    NextGroupIsNotWoken,
    #[cfg(shuttle)]
    FailureIsNotedLate,
    #[cfg(shuttle)]
    MarkIsWrittenLate,
}

/// A store with a write-ahead log that this process may write.
pub(crate) struct EmbeddedEngine {
    shared: Arc<Shared>,
    checkpointer: Option<JoinHandle<()>>,
}

struct Shared {
    table: TableFile,
    /// `None` if each commit is to go to the table.
    log_source: Option<LogSource>,
    /// How long the log may grow.
    log_bytes_max: u64,
    /// When a memtable has this many bytes and the checkpoint is idle, it gets it.
    checkpoint_bytes: usize,
    newest: Newest,
    stripes: Arc<Stripes>,
    /// The newest commit that followers may have been told of: no read here may show less.
    marked: AtomicU64,
    /// Held by the transaction that runs.
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// A group was written: by its number modulo 2.
    written: [Condvar; 2],
    /// There is something to do for the checkpoint.
    work: Condvar,
    /// A checkpoint, or a commit that went to the table, ended.
    checkpointed: Condvar,
    bell: Bell,
    #[cfg(test)]
    sabotage: Mutex<Option<Sabotage>>,
}

struct State {
    view: Arc<View>,
    durable: Commit,
    /// Since it was needed.
    log: Option<Arc<RedoLog>>,
    growth: Growth,
    /// What followers were told last.
    mark: Mark,
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

/// Whether the log is to have larger segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    None,
    Wanted,
    /// There was no space for them.
    Impossible,
}

/// The file of a log.
pub(crate) struct LogDisk {
    pub(crate) frames: Box<dyn StorageBackend>,
    /// The same file through another handle, by which followers are told of commits; `None` where nobody follows.
    pub(crate) marks: Option<Box<dyn StorageBackend>>,
}

/// Where a log comes from when it is needed.
pub(crate) trait LogFiles: Send + Sync {
    /// Opens the file of the log that belongs to the table; what the table says of it now is given. If there is none, it is
    /// made, and the table names it then; so it returns what the table says.
    fn open(&self, table: &TableFile, state: LogState) -> Result<(LogDisk, LogState)>;

    /// Which file that is, as [`boot`](super::boot) tells it.
    fn boot(&self) -> u64 {
        0
    }

    /// Whether other processes may read along.
    fn may_be_followed(&self) -> bool {
        false
    }
}

struct LogSource(Box<dyn LogFiles>);

impl LogSource {
    fn open(&self, table: &TableFile) -> Result<RedoLog> {
        let (disk, state) = self.0.open(table, table.log_state()?)?;
        let LogState::Closed { id, next } = state else {
            return Err(Error::LogMismatch("the table needs one already".into()));
        };
        let mismatch = |what: &str| Error::LogMismatch(what.into());
        // A process that was killed may have made it and not synced it; the table must not need it before.
        disk.frames.sync_data()?;
        let mut log = RedoLog::reopen(disk.frames, next)?.ok_or_else(|| mismatch(GOES_ON))?;
        if log.id() != id {
            return Err(mismatch(OF_ANOTHER_STORE));
        }
        disk.marks.into_iter().for_each(|marks| log.mark_through(marks));
        Ok(log.of_boot(self.0.boot()))
    }
}

/// How large what is not yet in the table may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) log_bytes: u64,
    pub(crate) checkpoint_bytes: usize,
}

impl EmbeddedEngine {
    /// A store on its table, with a log for what is not yet in there.
    ///
    /// # Errors
    ///
    /// `LogMismatch` if the two don't belong together.
    pub(crate) fn open(table: TableFile, log_files: impl LogFiles + 'static, limits: Limits) -> Result<Self> {
        Self::of(table, Some(LogSource(Box::new(log_files))), limits)
    }

    /// A store on its table alone, to which each commit goes.
    ///
    /// # Errors
    ///
    /// `LogMismatch` if it needs a log.
    pub(crate) fn without_log(table: TableFile) -> Result<Self> {
        Self::of(table, None, Limits { log_bytes: 0, checkpoint_bytes: 0 })
    }

    fn of(table: TableFile, log_source: Option<LogSource>, limits: Limits) -> Result<Self> {
        let base = table.newest()?;
        let stripes = Arc::new(Stripes::new(STRIPES));
        let in_use = matches!(base.log_state(), LogState::InUse { .. });
        let has_log = log_source.is_some();
        let (mut log, mut frozen) = (None, None);
        if in_use {
            let source = log_source.as_ref();
            let source = source.ok_or_else(|| Error::LogMismatch(NOT_CLOSED.into()))?;
            let (disk, _) = source.0.open(&table, base.log_state())?;
            let recovery = recover(&base, disk.frames, &stripes, false)?;
            let mut recovered = recovery.log;
            disk.marks.into_iter().for_each(|marks| recovered.mark_through(marks));
            (log, frozen) = (Some(Arc::new(recovered.of_boot(source.0.boot()))), recovery.frozen);
        }
        frozen.iter().for_each(|frozen| telemetry::recovered(frozen.last));
        let durable = frozen.as_ref().map_or(base.commit(), |frozen| frozen.last);
        let end = log.as_ref().map_or_else(Position::default, |log| log.end());
        let (session, closed) = (wal::random_session(), !in_use);
        let boot = log.as_ref().map_or(0, |log| log.boot());
        let mark = Mark { session, closed, loads: 0, commit: durable, end, base: base.commit(), boot };
        if let Some(log) = &log {
            log.write_mark(&mark)?;
            log.lock_mark()?;
        }
        let view = View { active: Arc::default(), frozen: frozen.map(Arc::new), base: Arc::new(base) };
        let view = Arc::new(view);
        let writer = Writer { newest: durable, segment: end.segment, used: 0, in_use, has_written: false };
        let shared = Shared {
            table,
            log_source,
            log_bytes_max: limits.log_bytes,
            checkpoint_bytes: limits.checkpoint_bytes,
            newest: Newest::new(Snapshot { view: view.clone(), commit: durable, stripes: stripes.clone() }),
            stripes,
            marked: AtomicU64::new(durable.number()),
            writer: Mutex::new(writer),
            state: Mutex::new(State {
                view,
                durable,
                log,
                growth: Growth::None,
                mark,
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
        let checkpointer = has_log.then(|| {
            let thread = thread::Builder::new().name("keystead checkpoint".to_owned());
            thread.spawn(move || of_thread.checkpoint_until_closed())
        });
        Ok(Self { shared, checkpointer: checkpointer.transpose()? })
    }
}

#[cfg(test)]
impl Shared {
    fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        *self.sabotage.lock().unwrap() == Some(sabotage)
    }
}

const NOT_CLOSED: &str = "the store was not closed, and needs it";
const GOES_ON: &str = "it goes on where the store was closed";
const OF_ANOTHER_STORE: &str = "it is the log of another store";

impl Engine for EmbeddedEngine {
    fn begin_read(&self) -> Result<Reading> {
        let shared = &*self.shared;
        let shown = shared.marked.load(Ordering::SeqCst).max(shared.table.shown().number());
        let read = shared.newest.read();
        if read.commit().number() >= shown {
            return Ok(read);
        }
        // A follower may have seen a commit that is about to be published here.
        let mut state = shared.lock();
        while state.durable.number() < shown && state.failed.is_none() {
            state = shared.checkpointed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(shared.newest.read())
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
        Ok(Box::new(EmbeddedWrite { shared, snapshot, writer }))
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        Ok(self.shared.bell.wait(after, timeout))
    }

    fn stop_waiting(&self) {
        self.shared.bell.end();
    }

    fn knows_next_commit(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<()> {
        self.shared.checkpoint_all()
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.shared.table.check_pages(after, bytes)
    }

    fn stats(&self) -> EngineStats {
        EngineStats { wal: self.log_stats(), pages: self.page_state() }
    }
}

impl EmbeddedEngine {
    /// What is known of the table's pages; `None` in memory.
    pub(crate) fn page_state(&self) -> Option<PageState> {
        self.shared.table.page_state()
    }

    /// What the write-ahead log and its checkpoint did so far; `None` without one.
    pub(crate) fn log_stats(&self) -> Option<LogStats> {
        self.shared.log_source.as_ref()?;
        let state = self.shared.lock();
        let frozen = state.view.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes());
        let memory = state.view.active.bytes() + frozen;
        let behind = state.durable.number().saturating_sub(state.view.base.commit().number());
        Some(LogStats {
            memory_bytes: memory as u64,
            commits_behind: behind,
            checkpointing: state.view.frozen.is_some(),
            ..state.stats.clone()
        })
    }

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
        self.shared.table.begin_to_close();
        self.shared.work.notify_all();
        if let Some(checkpointer) = self.checkpointer.take() {
            // If it panicked, the log holds all that the table file has not.
            if checkpointer.join().is_err() {
                self.shared.lock().failed.get_or_insert_with(|| "the checkpoint panicked".into());
            }
        }
    }
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on nothing is written any more, and nobody waits for it.
    fn fail(&self, why: &Error) {
        self.fail_with(self.lock(), why);
    }

    fn fail_with(&self, mut state: MutexGuard<'_, State>, why: &Error) {
        let is_first = state.failed.is_none();
        state.failed.get_or_insert_with(|| why.to_string().into());
        drop(state);
        self.wake_all();
        if is_first {
            telemetry::stopped(why);
        }
    }

    fn wake_all(&self) {
        self.written.iter().for_each(Condvar::notify_all);
        self.checkpointed.notify_all();
        self.work.notify_all();
    }

    /// Tells followers what is durable, and shows it to readers here.
    ///
    /// # Errors
    ///
    /// `CommitUnknown` if followers can't be told: nothing may be acknowledged of which they would not know.
    fn publish(&self, state: &mut State, durable: Commit, change: impl FnOnce(&mut Mark)) -> Result<()> {
        let boot = state.log.as_ref().map_or(0, |log| log.boot());
        let mut mark = Mark { commit: durable, boot, ..state.mark };
        change(&mut mark);
        self.marked.store(durable.number(), Ordering::SeqCst);
        let written = match &state.log {
            // Only with the next commit.
            #[cfg(all(test, shuttle))]
            Some(_) if self.is_sabotaged(Sabotage::MarkIsWrittenLate) && durable.number() % 2 == 0 => Ok(()),
            Some(log) => log.write_mark(&mark),
            None => Ok(()),
        };
        // If that failed, followers go by what is there now: either of the two marks, or none that is whole.
        let is_seen = written.is_ok() || state.log.as_ref().is_some_and(|log| log.is_written(&mark));
        if is_seen {
            self.show(state, durable);
        }
        written.map_err(|error| Error::CommitUnknown(error.to_string().into()))?;
        state.mark = mark;
        state.durable = durable;
        Ok(())
    }

    /// Shows what is durable to readers here.
    fn show(&self, state: &State, durable: Commit) {
        let (view, stripes) = (state.view.clone(), self.stripes.clone());
        self.newest.publish(Snapshot { view, commit: durable, stripes });
    }
}

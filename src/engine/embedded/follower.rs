//! [`Follower`]: a store that this process only reads, maybe beside another that writes it.
//!
//! ```text
//! mark moved? -> frames up to it -> own memtable, stripes -> published       by each read that finds it moved
//! ```
//!
//! A follower does what the writer does when it opens the store, and then goes on with it: it takes a snapshot of the
//! table and reads from the log what that has not, up to the [mark](super::wal::Mark). If what it needs is there no
//! more, because its segment was used again or a bulk load went past the log, it starts again from the table. A log that
//! is not in use has no mark to look at; then the first page of the table tells whether there was a commit.
//!
//! Without a writer nobody moves the mark, and after a crash of the machine it may be any older one. Then the frames
//! behind it count too, as for a writer that opens the store; but only after they were synced here, because a power cut
//! may still take what a writer did not sync.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::checkpoint::Frozen;
use super::memtable::Memtable;
use super::snapshot::{Snapshot, View};
use super::wal::{Chained, LogId, Mark, Position, RedoLog};
use super::{OF_ANOTHER_STORE, Recovery, STRIPES, must_fit, recover};
use crate::engine::bell::Bell;
use crate::engine::disk::StorageBackend;
use crate::engine::lock_wait;
use crate::engine::redb::{FirstPage, LogState, RedbRead, TableReader};
use crate::engine::{
    Engine, EngineStats, Newest, PageRound, Reading, RowSource, Stripes, Waited, WriteTransaction,
};
use crate::error::{Error, Locked, Result};
use crate::format::Row;
use crate::id::Commit;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{ArcSwap, Mutex, MutexGuard};

/// How often it looks for commits while nobody reads: a snapshot of the table that is held for long makes the file grow.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a waiting reader looks whether there is a commit.
const POLL: Duration = Duration::from_millis(10);
/// How often what is in motion is looked at again at once, and after which pause later.
const TRIES_AT_ONCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// How many segments may lie between the oldest frame that is needed and the newest.
const SEGMENTS: u64 = 2;

/// Which file it is, if the system can tell.
pub(crate) type FileId = Option<(u64, u64)>;

/// The files of a store, by their names.
pub(crate) trait FollowedFiles: Send + Sync + 'static {
    /// Opens the table file.
    fn table(&self) -> Result<(TableReader, FileId)>;

    /// Which file has the name of the table file now; `None` if there is none.
    fn table_now(&self) -> Result<FileId>;

    /// Opens the log, if there is one.
    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>>;

    /// Which file the log is, as [`boot`](crate::engine::boot) tells it.
    fn boot(&self) -> u64 {
        0
    }

    /// How they are called in an error.
    fn name(&self) -> String;

    /// `AlreadyOpen`, of these files.
    fn locked(&self) -> Error {
        Error::AlreadyOpen(Locked { path: self.name().into(), holder: None })
    }
}

/// A store that this process only reads.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    refresher: Option<JoinHandle<()>>,
}

struct Shared {
    files: Box<dyn FollowedFiles>,
    /// The row that identifies a store.
    identity: Row,
    lock_wait: Duration,
    newest: Newest,
    /// What is looked at to tell whether [`newest`](Self::newest) still is the newest.
    watched: ArcSwap<Watched>,
    state: Mutex<State>,
    /// Rung for commits. Whoever ends all waiting may go on to read.
    bell: Bell,
    /// Ends the thread that refreshes.
    dropped: Bell,
}

struct Watched {
    table: Arc<TableReader>,
    by: By,
    /// If each read looks whether the file was replaced by another one: which it is.
    file: FileId,
}

enum By {
    Mark {
        log: Arc<RedoLog>,
        checksum: u64,
        /// Whether it counts only while its writer is there.
        needs_writer: bool,
    },
    FirstPage(Box<FirstPage>),
}

/// What was read, and how far.
struct State {
    table: Arc<TableReader>,
    file: FileId,
    followed: Option<Followed>,
    view: Arc<View>,
    commit: Commit,
    stripes: Arc<Stripes>,
    /// The row that identifies the store.
    identity: Option<Vec<u8>>,
    /// As it was before the table was read, for as long as no log is in use.
    first_page: FirstPage,
}

/// A table file, and the stripes that go with it. It stays open while it is looked at again: a busy writer would have made
/// another checkpoint by the time that it was opened again.
#[derive(Clone)]
struct Opened {
    table: Arc<TableReader>,
    file: FileId,
    stripes: Arc<Stripes>,
}

/// A log that is in use.
struct Followed {
    log: Arc<RedoLog>,
    /// Where the frames end that were read.
    at: Position,
    /// By which they were read; `None` without a writer.
    mark: Option<Mark>,
    checksum: u64,
}

/// What was in motion when it was looked at, and must be looked at again.
struct InMotion;

impl Follower {
    /// Opens a store for reading. Stores whose rows at `identity` differ are different ones.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen` if a writer was opening it for the whole of `lock_wait`, `LogMismatch`, `Corrupted`, `Io`.
    pub(crate) fn open(files: impl FollowedFiles, identity: Row, lock_wait: Duration) -> Result<Self> {
        let files: Box<dyn FollowedFiles> = Box::new(files);
        let mut opened = None;
        let state = lock_wait::opening(lock_wait, || {
            until_at_rest(&*files, || attach(&*files, &identity, &mut opened, None))
        })?;
        let shared = Shared {
            newest: Newest::new(state.snapshot()),
            watched: ArcSwap::from_pointee(state.watched()),
            state: Mutex::new(state),
            bell: Bell::default(),
            dropped: Bell::default(),
            files,
            identity,
            lock_wait,
        };
        let shared = Arc::new(shared);
        let of_thread = Arc::clone(&shared);
        let refresher = thread::Builder::new()
            .name("keystead follower".to_owned())
            .spawn(move || of_thread.refresh_until_dropped())?;
        Ok(Self { shared, refresher: Some(refresher) })
    }

    /// What a reader would be shown that did not look first.
    #[cfg(test)]
    pub(super) fn shown(&self) -> Commit {
        self.shared.newest.read().commit()
    }

    fn table(&self) -> Arc<TableReader> {
        self.shared.lock().table.clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.dropped.end();
        if let Some(refresher) = self.refresher.take() {
            // It writes nothing, and whatever it failed at, the next read would have been told.
            let _ = refresher.join();
        }
    }
}

impl Engine for Follower {
    fn begin_read(&self) -> Result<Reading> {
        if !self.shared.watched.load().is_current(&*self.shared.files)? {
            self.shared.catch_up()?;
        }
        Ok(self.shared.newest.read())
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Err(Error::ReadOnly)
    }

    fn knows_next_commit(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<()> {
        Err(Error::ReadOnly)
    }

    /// The writing process can't wake this one, so it looks every 10 ms.
    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        let mut left = timeout;
        loop {
            if self.begin_read()?.commit() > after {
                return Ok(Waited::Committed);
            }
            let pause = left.min(POLL);
            left -= pause;
            let waited = self.shared.bell.wait(after, pause);
            if waited != Waited::TimedOut || left.is_zero() {
                return Ok(waited);
            }
        }
    }

    fn stop_waiting(&self) {
        self.shared.bell.end();
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.table().check_pages(after, bytes).map(Some)
    }

    fn stats(&self) -> EngineStats {
        EngineStats { wal: None, pages: Some(self.table().page_state()) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What was inserted before a panic shows in no snapshot.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was committed, and shows it.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen` if that is not done in `lock_wait`, also behind other reads of this process.
    fn catch_up(&self) -> Result<()> {
        lock_wait::reading(self.lock_wait, || {
            let state = self.lock();
            let watched = self.watched.load().file;
            let is_same_file = watched.is_none() || is_still(watched, &*self.files)?;
            self.catch_up_in_time(state, is_same_file)
        })
    }

    /// The same, also if the file was replaced behind a writer that was killed.
    fn refresh(&self) -> Result<()> {
        lock_wait::reading(self.lock_wait, || {
            let state = self.lock();
            let is_same_file = is_still(state.file, &*self.files)?;
            if !is_same_file {
                // From here on each read looks, and says what came of it.
                self.watched.store(Arc::new(Watched { file: state.file, ..state.watched() }));
            }
            self.catch_up_in_time(state, is_same_file)
        })
    }

    fn catch_up_in_time(&self, mut state: MutexGuard<'_, State>, is_same_file: bool) -> Result<()> {
        // Somebody else may have done it meanwhile.
        if is_same_file && self.watched.load().is_current(&*self.files)? {
            return Ok(());
        }
        let has_failed = state.table.has_failed();
        let mut opened = (!has_failed).then(|| state.opened());
        until_at_rest(&*self.files, || {
            if is_same_file
                && !has_failed
                && let Some(followed) = state.follow()?
            {
                return Ok(followed);
            }
            let attached = attach(&*self.files, &self.identity, &mut opened, Some(&state))?;
            Ok(attached.map(|attached| *state = attached))
        })?;
        self.newest.publish(state.snapshot());
        self.watched.store(Arc::new(state.watched()));
        self.bell.ring(state.commit);
        Ok(())
    }

    fn refresh_until_dropped(&self) {
        while self.dropped.wait(Commit::default(), REFRESH) == Waited::TimedOut {
            // What fails here fails again in the next read, which says so.
            let _ = self.refresh();
        }
    }
}

impl Watched {
    /// Whether there was no commit since. Of what a writer is about to tell, nothing was acknowledged yet.
    fn is_current(&self, files: &dyn FollowedFiles) -> Result<bool> {
        if self.table.has_failed() {
            return Ok(false);
        }
        let is_current = match &self.by {
            // In this order: while its writer is there, nobody shows more than the mark says; without, others may show what
            // lies behind it.
            By::Mark { log, checksum, needs_writer } => {
                (!needs_writer || log.is_marked()?) && log.mark_checksum()? == *checksum
            }
            By::FirstPage(page) => self.table.is_still(page)?,
        };
        Ok(is_current && (self.file.is_none() || is_still(self.file, files)?))
    }
}

/// Whether a file has the name still; what has lost it was not replaced.
fn is_still(file: FileId, files: &dyn FollowedFiles) -> Result<bool> {
    let now = files.table_now()?;
    Ok(now.is_none() || now == file)
}

impl State {
    fn opened(&self) -> Opened {
        Opened { table: self.table.clone(), file: self.file, stripes: self.stripes.clone() }
    }

    fn snapshot(&self) -> Snapshot {
        let (view, stripes) = (self.view.clone(), self.stripes.clone());
        Snapshot { view, commit: self.commit, stripes }
    }

    fn watched(&self) -> Watched {
        let table = self.table.clone();
        let Some(Followed { log, mark, checksum, .. }) = &self.followed else {
            return Watched { table, by: By::FirstPage(Box::new(self.first_page)), file: self.file };
        };
        let needs_writer = mark.as_ref().is_some_and(|mark| !log.is_of_this_boot(mark));
        let by = By::Mark { log: log.clone(), checksum: *checksum, needs_writer };
        // While there is a writer, the file is not replaced; after it was killed, the refreshing thread looks.
        Watched { table, by, file: if mark.is_some() { None } else { self.file } }
    }

    /// Goes on with the log from where it was read to. `None` if that can't be done, because there is none in use, or what
    /// is needed is there no more.
    fn follow(&mut self) -> Result<Option<Result<(), InMotion>>> {
        let Some(Followed { log, at, mark: Some(former), .. }) = &self.followed else { return Ok(None) };
        let (log, mut at) = (log.clone(), *at);
        let Some(mark) = log.read_mark_that_counts()? else { return Ok(None) };
        if mark.closed || (mark.session, mark.loads) != (former.session, former.loads) {
            return Ok(None);
        }
        if mark.end.segment.sequence.saturating_sub(at.segment.sequence) > SEGMENTS {
            return Ok(None);
        }
        let mut commit = self.commit;
        read_frames(&log, &mut at, mark.end, &mut |frame| {
            if frame.first != next(commit) {
                return Ok(false);
            }
            self.view.active.insert(&frame.commits, &self.stripes)?;
            commit = frame.last;
            Ok(true)
        })?;
        if (at, commit) != (mark.end, mark.commit) {
            // Its segment was used again; or by now the mark says something else.
            return Ok(if log.read_mark()? == Some(mark) { None } else { Some(Err(InMotion)) });
        }
        if must_fit(&self.view.active, &log).is_err() {
            return Ok(None);
        }
        self.commit = commit;
        self.followed = Some(Followed { checksum: mark.checksum(&log.id()), log, at, mark: Some(mark) });
        if mark.base > self.view.base.commit() {
            return self.take_base(mark.base);
        }
        Ok(Some(Ok(())))
    }

    /// Takes a newer snapshot of the table, which has everything up to this commit, and drops what it has from memory.
    /// `None` if it has not: it is not the table of the writer any more.
    fn take_base(&mut self, expected: Commit) -> Result<Option<Result<(), InMotion>>> {
        let base = Arc::new(self.table.newest()?);
        if base.commit() < expected {
            return Ok(None);
        }
        if needs(&base) > self.commit {
            // The next checkpoint has begun.
            return Ok(Some(Err(InMotion)));
        }
        let View { active, frozen, .. } = &*self.view;
        let is_in_table = frozen.as_ref().is_none_or(|frozen| frozen.last <= base.commit());
        self.view = Arc::new(if is_in_table {
            let frozen = Frozen { rows: active.clone(), last: self.commit, oldest_sequence: 0 };
            View { active: Arc::default(), frozen: Some(Arc::new(frozen)), base }
        } else {
            View { active: active.clone(), frozen: frozen.clone(), base }
        });
        Ok(Some(Ok(())))
    }
}

/// From which commit on a snapshot of the table can be read from: one that was taken while a checkpoint was written has
/// some rows as that leaves them.
fn needs(base: &RedbRead) -> Commit {
    match base.log_state() {
        LogState::InUse { floor, .. } => base.commit().max(floor),
        LogState::None | LogState::Closed { .. } => base.commit(),
    }
}

fn next(commit: Commit) -> Commit {
    Commit::new(commit.number().saturating_add(1))
}

/// Looks until what is looked at is not in motion.
fn until_at_rest<T>(
    files: &dyn FollowedFiles,
    mut look: impl FnMut() -> Result<Result<T, InMotion>>,
) -> Result<T> {
    let mut tries = 0;
    loop {
        if let Ok(found) = look()? {
            return Ok(found);
        }
        tries += 1;
        if tries > TRIES_AT_ONCE && !lock_wait::pause(PAUSE) {
            return Err(files.locked());
        }
    }
}

/// Reads frames up to there, segment by segment, as long as they are taken.
fn read_frames(
    log: &RedoLog,
    at: &mut Position,
    to: Position,
    take: &mut dyn FnMut(Chained) -> Result<bool>,
) -> Result<()> {
    while *at != to {
        let mut is_taken = true;
        *at = log.read_chain(*at, Some(to), |frame| {
            is_taken = is_taken && take(frame)?;
            Ok(())
        })?;
        if !is_taken || at.segment.sequence >= to.segment.sequence {
            return Ok(());
        }
        *at = log.begin(at.segment.sequence + 1, to.segment)?;
    }
    Ok(())
}

/// Opens the files again, if they were replaced, and reads what they have.
fn attach(
    files: &dyn FollowedFiles,
    identity: &[u8],
    opened: &mut Option<Opened>,
    former: Option<&State>,
) -> Result<Result<State, InMotion>> {
    let opened = match opened {
        Some(opened) if is_still(opened.file, files)? => opened,
        other => {
            let (table, file) = files.table()?;
            other.insert(Opened { table: Arc::new(table), file, stripes: Arc::new(Stripes::new(STRIPES)) })
        }
    };
    let Opened { table, file, stripes } = opened.clone();
    let first_page = table.first_page()?;
    let base = Arc::new(table.newest()?);
    let same = former.filter(|former| Arc::ptr_eq(&former.table, &table));
    let (followed, rows, commit) = match base.log_state() {
        LogState::None | LogState::Closed { .. } => (None, Arc::default(), base.commit()),
        LogState::InUse { id, .. } => {
            let attached = attach_log(files, id, &table, &base, &stripes);
            let has_mark = matches!(&attached, Ok(Ok((Followed { mark: Some(_), .. }, ..))));
            // Else a writer may have come and gone since the table was read, and have taken the log with it.
            if !has_mark && (table.first_page()? != first_page || !is_still(file, files)?) {
                return Ok(Err(InMotion));
            }
            match attached? {
                Ok((followed, rows, commit)) => (Some(followed), rows, commit),
                Err(InMotion) => return Ok(Err(InMotion)),
            }
        }
    };
    let found = base.get(&[identity])?.pop().flatten().map(|stored| stored.bytes);
    if former.is_some_and(|former| former.identity != found || former.commit > commit) {
        return Err(Error::Replaced(files.name().into()));
    }
    match (same, former) {
        // All that the log has was marked just now; what the table has of it before, only if it was read then.
        (Some(former), _) if former.commit >= base.commit() => {}
        (Some(_), _) => stripes.raise_floor(base.commit()),
        // Of another file nothing counts that was read from the former, nor the other way round.
        (None, Some(former)) => {
            former.stripes.raise_floor(Commit::new(u64::MAX));
            stripes.raise_floor(next(commit));
        }
        (None, None) => {}
    }
    let view = Arc::new(View { active: rows, frozen: None, base });
    Ok(Ok(State { table, file, followed, view, commit, stripes, identity: found, first_page }))
}

type Attached = (Followed, Arc<Memtable>, Commit);

/// Reads what the log has that this snapshot of the table has not.
fn attach_log(
    files: &dyn FollowedFiles,
    id: LogId,
    table: &TableReader,
    base: &RedbRead,
    stripes: &Stripes,
) -> Result<Result<Attached, InMotion>> {
    let mismatch = |what: &str| Error::LogMismatch(format!("{what}: {}", files.name()).into());
    let open = || files.log()?.ok_or_else(|| mismatch("it is missing"));
    let log = RedoLog::follow(open()?)?.of_boot(files.boot());
    if log.id() != id {
        return Err(mismatch(OF_ANOTHER_STORE));
    }
    if let Some(mark) = log.read_mark_that_counts()? {
        return attach_to_mark(log, mark, base, stripes);
    }
    if log.is_marked()? || table.has_writer()? {
        // It opens the store.
        return Ok(Err(InMotion));
    }
    let checksum = log.mark_checksum()?;
    let disk = open()?;
    disk.sync_data()?;
    let recovered = recover(base, disk, stripes, true);
    if table.has_writer()? || log.mark_checksum()? != checksum {
        return Ok(Err(InMotion));
    }
    let Recovery { frozen, end, .. } = recovered?;
    let (rows, commit) = match frozen {
        Some(Frozen { rows, last, .. }) => (rows, last),
        None => (Arc::default(), base.commit()),
    };
    Ok(Ok((Followed { log: Arc::new(log), at: end, mark: None, checksum }, rows, commit)))
}

/// The same, up to the mark of a writer that is there.
fn attach_to_mark(
    log: RedoLog,
    mark: Mark,
    base: &RedbRead,
    stripes: &Stripes,
) -> Result<Result<Attached, InMotion>> {
    // A bulk load is in the table before the mark says so; and there may have been a checkpoint since.
    if mark.closed || mark.commit < needs(base) || mark.base > base.commit() {
        return Ok(Err(InMotion));
    }
    let rows = Arc::new(Memtable::default());
    let mut commit = base.commit();
    // The oldest segment that has something which the table has not.
    let oldest = mark.end.segment.sequence.saturating_sub(SEGMENTS);
    let mut at = log.begin(oldest, mark.end.segment)?;
    read_frames(&log, &mut at, mark.end, &mut |frame| {
        if frame.last <= commit {
            return Ok(true);
        }
        if frame.first != next(commit) {
            return Ok(false);
        }
        rows.insert(&frame.commits, stripes)?;
        must_fit(&rows, &log)?;
        commit = frame.last;
        Ok(true)
    })?;
    if (at, commit) != (mark.end, mark.commit) {
        // It was overwritten meanwhile; or if not, what the mark says is not there.
        let is_still_so = log.read_mark()? == Some(mark);
        return if is_still_so && log.counts(&mark)? {
            Err(Error::Corrupted("the write-ahead log: its frames don't reach to its mark".into()))
        } else {
            Ok(Err(InMotion))
        };
    }
    let checksum = mark.checksum(&log.id());
    Ok(Ok((Followed { log: Arc::new(log), at, mark: Some(mark), checksum }, rows, commit)))
}

/// For tests and fuzzing: files that are in memory, which by their numbers are the table (0) and the log (1).
#[cfg(any(test, fuzzing))]
pub(crate) struct Simulated<F> {
    pub(crate) file: F,
    /// Whether there seems to be a writer.
    pub(crate) is_written: Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(any(test, fuzzing))]
impl<F: Fn(usize) -> B + Send + Sync + 'static, B: StorageBackend> FollowedFiles for Simulated<F> {
    fn table(&self) -> Result<(TableReader, FileId)> {
        let file = self.open(0, crate::engine::redb::WRITER_BYTE);
        Ok((TableReader::on(file, crate::engine::redb::Pages::believed(1 << 20))?, None))
    }

    fn table_now(&self) -> Result<FileId> {
        Ok(None)
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        Ok(Some(Box::new(self.open(1, super::wal::LOCKED_BYTE))))
    }

    fn name(&self) -> String {
        "simulated files".to_owned()
    }
}

#[cfg(any(test, fuzzing))]
impl<F: Fn(usize) -> B, B> Simulated<F> {
    fn open(&self, number: usize, byte: u64) -> crate::engine::disk::Unlocked<B> {
        let (file, is_locked) = ((self.file)(number), self.is_written.clone());
        crate::engine::disk::Unlocked { file, byte, is_locked }
    }
}

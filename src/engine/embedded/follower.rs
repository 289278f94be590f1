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

mod attach;
mod files;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::recovery::must_fit;
use super::snapshot::{Frozen, Snapshot, View};
use super::wal::{Mark, Position, RedoLog};
use crate::engine::bell::Bell;
use crate::engine::lock_wait;
use crate::engine::redb::{FirstPage, TableReader};
use crate::engine::{Engine, EngineStats, Newest, PageRound, Reading, Stripes, Waited, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::Row;
use crate::id::Commit;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{ArcSwap, Mutex, MutexGuard};

use attach::{Opened, attach, needs, next, read_frames};
pub(crate) use files::{FileId, FollowedFiles};

/// How often it looks for commits while nobody reads: a snapshot of the table that is held for long makes the file grow.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a waiting reader looks whether there is a commit.
const POLL: Duration = Duration::from_millis(10);
/// How often what is in motion is looked at again at once, and after which pause later.
const TRIES_AT_ONCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// How many segments may lie between the oldest frame that is needed and the newest.
const SEGMENTS: u64 = 2;

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

//! [`Store::check_pages`], and the same in the background: each page of the table against its checksum.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Store;
use super::files::open_unwritten;
use crate::engine::redb::check_closed_file;
use crate::engine::{Engine, PageRound};
use crate::error::{Error, Result};
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::time::Stopwatch;

/// How many bytes are read before the snapshot is let go, so that the file does not grow for it.
const BYTES_AT_ONCE: u64 = 1 << 20;

/// How much of a table a check in the background still reads, without pauses, when the store is closed: closing takes
/// hardly longer for it, and nothing repeats a check that did not come to its end.
const FINISHED_WHEN_CLOSED: u64 = 64 << 20;
/// For how long it does so. A disk that fails may take many seconds for each page that it can't read.
const FINISHED_WITHIN: Duration = Duration::from_secs(5);
/// When a check in the background looks again that met a lock of another process.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// What a check of the pages of a store's table found; see [`Store::check_pages`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PageCheck {
    /// How many pages were read.
    pub pages: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The pages that are damaged, at most [`DAMAGED_MAX`](Self::DAMAGED_MAX).
    pub damaged: Vec<DamagedPage>,
    /// How many more are damaged than those kept.
    pub damaged_not_kept: u64,
    /// How long it took.
    pub took: Duration,
}

/// A page that is not what the page above it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DamagedPage {
    /// Where it begins in the table's file, in bytes.
    pub offset: u64,
    /// What is wrong with it, in words.
    pub what: String,
}

/// When the pages of a store are checked in the background; see
/// [`Options::page_check`](super::Options::page_check).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BackgroundCheck {
    /// Never: each page is compared only when it is read, or by [`Store::check_pages`].
    Never,
    /// Once, after the store was opened, if the process that wrote it last did not close it. If the store is closed before
    /// the check came to its end, closing reads the rest where that is at most 64 MiB, for at most 5 seconds; what is left
    /// then, nothing reads.
    #[default]
    AfterUncleanEnd,
    /// Once, each time that the store was opened.
    AfterOpening,
}

impl PageCheck {
    /// How many damaged pages are kept; the rest is counted.
    pub const DAMAGED_MAX: usize = 1000;

    /// Whether every page is what it should be.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }

    fn add(&mut self, round: &PageRound) {
        self.pages += round.pages;
        self.bytes += round.bytes;
        for &(offset, what) in &round.damaged {
            if self.damaged.iter().any(|known| known.offset == offset) {
                continue;
            }
            if self.damaged.len() < Self::DAMAGED_MAX {
                self.damaged.push(DamagedPage { offset, what: what.to_owned() });
            } else {
                self.damaged_not_kept += 1;
            }
        }
    }
}

impl Store {
    /// Reads every page of the table from the file, past all caches, and compares it with the checksum by which it is
    /// named: so it finds bytes that changed on the disk, and writes that the disk lost or put elsewhere, before they
    /// are read. At most `bytes_per_second` are read, so others are hardly held up; `u64::MAX` is as fast as the disk.
    /// Others read and write meanwhile. It is for a timer: once a week, say.
    ///
    /// A damaged page is never served, also without this: every page is compared when it is read first. Once one was
    /// found, here or by a read, every write is refused as [`Corrupted`](crate::Error::Corrupted), so that nothing is built
    /// upon it; what can be read is served. [`stats`](Self::stats) and telemetry report it.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::Error::Io). Damage is in what is returned, not an error. A store in memory or on etcd has no pages: it
    /// returns a check of none.
    pub fn check_pages(&self, bytes_per_second: u64) -> Result<PageCheck> {
        let engine = &*self.inner.engine;
        check(&|after| engine.check_pages(after, BYTES_AT_ONCE), bytes_per_second, &|pause, _| {
            thread::sleep(pause);
            false
        })
    }
}

/// Compares every page of the table of a closed store with its checksum, also if the store can't be opened. Nothing is
/// written, and the write-ahead log beside it is not looked at.
///
/// # Errors
///
/// [`AlreadyOpen`](crate::Error::AlreadyOpen) while somebody has it open to write: use [`Store::check_pages`] beside a
/// writer. [`NoStore`](crate::Error::NoStore), [`Io`](crate::Error::Io). Damage is in what is returned.
pub fn check_pages(path: impl AsRef<Path>) -> Result<PageCheck> {
    let path = path.as_ref();
    let run = || {
        let started = Stopwatch::start();
        let mut found = PageCheck::default();
        found.add(&check_closed_file(open_unwritten(path)?)?);
        found.took = started.elapsed();
        Ok(found)
    };
    telemetry::told(Call::CheckPages, Place::default(), run, summary)
}

fn summary(found: &PageCheck) -> Summary {
    Summary {
        bytes: Some(found.bytes),
        troubles: Some(found.damaged.len() as u64 + found.damaged_not_kept),
        ..Summary::default()
    }
}

/// Checks all pages, by rounds that begin where the one before ended, at most `bytes_per_second`, until `stopped`, which waits for the given time and is given how many
/// bytes were read, says so.
pub(super) fn check(
    round: &dyn Fn(Option<Vec<u8>>) -> Result<Option<PageRound>>,
    bytes_per_second: u64,
    stopped: &dyn Fn(Duration, u64) -> bool,
) -> Result<PageCheck> {
    let run = || {
        let started = Stopwatch::start();
        let mut found = PageCheck::default();
        let mut after = None;
        progress::begin("checking pages", None);
        while let Some(round) = round(after)? {
            found.add(&round);
            progress::add(round.pages);
            after = round.next;
            if after.is_none() {
                break;
            }
            let due = Duration::from_secs_f64(found.bytes as f64 / bytes_per_second.max(1) as f64);
            let pause = due.saturating_sub(started.elapsed());
            if stopped(pause, found.bytes) {
                break;
            }
        }
        found.took = started.elapsed();
        Ok(found)
    };
    telemetry::told(Call::CheckPages, Place::default(), run, summary)
}

/// A check in the background. It ends when this is dropped, at once or, if little is left, when it has read that.
pub(super) struct Checker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    /// Since it is to stop.
    stopped: Mutex<Option<Stopwatch>>,
    woken: Condvar,
}

impl Stop {
    /// Waits as long, or until it is to stop; returns since when it is.
    fn wait(&self, pause: Duration) -> Option<Stopwatch> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.woken.wait_timeout_while(stopped, pause, |stopped| stopped.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Checker {
    pub(super) fn begin(engine: Arc<dyn Engine>, bytes_per_second: u64) -> Result<Self> {
        Self::begin_to_finish(engine, bytes_per_second, FINISHED_WITHIN)
    }

    fn begin_to_finish(engine: Arc<dyn Engine>, bytes_per_second: u64, within: Duration) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let of_thread = Arc::clone(&stop);
        let thread = thread::Builder::new().name("keystead page check".to_owned()).spawn(move || {
            let is_much_left = |read| {
                let all = engine.stats().pages.map_or(0, |state| state.bytes);
                all.saturating_sub(read) > FINISHED_WHEN_CLOSED
            };
            let stopped = |pause, read| {
                of_thread.wait(pause).is_some_and(|since| is_much_left(read) || since.elapsed() >= within)
            };
            // While another process holds a lock that it needs, it looks again from time to time.
            let round = |after: Option<Vec<u8>>| loop {
                match engine.check_pages(after.clone(), BYTES_AT_ONCE) {
                    Err(Error::AlreadyOpen(_)) if of_thread.wait(LOCKED_PAUSE).is_none() => {}
                    done => return done,
                }
            };
            // What it finds the engine knows from then on; if the disk fails, whoever reads sees it too.
            let _ = check(&round, bytes_per_second, &stopped);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let since = Some(Stopwatch::start());
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = since;
        self.stop.woken.notify_all();
        // A subscriber that lets the last handle of the store go on the checking thread can't wait for itself.
        if let Some(thread) = self.thread.take().filter(|of| of.thread().id() != thread::current().id()) {
            // If it panicked, its message went to standard error; the engine is as it was.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::engine::lock_holder::locked_by_somebody;
    use crate::engine::{EngineStats, PageState, Reading, Waited, WriteTransaction};
    use crate::id::Commit;

    /// Pages of so many bytes, of which so many were read.
    struct Pages {
        bytes: u64,
        read: AtomicU64,
        /// How long the disk takes for each round.
        slow: Duration,
        /// How many rounds find a lock held by another process first.
        locked: AtomicU64,
    }

    impl Pages {
        fn new(bytes: u64, slow: Duration) -> Self {
            Self { bytes, read: AtomicU64::new(0), slow, locked: AtomicU64::new(0) }
        }
    }

    impl Engine for Pages {
        fn begin_read(&self) -> Result<Reading> {
            Err(Error::NoStore("only its pages are checked".into()))
        }

        fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
            Err(Error::ReadOnly)
        }

        fn wait(&self, _: Commit, _: Duration) -> Result<Waited> {
            Ok(Waited::Closed)
        }

        fn stop_waiting(&self) {}

        fn knows_next_commit(&self) -> bool {
            true
        }

        fn checkpoint(&self) -> Result<()> {
            Ok(())
        }

        fn check_pages(&self, _: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
            thread::sleep(self.slow);
            let locked =
                self.locked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
            if locked.is_ok() {
                return Err(Error::AlreadyOpen(locked_by_somebody()));
            }
            let read = self.read.fetch_add(bytes, Ordering::AcqRel) + bytes;
            let next = (read < self.bytes).then(|| read.to_be_bytes().to_vec());
            Ok(Some(PageRound { next, bytes, ..PageRound::default() }))
        }

        fn stats(&self) -> EngineStats {
            let pages = PageState { bytes: self.bytes, ..PageState::default() };
            EngineStats { wal: None, pages: Some(pages) }
        }
    }

    /// How much of a table is read by a check that comes to nearly nothing before the store is closed.
    fn read_until_closed(bytes: u64) -> u64 {
        let pages = Arc::new(Pages::new(bytes, Duration::ZERO));
        // A byte a second: the first pause is twelve days.
        drop(Checker::begin(Arc::clone(&pages) as Arc<dyn Engine>, 1).unwrap());
        pages.read.load(Ordering::Acquire)
    }

    #[test]
    fn closing_ends_a_check_of_which_much_is_left_and_finishes_any_other() {
        for bytes in
            [BYTES_AT_ONCE, 3 * BYTES_AT_ONCE, FINISHED_WHEN_CLOSED, FINISHED_WHEN_CLOSED + BYTES_AT_ONCE]
        {
            assert_eq!(read_until_closed(bytes), bytes);
        }
        for bytes in [FINISHED_WHEN_CLOSED + 3 * BYTES_AT_ONCE, 1 << 40] {
            assert_eq!(read_until_closed(bytes), BYTES_AT_ONCE, "of {bytes} bytes");
        }
    }

    #[test]
    fn a_lock_of_somebody_else_ends_no_check_and_holds_up_no_closing() {
        for (locked, checked) in [(3, BYTES_AT_ONCE), (u64::MAX, 0)] {
            let pages = Arc::new(Pages::new(BYTES_AT_ONCE, Duration::ZERO));
            pages.locked.store(locked, Ordering::Release);
            let checker = Checker::begin(Arc::clone(&pages) as Arc<dyn Engine>, 1).unwrap();
            let since = Stopwatch::start();
            while pages.read.load(Ordering::Acquire) < checked {
                assert!(since.elapsed() < Duration::from_secs(20), "it gave up");
                thread::sleep(Duration::from_millis(1));
            }
            drop(checker);
            assert_eq!(pages.read.load(Ordering::Acquire), checked);
        }
    }

    #[test]
    fn closing_does_not_wait_for_a_slow_disk() {
        let (bytes, slow) = (FINISHED_WHEN_CLOSED, Duration::from_millis(50));
        let pages = Arc::new(Pages::new(bytes, slow));
        let engine = Arc::clone(&pages) as Arc<dyn Engine>;
        drop(Checker::begin_to_finish(engine, 1, 4 * slow).unwrap());
        let rounds = pages.read.load(Ordering::Acquire) / BYTES_AT_ONCE;
        // Some were read, of 64.
        assert!((1..=6).contains(&rounds), "{rounds}");
    }
}

//! [`Locks`]: the locks that redb takes on its file, waited for with a limit where the call has one.
//!
//! redb waits for a lock by a call that has no limit: a process that is stopped between two of its own lock calls would
//! hold it up for ever. So this asks again and again instead. What waits without a limit, as a commit does, is counted
//! and reported while it waits.

use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::engine::LockStats;
use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::lock_holder::{FileId, locked};
use crate::engine::lock_wait::{self, LOCK_WAIT_DEFAULT, Wanted};
use crate::error::{Error, Locked, Result};
use crate::telemetry;
use crate::time::Stopwatch;

/// How often a refused lock is asked for again before the thread sleeps: redb holds its header for microseconds.
const YIELDS_MAX: u32 = 20;
/// Each sleep is this part of the time that was waited so far: by so much a wait becomes longer than it must be.
const PAUSE_PART: u32 = 20;
/// The shortest sleep.
const PAUSE_MIN: Duration = Duration::from_micros(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// When a wait is reported.
const REPORTED_AFTER: Duration = Duration::from_secs(1);

/// The lock calls on one file.
#[derive(Default)]
pub(crate) struct Locks {
    state: Mutex<State>,
}

struct State {
    file: Option<FileId>,
    /// How long a read and the closing wait.
    limit: Duration,
    stats: LockStats,
    /// The call that waits. redb has one at a time: all hold its own lock of the header.
    waiting: Option<(Stopwatch, Wanted)>,
    /// How long was waited since the file is being closed.
    closing: Option<Duration>,
}

impl Default for State {
    fn default() -> Self {
        let (limit, stats) = (LOCK_WAIT_DEFAULT, LockStats::default());
        Self { file: None, limit, stats, waiting: None, closing: None }
    }
}

/// What redb gets when a lock could not be had in time.
#[derive(Debug, thiserror::Error)]
#[error("a lock on the table is missing: {0}")]
pub(crate) struct NotInTime(pub(crate) Locked);

/// How long a call waits until it asks again: the longer, the longer it has waited.
struct Backoff {
    since: Stopwatch,
    yields: u32,
}

impl Backoff {
    fn begin() -> Self {
        Self { since: Stopwatch::start(), yields: 0 }
    }

    /// Waits by `pause`, or lets only others run at first; returns whether to ask again.
    fn wait(&mut self, pause: impl Fn(Duration) -> bool) -> bool {
        if self.yields < YIELDS_MAX {
            self.yields += 1;
            thread::yield_now();
            return true;
        }
        pause((self.since.elapsed() / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX))
    }
}

/// A call that waits, until this is dropped.
struct Waiting<'a> {
    locks: &'a Locks,
    since: Stopwatch,
    reported: bool,
}

impl Locks {
    pub(crate) fn new(file: Option<FileId>, limit: Duration) -> Self {
        Self { state: Mutex::new(State { file, limit, ..State::default() }) }
    }

    /// What was waited for so far, the call that waits now included.
    pub(super) fn stats(&self) -> LockStats {
        let state = self.state();
        let waiting = state.waiting.map(|(since, _)| since.elapsed());
        LockStats { waiting, longest: state.stats.longest.max(waiting.unwrap_or_default()), ..state.stats }
    }

    /// Runs what reads by redb: it fails when it has waited for a lock as long as it may, also behind another call of
    /// this process.
    pub(crate) fn reading<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let limit = self.state().limit;
        lock_wait::reading(limit, || {
            self.wait_for_other_calls()?;
            read()
        })
    }

    /// redb takes a lock of its own before it asks for that of the file, and who waits there can't give up.
    fn wait_for_other_calls(&self) -> Result<()> {
        let mut backoff = Backoff::begin();
        loop {
            let Some((_, wanted)) = self.state().waiting else { return Ok(()) };
            if !backoff.wait(lock_wait::pause) {
                return Err(Error::AlreadyOpen(self.locked(wanted)));
            }
        }
    }

    /// From here on no call waits longer than its limit, all of them together.
    pub(crate) fn close(&self) {
        self.state().closing.get_or_insert(Duration::ZERO);
    }

    /// Asks for a lock until it is there, or the call may wait no longer.
    pub(super) fn acquire(
        &self,
        file: &dyn StorageBackend,
        range: (Bound<u64>, Bound<u64>),
        exclusive: bool,
    ) -> Result<(), BackendError> {
        let try_lock = || match exclusive {
            true => file.try_lock_range(range.0, range.1),
            false => file.try_lock_shared_range(range.0, range.1),
        };
        if try_lock()? {
            return Ok(());
        }
        let wanted = Wanted::new(range, exclusive);
        lock_wait::note_refused(wanted);
        let mut waiting = self.wait(wanted);
        let mut backoff = Backoff::begin();
        while backoff.wait(|pause| self.pause(pause)) {
            if try_lock()? {
                return Ok(());
            }
            waiting.report(wanted);
        }
        drop(waiting);
        let error = io::Error::new(io::ErrorKind::TimedOut, NotInTime(self.locked(wanted)));
        Err(BackendError::Io(error))
    }

    fn wait(&self, wanted: Wanted) -> Waiting<'_> {
        let since = Stopwatch::start();
        let mut state = self.state();
        state.stats.waits += 1;
        state.waiting = Some((since, wanted));
        Waiting { locks: self, since, reported: false }
    }

    /// Sleeps; returns false at once if there is no time left.
    fn pause(&self, at_most: Duration) -> bool {
        let (limit, closing) = {
            let state = self.state();
            (state.limit, state.closing)
        };
        let Some(waited) = closing else { return lock_wait::pause(at_most) };
        let left = limit.saturating_sub(waited);
        if left.is_zero() {
            return false;
        }
        let since = Stopwatch::start();
        let is_time_left = lock_wait::pause(left.min(at_most));
        self.state().closing = Some(waited + since.elapsed());
        is_time_left
    }

    fn locked(&self, wanted: Wanted) -> Locked {
        let file = self.state().file.clone();
        locked(file.as_ref(), wanted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Reports the wait once, if it is long.
    fn report(&mut self, wanted: Wanted) {
        if !self.reported && self.since.elapsed() >= REPORTED_AFTER {
            self.reported = true;
            telemetry::lock_waited_for(self.locks.locked(wanted).holder);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        let mut state = self.locks.state();
        state.waiting = None;
        state.stats.longest = state.stats.longest.max(waited);
        drop(state);
        if self.reported {
            telemetry::lock_wait_ended(waited);
        }
    }
}

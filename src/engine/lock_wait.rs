//! How long a call waits for locks on a file while another process holds them.
//!
//! redb asks for locks deep inside its calls. So a call that gives up at some time says on its thread how long it waits,
//! and the lock calls of redb, which all go through `redb::pages::locks`, ask here. Without a limit they wait on: a commit
//! that redb can't complete would leave the store unable to write.

use std::cell::Cell;
use std::ops::Bound;
use std::time::Duration;

use crate::sync::thread;
use crate::time::Stopwatch;

/// How long an opening waits by default.
pub(crate) const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(1);

crate::sync::thread_local! {
    static PATIENCE: Cell<Option<Patience>> = const { Cell::new(None) };
}

fn current() -> Option<Patience> {
    PATIENCE.with(Cell::get)
}

fn set_patience(patience: Option<Patience>) {
    PATIENCE.with(|cell| cell.set(patience));
}

/// How long the call that runs on this thread waits.
#[derive(Clone, Copy)]
struct Patience {
    wait: Duration,
    spent: Spent,
    refused: Option<Wanted>,
}

/// What counts as waiting.
#[derive(Clone, Copy)]
enum Spent {
    /// Only the time that locks were waited for, so far this: an opening may take long for other reasons.
    Waiting(Duration),
    /// All time since then: redb has a read wait behind others of this process for their locks.
    Since(Stopwatch),
}

/// Bytes of a file on which a lock was wanted, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "only there the holder of a lock is looked for")
)]
pub(crate) struct Wanted {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) exclusive: bool,
}

impl Wanted {
    pub(crate) fn new((start, end): (Bound<u64>, Bound<u64>), exclusive: bool) -> Self {
        let first = match start {
            Bound::Unbounded => 0,
            Bound::Included(first) => first,
            Bound::Excluded(before) => before.saturating_add(1),
        };
        let last = match end {
            Bound::Unbounded => u64::MAX,
            Bound::Included(last) => last,
            Bound::Excluded(after) => after.saturating_sub(1),
        };
        Self { first, last, exclusive }
    }

    pub(crate) fn whole_file(exclusive: bool) -> Self {
        Self::new((Bound::Unbounded, Bound::Unbounded), exclusive)
    }
}

impl Patience {
    fn left(&self) -> Duration {
        self.wait.saturating_sub(match self.spent {
            Spent::Waiting(waited) => waited,
            Spent::Since(since) => since.elapsed(),
        })
    }
}

/// Runs an opening: its lock calls wait as long as this in all, and then fail.
pub(crate) fn opening<T>(wait: Duration, run: impl FnOnce() -> T) -> T {
    limited(Patience { wait, spent: Spent::Waiting(Duration::ZERO), refused: None }, run)
}

/// Runs a read: its lock calls fail when it has taken as long as this.
pub(crate) fn reading<T>(wait: Duration, run: impl FnOnce() -> T) -> T {
    limited(Patience { wait, spent: Spent::Since(Stopwatch::start()), refused: None }, run)
}

/// The outermost limit counts: a read that an opening makes is part of the opening.
fn limited<T>(patience: Patience, run: impl FnOnce() -> T) -> T {
    /// Also where redb panics.
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            set_patience(None);
        }
    }
    if current().is_some() {
        return run();
    }
    set_patience(Some(patience));
    let _over = Over;
    run()
}

/// Sleeps, at most for what is left of the waiting time; if nothing is, returns false at once.
pub(crate) fn pause(at_most: Duration) -> bool {
    let Some(patience) = current() else {
        thread::sleep(at_most);
        return true;
    };
    let left = patience.left();
    if left.is_zero() {
        return false;
    }
    let since = Stopwatch::start();
    thread::sleep(left.min(at_most));
    if let Spent::Waiting(waited) = patience.spent {
        set_patience(Some(Patience { spent: Spent::Waiting(waited + since.elapsed()), ..patience }));
    }
    true
}

/// Notes that somebody else holds a lock on these bytes.
pub(crate) fn note_refused(wanted: Wanted) {
    if let Some(patience) = current() {
        set_patience(Some(Patience { refused: Some(wanted), ..patience }));
    }
}

/// Which lock was refused last in the call that runs.
pub(crate) fn refused() -> Option<Wanted> {
    current().and_then(|patience| patience.refused)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn an_opening_counts_only_the_time_that_it_waits() {
        opening(SHORT, || {
            thread::sleep(2 * SHORT);
            assert!(pause(SHORT / 2), "nothing was waited for yet");
            assert!(pause(Duration::MAX), "and it sleeps only for what is left");
            assert!(!pause(SHORT));
        });
    }

    #[test]
    fn a_read_counts_all_its_time() {
        reading(SHORT, || {
            thread::sleep(SHORT);
            assert!(!pause(SHORT));
        });
    }

    #[test]
    fn the_outermost_limit_counts_and_ends_also_by_a_panic() {
        opening(Duration::ZERO, || reading(SHORT, || assert!(!pause(SHORT))));
        let panicked = std::panic::catch_unwind(|| opening(Duration::ZERO, || panic!("a page is damaged")));
        assert!(panicked.is_err());
        assert!(pause(Duration::ZERO), "without a limit it waits on");
    }

    #[test]
    fn bounds_become_the_bytes_that_they_hold() {
        let wanted = |start, end| {
            let Wanted { first, last, .. } = Wanted::new((start, end), true);
            (first, last)
        };
        assert_eq!(wanted(Bound::Included(0), Bound::Excluded(320)), (0, 319));
        assert_eq!(wanted(Bound::Excluded(7), Bound::Included(9)), (8, 9));
        assert_eq!(wanted(Bound::Unbounded, Bound::Unbounded), (0, u64::MAX));
    }
}

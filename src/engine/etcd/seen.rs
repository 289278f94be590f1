//! [`Seen`]: what this process knows of the cluster by watching it: up to which revision it has seen every change,
//! and which rows changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Event, EventType};

use super::layout::{Layout, Of};
use crate::engine::bell::Bell;
use crate::engine::{RowHash, Stripes};
use crate::id::Commit;
use crate::time::Stopwatch;

/// How many stripes the rows are spread over: they take half a mebibyte.
const STRIPES: usize = 1 << 16;

/// A chapter of the log, and the revision at which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chapter {
    pub(super) number: u64,
    pub(super) start: u64,
}

/// Everything here only grows, but for a moment in which nothing is known.
pub(super) struct Seen {
    stripes: Stripes,
    /// Every change from behind `since` up to here was seen; 0 while nothing is known.
    revision: AtomicU64,
    since: AtomicU64,
    /// The newest revision that this process was told of by an answer.
    told: AtomicU64,
    /// What was seen at that many microseconds is all that was acknowledged before; 0 for never.
    fresh: AtomicU64,
    began: Stopwatch,
    chapter: Mutex<Chapter>,
    moved: Condvar,
    pub(super) bell: Bell,
}

impl Seen {
    pub(super) fn new(chapter: Chapter) -> Self {
        Self {
            stripes: Stripes::new(STRIPES),
            revision: AtomicU64::new(0),
            since: AtomicU64::new(0),
            told: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            began: Stopwatch::start(),
            chapter: Mutex::new(chapter),
            moved: Condvar::new(),
            bell: Bell::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Chapter> {
        // Nothing can panic while it is held.
        self.chapter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest chapter that is known.
    pub(super) fn chapter(&self) -> Chapter {
        *self.lock()
    }

    pub(super) fn note_chapter(&self, chapter: Chapter) {
        let mut newest = self.lock();
        if (chapter.number, chapter.start) > (newest.number, newest.start) {
            *newest = chapter;
        }
    }

    /// Up to which revision every change was seen; `None` while nothing is known.
    pub(super) fn revision(&self) -> Option<u64> {
        Some(self.revision.load(Ordering::Acquire)).filter(|revision| *revision > 0)
    }

    /// Notes that an answer told of this revision.
    pub(super) fn tell(&self, revision: u64) {
        self.told.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// The revision up to which everything was seen, if that is all that this process was told of; waits a little
    /// for it.
    pub(super) fn caught_up(&self, patience: Duration) -> Option<u64> {
        let told = self.told();
        self.wait_for(told, patience);
        self.revision().filter(|revision| *revision >= told)
    }

    /// Waits until every change up to this revision was seen, but not longer than that.
    pub(super) fn wait_for(&self, revision: u64, patience: Duration) {
        if self.revision.load(Ordering::Acquire) >= revision {
            return;
        }
        let waiting = |_: &mut Chapter| self.revision.load(Ordering::Acquire) < revision;
        drop(self.moved.wait_timeout_while(self.lock(), patience, waiting));
    }

    /// Begins anew: this revision is where the watching begins.
    pub(super) fn begin_at(&self, revision: u64) {
        self.revision.store(0, Ordering::Release);
        self.since.store(revision, Ordering::Release);
        self.move_to(revision);
        self.bell.ring(Commit::new(revision));
    }

    fn move_to(&self, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        // Who waits has either seen that, or sleeps by now.
        drop(self.lock());
        self.moved.notify_all();
    }

    /// Takes what the watch brings: all events of some revisions, in their order. Returns the last.
    pub(super) fn take(&self, layout: &Layout, events: &[Event]) -> Option<u64> {
        let (mut last, mut commit) = (None, None);
        for event in events {
            let Some(value) = event.kv() else { continue };
            let revision = u64::try_from(value.mod_revision()).unwrap_or_default();
            match layout.read(value.key()) {
                Of::Row(address) => {
                    self.stripes.mark(RowHash::of(address), Commit::new(revision));
                    commit = Some(revision);
                }
                Of::Entry | Of::Trimmed => commit = Some(revision),
                Of::Chapter(number) if event.event_type() == EventType::Put => {
                    self.note_chapter(Chapter { number, start: revision });
                }
                Of::Chapter(_) | Of::Own => {}
            }
            last = Some(revision);
        }
        commit.into_iter().for_each(|revision| self.bell.ring(Commit::new(revision)));
        // Only now: who reads at this revision finds the marks of all up to it.
        last.into_iter().for_each(|revision| self.move_to(revision));
        last
    }

    /// Whether a row surely was at one revision what it was at another.
    pub(super) fn unchanged(&self, row: RowHash, one: u64, other: u64) -> bool {
        let (earlier, later) = (one.min(other), one.max(other));
        let Some(seen) = self.revision() else { return false };
        later <= seen
            && earlier >= self.since.load(Ordering::Acquire)
            && self.stripes.last(row).number() <= earlier
    }

    /// The present moment, for [`note_fresh`](Self::note_fresh).
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Notes that everything which was acknowledged before this moment has been seen.
    pub(super) fn note_fresh(&self, moment: u64) {
        self.fresh.fetch_max(moment, Ordering::AcqRel);
    }

    /// How old what was seen may be; `None` if that is not known.
    pub(super) fn age(&self) -> Option<Duration> {
        let fresh = self.fresh.load(Ordering::Acquire);
        (fresh > 0 && self.revision().is_some())
            .then(|| Duration::from_micros(self.now().saturating_sub(fresh)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_watched_may_have_changed() {
        let seen = Seen::new(Chapter { number: 0, start: 1 });
        let row = RowHash::of(b"row");
        assert!(!seen.unchanged(row, 5, 6), "nothing is known yet");
        seen.begin_at(10);
        assert!(seen.unchanged(row, 10, 10));
        assert!(!seen.unchanged(row, 9, 10), "what was before was not seen");
        assert!(!seen.unchanged(row, 10, 11), "what comes was not seen");
        seen.stripes.mark(row, Commit::new(12));
        seen.move_to(14);
        assert!(seen.unchanged(row, 10, 11) == (seen.stripes.last(row).number() <= 10));
        assert!(!seen.unchanged(row, 11, 12), "it changed in between");
        assert!(seen.unchanged(row, 12, 14) && seen.unchanged(row, 14, 12));
        seen.begin_at(20);
        assert!(!seen.unchanged(row, 14, 20), "there was a gap");
        assert!(seen.unchanged(row, 20, 20));
    }

    #[test]
    fn it_has_caught_up_when_it_has_seen_what_it_was_told() {
        let seen = Seen::new(Chapter { number: 0, start: 1 });
        assert_eq!(seen.caught_up(Duration::ZERO), None);
        seen.begin_at(10);
        assert_eq!(seen.caught_up(Duration::ZERO), Some(10));
        seen.tell(12);
        assert_eq!(seen.caught_up(Duration::from_millis(1)), None);
        std::thread::scope(|threads| {
            let waiter = threads.spawn(|| seen.caught_up(Duration::from_secs(60)));
            seen.move_to(13);
            assert_eq!(waiter.join().unwrap(), Some(13));
        });
    }

    #[test]
    fn its_age_is_known_once_something_was_seen() {
        let seen = Seen::new(Chapter { number: 0, start: 1 });
        seen.begin_at(10);
        assert_eq!(seen.age(), None);
        let before = seen.now();
        seen.note_fresh(before);
        assert!(seen.age().unwrap() <= Duration::from_micros(seen.now() - before));
    }
}

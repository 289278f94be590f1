//! Counting without end in memory that has one: [`First`], [`Classes`], [`Timeline`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use keystead::Timestamp;

/// The first so many of any number of things, in an order.
pub(super) struct First<O, T> {
    kept: BinaryHeap<Ranked<O, T>>,
    most: usize,
    seen: u64,
}

struct Ranked<O, T> {
    order: O,
    what: T,
}

impl<O: Ord, T> First<O, T> {
    pub(super) fn new(most: usize) -> Self {
        Self { kept: BinaryHeap::new(), most, seen: 0 }
    }

    pub(super) fn see(&mut self, order: O, what: T) {
        self.seen += 1;
        self.kept.push(Ranked { order, what });
        if self.kept.len() > self.most {
            self.kept.pop();
        }
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Those that were kept, in their order, and how many were not.
    pub(super) fn kept(&self) -> (Vec<&T>, u64) {
        let mut kept: Vec<_> = self.kept.iter().collect();
        kept.sort_by(|one, other| one.order.cmp(&other.order));
        let left_out = self.seen - kept.len() as u64;
        (kept.into_iter().map(|ranked| &ranked.what).collect(), left_out)
    }
}

impl<O: Ord, T> Ord for Ranked<O, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

impl<O: Ord, T> PartialOrd for Ranked<O, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<O: Ord, T> PartialEq for Ranked<O, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<O: Ord, T> Eq for Ranked<O, T> {}

/// How many numbers fall into each of some ranges.
pub(super) struct Classes {
    /// The largest number of each range, and its name.
    ranges: &'static [(u64, &'static str)],
    counts: Vec<u64>,
}

impl Classes {
    /// The last range goes up to `u64::MAX`.
    pub(super) fn new(ranges: &'static [(u64, &'static str)]) -> Self {
        Self { ranges, counts: vec![0; ranges.len()] }
    }

    pub(super) fn see(&mut self, number: u64) {
        let of = self.ranges.iter().position(|(largest, _)| number <= *largest);
        if let Some(count) = of.and_then(|index| self.counts.get_mut(index)) {
            *count += 1;
        }
    }

    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.ranges.iter().map(|(_, name)| *name).zip(self.counts.iter().copied())
    }
}

pub(super) const HOUR: u64 = 60 * 60 * 1000;
pub(super) const DAY: u64 = 24 * HOUR;
/// How long a stretch of a timeline may be: each a whole number of the one before it. Behind the last, ten times as
/// long again and again.
const LENGTHS: [u64; 7] = [HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY, 84 * DAY, 336 * DAY];
/// Days by which stretches are moved, so that weeks begin on Mondays.
const MOVED: u64 = 3 * DAY;
/// How many stretches are told apart while the history is read.
const STRETCHES_MAX: usize = 2000;

/// What happened in one stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) keys_made: u64,
    pub(super) keys_gone: u64,
    pub(super) aliases_made: u64,
    pub(super) aliases_gone: u64,
    /// Changes of what was there before and after.
    pub(super) changed: u64,
}

impl Happened {
    pub(super) fn all(&self) -> u64 {
        self.keys_made + self.keys_gone + self.aliases_made + self.aliases_gone + self.changed
    }

    pub(super) fn add(&mut self, other: Self) {
        self.keys_made += other.keys_made;
        self.keys_gone += other.keys_gone;
        self.aliases_made += other.aliases_made;
        self.aliases_gone += other.aliases_gone;
        self.changed += other.changed;
    }
}

/// What happened when, by stretches of time that become longer the more of them there are.
#[derive(Clone)]
pub(super) struct Timeline {
    length: u64,
    stretches: BTreeMap<u64, Happened>,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self { length: LENGTHS[0], stretches: BTreeMap::new() }
    }

    pub(super) fn see(&mut self, time: Timestamp, happened: Happened) {
        let moved = time.as_millis().saturating_add(MOVED);
        self.stretches.entry(moved / self.length).or_default().add(happened);
        while self.stretches.len() > STRETCHES_MAX {
            self.coarsen();
        }
    }

    /// So coarse that from the first to the last there are at most so many stretches: each of them, those without
    /// anything too, and how long one is, in milliseconds.
    pub(super) fn into_stretches(mut self, most: u64) -> (Vec<(Timestamp, Happened)>, u64) {
        loop {
            let (Some(first), Some(last)) =
                (self.stretches.first_key_value(), self.stretches.last_key_value())
            else {
                return (Vec::new(), self.length);
            };
            if last.0 - first.0 < most {
                let begin = |index: u64| index.saturating_mul(self.length).saturating_sub(MOVED);
                let one = |index| {
                    let happened = self.stretches.get(&index).copied().unwrap_or_default();
                    (Timestamp::from_millis(begin(index)), happened)
                };
                return ((*first.0..=*last.0).map(one).collect(), self.length);
            }
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        let next = LENGTHS.iter().copied().find(|length| *length > self.length);
        let next = next.unwrap_or(self.length.saturating_mul(10));
        let times = next / self.length;
        self.length = next;
        for (index, happened) in std::mem::take(&mut self.stretches) {
            self.stretches.entry(index / times).or_default().add(happened);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]
mod tests {
    use keystead::Timestamp;

    use super::{Classes, DAY, First, HOUR, Happened, STRETCHES_MAX, Timeline};

    #[test]
    fn the_first_are_kept_and_the_others_counted() {
        let mut first = First::new(3);
        [5, 1, 4, 1, 3, 9].into_iter().zip("abcdef".chars()).for_each(|(order, what)| {
            first.see((order, what), what);
        });
        assert_eq!(first.kept(), (vec![&'b', &'d', &'e'], 3));
        assert_eq!(First::<u8, u8>::new(3).kept(), (Vec::new(), 0));
    }

    #[test]
    fn numbers_fall_into_their_ranges() {
        let mut classes = Classes::new(&[(0, "none"), (9, "few"), (u64::MAX, "many")]);
        [0, 1, 9, 10, u64::MAX].into_iter().for_each(|number| classes.see(number));
        assert_eq!(classes.named().collect::<Vec<_>>(), [("none", 1), ("few", 2), ("many", 2)]);
    }

    fn one() -> Happened {
        Happened { keys_made: 1, ..Happened::default() }
    }

    #[test]
    fn a_timeline_has_each_stretch_and_loses_nothing() {
        let monday = Timestamp::from_millis(4 * DAY);
        let mut timeline = Timeline::new();
        timeline.see(monday, one());
        timeline.see(Timestamp::from_millis(4 * DAY + 2 * HOUR), one());
        let (stretches, length) = timeline.into_stretches(60);
        assert_eq!((stretches.len(), length), (3, HOUR));
        assert_eq!((stretches[0], stretches[1].1), ((monday, one()), Happened::default()));

        let mut timeline = Timeline::new();
        (0..400).for_each(|day| timeline.see(Timestamp::from_millis((4 + day) * DAY), one()));
        let (stretches, length) = timeline.into_stretches(60);
        assert_eq!((stretches[0].0, length), (monday, 7 * DAY), "weeks begin on Mondays");
        assert_eq!(stretches.iter().map(|(_, happened)| happened.all()).sum::<u64>(), 400);
    }

    #[test]
    fn clocks_that_say_anything_take_no_memory() {
        let mut timeline = Timeline::new();
        for number in 0..20_000_u64 {
            timeline.see(Timestamp::from_millis(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)), one());
            assert!(timeline.stretches.len() <= STRETCHES_MAX);
        }
        timeline.see(Timestamp::from_millis(u64::MAX), one());
        let (stretches, _) = timeline.into_stretches(60);
        assert!(stretches.len() <= 60);
        assert_eq!(stretches.iter().map(|(_, happened)| happened.all()).sum::<u64>(), 20_001);
        assert_eq!(Timeline::new().into_stretches(60).0.len(), 0);
    }
}

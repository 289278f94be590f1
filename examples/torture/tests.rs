//! Tests of the torture: a store keeps its promises, whoever lies is found out, and one case does the same
//! each time.

use crate::Seeds;
use crate::case::{Settings, Verdict, run};
use crate::random::Random;
use crate::session::{Met, Sabotage};

fn cases(seed: u64, count: usize, settings: Settings) -> impl Iterator<Item = Verdict> {
    Seeds(Random::new(seed)).take(count).map(move |seed| run(seed, settings))
}

/// What must happen: a promise that nothing was asked of is not kept.
const MUST_HAPPEN: [&str; 19] = [
    "checkpoints",
    "creations",
    "deletions",
    "entries of the feed",
    "failed",
    "imports",
    "moves",
    "once",
    "purges",
    "reads",
    "refused",
    "renames",
    "replayed",
    "several",
    "swaps",
    "too large",
    "trims",
    "unchanged",
    "unknown",
];

#[test]
fn a_store_keeps_its_promises_and_everything_is_met() {
    let (mut met, mut crashes, mut faults) = (Met::default(), 0, 0);
    // Which calls make a commit depends on how threads are scheduled: a rare one may need more cases.
    let (at_least, at_most) = (24, 240);
    let is_missing = |met: &Met| MUST_HAPPEN.into_iter().find(|name| met.times(name) == 0);
    for (number, verdict) in cases(1, at_most, Settings::default()).enumerate() {
        assert_eq!(verdict.violation, None, "case {number}");
        met.add(&verdict.met);
        crashes += verdict.disk.crashes;
        faults += verdict.disk.faults;
        if number + 1 >= at_least && is_missing(&met).is_none() {
            break;
        }
    }
    assert!(crashes > 50 && faults > 20, "{crashes} crashes, {faults} faults");
    assert_eq!(is_missing(&met), None, "never happened: {met}");
}

#[test]
fn whoever_lies_is_found_out() {
    for sabotage in
        [Sabotage::LyingSync, Sabotage::StaleRead, Sabotage::EarlyAcknowledgement, Sabotage::HiddenCommit]
    {
        for logged in [false, true] {
            let settings = Settings { logged: Some(logged), sabotage: Some(sabotage), ..Settings::default() };
            let found = cases(2, 40, settings).any(|verdict| verdict.violation.is_some());
            assert!(found, "{sabotage:?} was not found out, log: {logged}");
        }
    }
}

#[test]
fn one_thread_without_a_log_does_the_same_each_time() {
    let settings = Settings { logged: Some(false), threads: Some(1), sabotage: None };
    let all = || cases(3, 6, settings).map(|verdict| (verdict.disk, verdict.met));
    assert!(all().eq(all()));
}

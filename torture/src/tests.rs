//! Tests of the torture: a store keeps its promises, whoever lies is found out, and one case does the same
//! each time.

use std::sync::atomic::AtomicU64;

use crate::Seeds;
use crate::call::options;
use crate::case::{Settings, Verdict, run};
use crate::content::{Change, Content};
use crate::disk::Disk;
use crate::oracle::{Held, Oracle};
use crate::random::Random;
use crate::session::{Met, Outcome, Sabotage, Seen, Session, Told};

fn cases(seed: u64, count: usize, settings: Settings) -> impl Iterator<Item = Verdict> {
    Seeds(Random::new(seed)).take(count).map(move |seed| run(seed, settings))
}

/// So that in the same time there are more cases.
const FEW_IMAGES: u64 = 2;

/// What must happen: a promise that nothing was asked of is not kept.
const MUST_HAPPEN: [&str; 27] = [
    "checkpoints",
    "crash images",
    "crash images of openings",
    "crash images that were followed",
    "creations",
    "deletions",
    "entries of the feed",
    "entries of the feed of followers",
    "failed",
    "failed reads of followers",
    "followers",
    "imports",
    "moves",
    "once",
    "purges",
    "reads",
    "reads of followers",
    "reads without a writer",
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
    let (mut met, mut crashes, mut crash_points, mut faults) = (Met::default(), 0, 0, 0);
    let settings = Settings { images_max: FEW_IMAGES, ..Settings::default() };
    // Which calls make a commit depends on how threads are scheduled: a rare one may need more cases.
    let (at_least, at_most) = (24, 240);
    let is_missing = |met: &Met| MUST_HAPPEN.into_iter().find(|name| met.times(name) == 0);
    for (number, verdict) in cases(1, at_most, settings).enumerate() {
        assert_eq!(verdict.violation, None, "case {number}");
        met.add(&verdict.met);
        crashes += verdict.disk.crashes;
        crash_points += verdict.crash_points;
        faults += verdict.disk.faults;
        if number + 1 >= at_least && is_missing(&met).is_none() {
            break;
        }
    }
    assert!(crashes > 50 && faults > 20, "{crashes} crashes, {faults} faults");
    assert!(crash_points > 100, "{crash_points} crash points");
    assert_eq!(is_missing(&met), None, "never happened: {met}");
}

#[test]
fn whoever_lies_is_found_out() {
    for sabotage in
        [Sabotage::LyingSync, Sabotage::StaleRead, Sabotage::EarlyAcknowledgement, Sabotage::HiddenCommit]
    {
        for logged in [false, true] {
            let (logged, sabotage, images_max) = (Some(logged), Some(sabotage), FEW_IMAGES);
            let settings = Settings { logged, sabotage, images_max, ..Settings::default() };
            let found = cases(2, 40, settings).any(|verdict| verdict.violation.is_some());
            assert!(found, "{sabotage:?} was not found out, log: {logged:?}");
        }
    }
}

#[test]
fn followers_that_lie_are_found_out() {
    for sabotage in [Sabotage::StaleFollower, Sabotage::UnsyncedFollower, Sabotage::BlindFollower] {
        let (logged, followers, sabotage) = (Some(true), Some(2), Some(sabotage));
        let settings = Settings { logged, followers, sabotage, images_max: 6, ..Settings::default() };
        let found = cases(2, 300, settings).any(|verdict| verdict.violation.is_some());
        assert!(found, "{sabotage:?} was not found out");
    }
}

/// A store whose disk lies about a sync has lost something in a crash at another moment than that of the case.
#[test]
fn crash_images_find_what_was_lost() {
    for logged in [false, true] {
        let sabotage = Some(Sabotage::LyingSync);
        let settings = Settings { logged: Some(logged), sabotage, ..Settings::default() };
        let by_image = |verdict: Verdict| {
            verdict.violation.is_some_and(|what| {
                what.starts_with("after a crash at call") && what.contains("is the newest that is left")
            })
        };
        assert!(cases(5, 40, settings).any(by_image), "log: {logged}");
    }
}

/// Changes what was told, or what a store holds.
type Spoil<'a> = &'a dyn Fn(&mut Told, &mut Held);

/// Each difference between what a store holds after a crash and what it must hold is found.
#[test]
fn each_difference_of_a_crash_image_is_found() {
    let disk = Disk::new(Random::new(9), None);
    let oracle = Oracle::new().unwrap();
    let store = options().open_on(disk.table(), None).unwrap();
    let (numbers, seen) = (AtomicU64::new(0), Seen::up_to(oracle.newest()));
    let session =
        Session { store: &store, disk: &disk, numbers: &numbers, seen, sabotage: None, heavy: false };
    let told = session.run(&mut Random::new(10), 1, 40, &mut []);
    let found = |spoil: Spoil<'_>| {
        let mut told = Told { calls: told.calls.clone(), heard: told.heard.clone(), ..Told::default() };
        let mut held = oracle.held(&store, &told, u64::MAX).unwrap();
        spoil(&mut told, &mut held);
        oracle.compare_all(&told, vec![held]).err().unwrap_or_default()
    };
    let is_made = |told: &Told| {
        let is_made = |outcome: &Outcome| matches!(outcome, Outcome::Made(_));
        told.calls.iter().position(|made| is_made(&made.outcome)).unwrap()
    };
    assert_eq!(found(&|_, _| {}), "");
    let cases: [(&str, Spoil<'_>); 6] = [
        ("scope 1 must be", &|_, held| held.scopes[1].push('x')),
        ("must be Some(CommitRecord", &|_, held| drop(held.feed.pop_first())),
        ("is nobody's: Some", &|told, _| {
            let number = is_made(told);
            told.calls.remove(number);
        }),
        ("failed cleanly", &|told, _| {
            let number = is_made(told);
            told.calls[number].outcome = Outcome::Nothing;
        }),
        ("was told", &|told, _| {
            let number = is_made(told);
            told.calls[number].outcome = Outcome::Made(Some((1_000, String::new())));
        }),
        ("is not there", &|told, _| {
            let mut lost = told.calls[0].clone();
            lost.call.actor = "nobody".to_owned();
            lost.outcome = Outcome::Made(None);
            told.calls.push(lost);
        }),
    ];
    for (words, spoil) in cases {
        let what = found(spoil);
        assert!(what.contains(words), "{words}: {what:?}");
    }
    // One after another of the same commit, which is right.
    let [one, mut other] = [(); 2].map(|()| oracle.held(&store, &told, u64::MAX).unwrap());
    other.feed.pop_first();
    assert!(oracle.compare_all(&told, vec![one, other]).unwrap_err().contains("the feed must be"));
}

#[test]
fn one_thread_without_a_log_does_the_same_each_time() {
    let settings = Settings { logged: Some(false), threads: Some(1), ..Settings::default() };
    let all = || cases(3, 6, settings).map(|verdict| (verdict.disk, verdict.crash_points, verdict.met));
    assert!(all().eq(all()));
}

#[test]
fn a_file_has_what_was_written_in_whatever_blocks() {
    let mut random = Random::new(6);
    let (mut content, mut bytes) = (Content::default(), Vec::new());
    for _ in 0..400 {
        let (offset, length) = (random.index(20_000), random.index(10_000));
        let byte = *random.pick(&[0, 0, 7, 9]);
        if random.one_in(5) {
            Change::Length(offset).apply(&mut content);
            bytes.resize(offset, 0);
        } else {
            Change::write(offset, &vec![byte; length]).apply(&mut content);
            bytes.resize(bytes.len().max(offset + length), 0);
            bytes[offset..offset + length].fill(byte);
        }
        let mut read = vec![1; bytes.len()];
        content.read(0, &mut read).unwrap();
        assert!(read == bytes && content.length() == bytes.len());
    }
}

/// Bytes are written and synced one after the other: a crash at a call leaves each that was synced before, and none that
/// was written after it.
#[test]
fn a_crash_image_has_what_was_synced_before_its_call() {
    const BYTES: u64 = 50;
    let disk = Disk::new(Random::new(7), None);
    let table = disk.table();
    table.set_len(BYTES).unwrap();
    table.sync().unwrap();
    let before = disk.calls();
    disk.take_images(40);
    for offset in 0..BYTES {
        table.write(offset, &[1]).unwrap();
        table.sync().unwrap();
    }
    let images = disk.images();
    assert!(images.len() > 20, "{}", images.len());
    let mut random = Random::new(8);
    for image in images {
        // Of the calls before it, each second was a sync.
        let (written, synced) = ((image.call - before).div_ceil(2), (image.call - before - 1) / 2);
        let cut_power = random.one_in(2);
        let crashed = Disk::after(image, cut_power, random.fork(), None);
        let mut bytes = vec![0; BYTES.try_into().unwrap()];
        crashed.table().read(0, &mut bytes).unwrap();
        let left = bytes.iter().filter(|byte| **byte == 1).count() as u64;
        assert!(bytes.is_sorted_by(|one, other| one >= other));
        assert!((synced..=written).contains(&left), "{synced} were synced, and {left} are left");
    }
    assert!(disk.images().is_empty(), "they were taken");
}

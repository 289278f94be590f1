//! What threads were answered by a store can be explained by one operation after the other; and the checker
//! that says so finds out what can't be.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

#[path = "linearizability/mod.rs"]
mod linearizability;
#[path = "linearizability/teeth.rs"]
mod teeth;

use std::sync::Barrier;
use std::thread;

use keystead::{Options, Store};

use linearizability::checker::{check, parts};
use linearizability::recorder::{History, Recorder};
use linearizability::specification::Names;
use linearizability::workload::{Random, Workload};

const THREADS: [usize; 5] = [2, 4, 8, 16, 32];

/// Lets so many threads make so many calls each, at the same time. Every other thread reads through a handle of its own, if
/// there is one.
fn record(
    (store, follower): (&Store, Option<&Store>),
    workload: Workload,
    threads: usize,
    calls: usize,
    seed: u64,
) -> (Names, History) {
    let initial = workload.fill(store);
    let (recorder, start) = (Recorder::default(), Barrier::new(threads));
    thread::scope(|scope| {
        for number in 0..threads {
            let (recorder, start) = (&recorder, &start);
            let mut random = Random::new(seed * 1000 + number as u64);
            let reads = follower.filter(|_| number % 2 == 1).unwrap_or(store);
            scope.spawn(move || {
                start.wait();
                for _ in 0..calls {
                    let call = workload.call(&mut random);
                    recorder.call(if call.is_read() { reads } else { store }, number, &call).unwrap();
                }
            });
        }
    });
    (initial, recorder.history())
}

/// How many pairs of operations of one part ran at the same time.
fn overlaps(initial: &Names, history: &History) -> usize {
    let of_part = |part: &History| {
        let mut part: Vec<_> =
            part.iter().map(|it| (it.began, it.returned.as_ref().map_or(u64::MAX, |it| it.at))).collect();
        part.sort_unstable();
        let begins_inside = |place: usize, other: &&(u64, u64)| other.0 < part[place].1;
        (0..part.len())
            .map(|place| part[place + 1..].iter().take_while(|other| begins_inside(place, other)).count())
            .sum::<usize>()
    };
    parts(initial, history).iter().map(of_part).sum()
}

/// Records and checks histories of 2 to 32 threads, each on a store of its own.
fn threads_are_explained(calls: usize, stores: impl Fn(usize) -> (Store, Option<Store>)) {
    let mut overlaps_of_all = 0;
    for threads in THREADS {
        let seed = threads as u64;
        let (store, follower) = stores(threads);
        let both = (&store, follower.as_ref());
        let (initial, history) = record(both, Workload { families: 2 }, threads, calls / threads, seed);
        let overlaps = overlaps(&initial, &history);
        println!("{threads} threads, seed {seed}: {} operations, {overlaps} overlaps", history.len());
        overlaps_of_all += overlaps;
        check(&initial, &history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let report = store.verify().unwrap();
        assert!(report.is_clean(), "seed {seed}: {report:#?}");
    }
    assert!(overlaps_of_all > 100, "nearly nothing happened at the same time");
}

#[test]
fn a_store_in_memory_is_linearizable() {
    threads_are_explained(2400, |_| (Store::in_memory().unwrap(), None));
}

#[test]
fn a_store_in_a_file_is_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    threads_are_explained(1600, |threads| {
        (options().open(folder.path().join(format!("{threads}.redb"))).unwrap(), None)
    });
}

/// Checkpoints go on all the time, so that rows move to the table while they are read.
#[test]
fn a_store_whose_table_changes_all_the_time_is_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    threads_are_explained(800, |threads| {
        let options = options().checkpoint_bytes(1);
        (options.open(folder.path().join(format!("{threads}.redb"))).unwrap(), None)
    });
}

fn options() -> Options {
    Options::new().wal_bytes(16 << 20)
}

/// As another process would, some of the readers read through files of their own.
#[test]
fn a_store_and_its_follower_are_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    threads_are_explained(1600, |threads| {
        // So that there are checkpoints, and what is followed is overwritten.
        let (options, path) =
            (options().checkpoint_bytes(20_000), folder.path().join(format!("{threads}.redb")));
        let store = options.open(&path).unwrap();
        let follower = options.open_read_only(&path).unwrap();
        (store, Some(follower))
    });
}

//! The changelog, bulk loads, and waiting for commits.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::thread;
use std::time::Duration;

use super::{row, rows, some_row, write};
use crate::engine::scripted::Random;
use crate::engine::{Batch, Engine, Load, Log, ReadTransaction, Waited};
use crate::error::Error;
use crate::format::Row;
use crate::id::Commit;

/// Commits a row, with an entry in the changelog that says the same.
fn commit_logged(engine: &dyn Engine, value: &[u8]) -> Commit {
    let batch = Batch::from([(b"row".to_vec(), Some(value.to_vec()))]);
    engine.begin_write().unwrap().commit(&batch, Log { append: Some(value), trim: None }).unwrap()
}

/// The entries that a read shows, which must be sound.
pub(super) fn logged(read: &dyn ReadTransaction, after: Commit, limit: usize) -> Vec<(Commit, Vec<u8>)> {
    let entries = read.log(after, limit).unwrap();
    entries.into_iter().map(|(commit, entry)| (commit, entry.unwrap())).collect()
}

pub(super) fn the_log_keeps_the_order_of_commits(engine: &dyn Engine) {
    let nothing = Commit::default();
    assert_eq!(logged(&*engine.begin_read().unwrap(), nothing, 10), []);
    let first = commit_logged(engine, b"first");
    let silent = Batch::from([(b"row".to_vec(), None)]);
    let silent = engine.begin_write().unwrap().commit(&silent, Log::default()).unwrap();
    let before = engine.begin_read().unwrap();
    let third = commit_logged(engine, b"third");
    let read = engine.begin_read().unwrap();
    let (one, three) = ((first, b"first".to_vec()), (third, b"third".to_vec()));
    assert_eq!(logged(&*read, nothing, 10), [one.clone(), three.clone()]);
    assert_eq!(logged(&*read, nothing, 1), std::slice::from_ref(&one));
    assert_eq!(logged(&*read, first, 10), std::slice::from_ref(&three));
    assert_eq!(logged(&*read, silent, 10), [three]);
    assert_eq!(logged(&*read, third, 10), []);
    assert_eq!(logged(&*read, Commit::new(u64::MAX), 10), []);
    assert_eq!(logged(&*before, nothing, 10), [one], "an earlier read does not see a later entry");
    assert_eq!(read.changelog_entry(first).unwrap(), Some(b"first".to_vec()));
    assert_eq!(read.changelog_entry(silent).unwrap(), None);
    assert_eq!(before.changelog_entry(third).unwrap(), None);
    assert_eq!(engine.begin_write().unwrap().changelog_entry(third).unwrap(), Some(b"third".to_vec()));
    let rows = read.scan((Bound::Unbounded, Bound::Unbounded), 10).unwrap();
    assert_eq!(rows.len(), 1, "the log is not among the rows");
}

pub(super) fn the_log_is_trimmed_from_its_beginning(engine: &dyn Engine) {
    let commits: Vec<_> = (0..5_u8).map(|value| commit_logged(engine, &[value])).collect();
    let before = engine.begin_read().unwrap();
    let log = Log { append: Some(b"last"), trim: Some(commits[2]) };
    let last = engine.begin_write().unwrap().commit(&Batch::new(), log).unwrap();
    let read = engine.begin_read().unwrap();
    let left = [(commits[3], vec![3]), (commits[4], vec![4]), (last, b"last".to_vec())];
    assert_eq!(logged(&*read, Commit::default(), 10), left);
    assert_eq!(read.changelog_entry(commits[2]).unwrap(), None);
    assert_eq!(logged(&*before, Commit::default(), 10).len(), 5, "an earlier read keeps what it saw");
}

pub(super) fn a_load_is_as_its_commits_one_by_one(engine: &dyn Engine) {
    if !engine.knows_next_commit() {
        return;
    }
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let base = engine.begin_read().unwrap().commit();
        let mut expected: BTreeMap<Row, (Vec<u8>, Commit)> = BTreeMap::new();
        for (row, bytes, commit) in rows(&*engine.begin_read().unwrap()) {
            expected.insert(row, (bytes, commit));
        }
        let (mut load, mut log) = (Load::after(base), Vec::new());
        for _ in 0..random.below(5) {
            let commit = load.open_commit();
            for _ in 0..random.below(100) {
                // Sometimes many that lie together, sometimes some among those that are there.
                let row = [some_row(&mut random), vec![0; random.index(2) * random.index(40)]].concat();
                let value = (random.below(6) > 0).then(|| vec![b'v'; random.index(20)]);
                load.put(&row, value.as_deref());
                match value {
                    Some(value) => expected.insert(row, (value, commit)),
                    None => expected.remove(&row),
                };
            }
            let entry = (random.below(2) == 0).then(|| format!("entry of {commit}").into_bytes());
            log.extend(entry.clone().map(|entry| (commit, entry)));
            load.end_commit(entry);
        }
        let last = engine.begin_write().unwrap().load(&load).unwrap();
        assert_eq!(last, load.last_commit(), "seed {seed}");
        let read = engine.begin_read().unwrap();
        assert_eq!(read.commit(), last, "seed {seed}");
        let expected: Vec<_> =
            expected.into_iter().map(|(row, (bytes, commit))| (row, bytes, commit)).collect();
        assert_eq!(rows(&*read), expected, "seed {seed}");
        assert_eq!(logged(&*read, base, 10), log, "seed {seed}");
        if last > base {
            assert_eq!(engine.wait(base, Duration::ZERO).unwrap(), Waited::Committed);
        }
    }
}

pub(super) fn a_load_is_made_out_upon_the_newest_commit(engine: &dyn Engine) {
    if !engine.knows_next_commit() {
        return;
    }
    let commit = write(engine, &[(b"a", Some(b"1"))]);
    for base in [Commit::new(commit.number() - 1), Commit::new(commit.number() + 1)] {
        let mut load = Load::after(base);
        load.put(b"b", Some(b"2"));
        load.end_commit(None);
        let loaded = engine.begin_write().unwrap().load(&load);
        assert!(matches!(loaded, Err(Error::Conflict)), "{loaded:?}");
    }
    assert_eq!(rows(&*engine.begin_read().unwrap()), [row(b"a", b"1", commit)]);
    assert_eq!(write(engine, &[(b"c", Some(b"3"))]).number(), commit.number() + 1);
}

pub(super) fn waiting_ends_with_a_commit_or_the_time_or_for_good(engine: &dyn Engine) {
    let long = Duration::from_secs(60);
    let first = commit_logged(engine, b"first");
    let before = Commit::new(first.number() - 1);
    assert_eq!(engine.wait(before, Duration::ZERO).unwrap(), Waited::Committed);
    assert_eq!(engine.wait(first, Duration::ZERO).unwrap(), Waited::TimedOut);
    assert_eq!(engine.wait(first, Duration::from_millis(1)).unwrap(), Waited::TimedOut);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| engine.wait(first, long).unwrap());
        commit_logged(engine, b"second");
        assert_eq!(waiter.join().unwrap(), Waited::Committed);
    });
    let newest = engine.begin_read().unwrap().commit();
    thread::scope(|threads| {
        let waiter = threads.spawn(|| engine.wait(newest, long).unwrap());
        engine.stop_waiting();
        assert_eq!(waiter.join().unwrap(), Waited::Closed);
    });
    assert_eq!(engine.wait(newest, long).unwrap(), Waited::Closed);
    assert_eq!(engine.wait(before, long).unwrap(), Waited::Committed);
}

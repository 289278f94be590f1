//! Tests of the comparison: it sees each row and each entry of the log. And of a target that refuses for now.

use super::*;
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::scripted::{Call as EngineCall, Outcome as EndsAs, Scripted};
use crate::key::NewKey;
use crate::request::Request;
use crate::{Alias, Options, PendingDays, RequestId};

fn request(actor: &str) -> Request {
    Request::new(&Scope::new("domain", "project").unwrap()).at(Timestamp::from_millis(1000)).actor(actor)
}

/// A store that has a row of every kind.
fn lived_in(actor: &str) -> Store {
    let store = Store::in_memory().unwrap();
    let (moved, gone): (Alias, Alias) = ("moved".parse().unwrap(), "gone".parse().unwrap());
    let new = |name: &str, id: u8| {
        let mut new = NewKey::new(name).unwrap();
        new.key_id = crate::KeyId::from_bytes([id; 16]);
        new
    };
    let first = new("first", 1).alias(moved.clone()).alias(gone.clone());
    let first = first.tag("team".parse().unwrap(), "blue".parse().unwrap());
    let (second, third) = (new("second", 2), new("third", 3));
    let request_id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    store.write(&request("alice"), |txn| txn.create_key(&first)).unwrap();
    store.write(&request("alice"), |txn| txn.create_key(&second)).unwrap();
    store.write(&request("alice"), |txn| txn.create_key(&third)).unwrap();
    store.write(&request(actor), |txn| txn.associate_alias(&moved, second.key_id)).unwrap();
    store
        .write_once(&request("alice"), &request_id, b"delete", |txn| {
            txn.delete_aliases(first.key_id, std::slice::from_ref(&gone))
        })
        .unwrap();
    store
        .write(&request("alice"), |txn| {
            txn.schedule_deletion(third.key_id, PendingDays::new(7).unwrap()).map(drop)
        })
        .unwrap();
    store
}

fn copy_of(source: &Store) -> Store {
    let target = Store::in_memory().unwrap();
    source.copy_to(&target).unwrap();
    target
}

fn compared(source: &Store, target: &Store) -> Result<(u64, u64)> {
    compare(&*source.inner.engine.begin_read()?, &*target.inner.engine.begin_read()?)
}

fn must_differ(source: &Store, target: &Store, what: &str) {
    for (one, other) in [(source, target), (target, source)] {
        let found = compared(one, other);
        assert!(matches!(found, Err(Error::Unsound(_) | Error::Corrupted(_))), "{what}: {found:?}");
    }
}

fn put(store: &Store, row: &[u8], value: Option<&[u8]>) {
    let batch = Batch::from([(row.to_vec(), value.map(<[u8]>::to_vec))]);
    store.inner.engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
}

#[test]
fn every_row_is_compared() {
    let source = lived_in("bob");
    let target = copy_of(&source);
    let (rows, entries) = compared(&source, &target).unwrap();
    let reading = target.inner.engine.begin_read().unwrap();
    let comparable: Vec<_> = Comparable::of(&*reading).map(Result::unwrap).collect();
    assert_eq!((comparable.len() as u64, entries), (rows, 6));
    let tables = comparable.iter().map(|(row, _)| match read_address(row) {
        Some(Address::Scoped { table, .. }) => format!("{:?}", std::mem::discriminant(&table)),
        other => format!("{:?}", other.as_ref().map(std::mem::discriminant)),
    });
    let tables: std::collections::BTreeSet<_> = tables.collect();
    assert!(tables.len() >= 10, "rows of many kinds: {tables:?}");
    for row in comparable.iter().map(|(row, _)| row) {
        let value = reading.get(&[row]).unwrap().pop().flatten().unwrap().bytes;
        put(&target, row, None);
        must_differ(&source, &target, "a row is missing");
        let mut other = value.clone();
        match other.last_mut() {
            Some(last) => *last ^= 1,
            None => other.push(1),
        }
        put(&target, row, Some(&other));
        must_differ(&source, &target, "a row has another value");
        put(&target, row, Some(&value));
        let beside = [&row[..], &[0]].concat();
        put(&target, &beside, Some(&value));
        must_differ(&source, &target, "there is one more row");
        put(&target, &beside, None);
        assert_eq!(compared(&source, &target).unwrap(), (rows, entries));
    }
}

#[test]
fn every_entry_of_the_log_is_compared() {
    let source = lived_in("bob");
    must_differ(&source, &copy_of(&lived_in("carol")), "another actor");
    let entries = source.inner.engine.begin_read().unwrap().log(Commit::default(), 100).unwrap();
    let (last, entry) = entries.last().unwrap();
    let entry = decode_log_entry(*last, entry.as_ref().unwrap()).unwrap();

    let longer = copy_of(&source);
    let transaction = longer.inner.engine.begin_write().unwrap();
    let info = CommitInfo { commit: longer.inner.engine.next_commit(&*transaction), ..entry.info };
    let again = encode_log_entry(&CommitRecord { info, changes: entry.changes });
    transaction.commit(&Batch::new(), Log { append: Some(&again), trim: None }).unwrap();
    must_differ(&source, &longer, "one more entry");

    let shorter = copy_of(&source);
    let reading = shorter.inner.engine.begin_read().unwrap();
    let first = reading.log(Commit::default(), 1).unwrap()[0].0;
    drop(reading);
    let transaction = shorter.inner.engine.begin_write().unwrap();
    transaction.commit(&Batch::new(), Log { append: None, trim: Some(first) }).unwrap();
    must_differ(&source, &shorter, "the first entry is missing");
}

#[test]
fn where_the_history_begins_is_compared() {
    let source = lived_in("bob");
    let second = source.changes(None, crate::Limit::MAX).unwrap().commits[1].info.commit;
    source.trim_history(second).unwrap();
    let target = copy_of(&source);
    let floor = floor_of(&*target.inner.engine.begin_read().unwrap()).unwrap();
    let place = Space::of_store().floor();
    let later = Floor { time: Timestamp::from_millis(1001), ..floor };
    put(&target, &place, Some(&encode_floor(later)));
    must_differ(&source, &target, "it was trimmed up to another time");
    put(&target, &place, None);
    must_differ(&source, &target, "it was not trimmed");
    put(&target, &place, Some(&encode_floor(floor)));
    compared(&source, &target).unwrap();
}

/// By a handle from before the copy began.
#[test]
fn what_somebody_else_writes_after_the_comparison_is_seen() {
    let (source, target) = (lived_in("bob"), Store::in_memory().unwrap());
    let copying = Copying { policy: &source.inner.policy, target: &target };
    copying.begin().unwrap();
    let reached = target.inner.engine.begin_read().unwrap().commit();
    let new = NewKey::new("foreign").unwrap();
    target.write(&request("carol"), |txn| txn.create_key(&new)).unwrap();
    let refused = copying.end(reached).unwrap_err();
    assert!(matches!(refused, Error::Unsound(_)), "{refused:?}");
    copying.end(target.inner.engine.begin_read().unwrap().commit()).unwrap();
}

/// What a cluster answers while its members elect a leader.
#[test]
fn a_conflict_does_not_end_a_copy() {
    let source = lived_in("bob");
    for stand_ins in [false, true] {
        let engine = EmbeddedEngine::in_memory();
        let options = Options::new();
        options.begin(&engine).unwrap();
        let scripted = Scripted::new(engine);
        let scripted = if stand_ins { scripted.with_stand_ins() } else { scripted };
        let target = options.on(Box::new(scripted.clone())).unwrap();
        let (mut commits, mut refused) = (0, 0);
        let (told, tells) = std::sync::mpsc::channel();
        scripted.follow(Box::new(move |call| {
            commits += u32::from(call == EngineCall::Commit);
            if call != EngineCall::Commit || commits % 3 == 0 {
                return EndsAs::Pass;
            }
            refused += 1;
            told.send(refused).unwrap();
            EndsAs::Conflict
        }));
        let copied = source.copy_to(&target).unwrap();
        assert_eq!(copied.entries, 6);
        assert!(tells.try_iter().last().unwrap() > 12, "each commit was refused twice");
        assert_eq!(compared(&source, &target).unwrap(), (copied.rows, copied.entries));
    }
}

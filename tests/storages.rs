//! Stores on storages of the caller's: made, closed, cut off while they are made, and put together wrongly.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

use std::io;
use std::sync::{Arc, Mutex};

use keystead::{Error, KeyFilter, NewKey, Options, Request, Result, Scope, Storage, Store, Timestamp};

/// Bytes that outlive the store on them, and a countdown to the call from which on all fail.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<(Vec<u8>, Option<u64>)>>);

impl Bytes {
    fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new((self.0.lock().unwrap().0.clone(), None))))
    }

    fn failing_after(calls: u64) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), Some(calls)))))
    }

    fn first(&self) -> Option<u8> {
        self.0.lock().unwrap().0.first().copied()
    }

    fn call<T>(&self, run: impl FnOnce(&mut Vec<u8>) -> io::Result<T>) -> io::Result<T> {
        let (bytes, left) = &mut *self.0.lock().unwrap();
        match left {
            Some(0) => return Err(io::Error::other("it fails, as the test has it")),
            Some(left) => *left -= 1,
            None => {}
        }
        run(bytes)
    }
}

impl Storage for Bytes {
    fn len(&self) -> io::Result<u64> {
        self.call(|bytes| Ok(bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.call(|bytes| {
            let read = bytes.get(offset..offset + out.len());
            out.copy_from_slice(read.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.call(|bytes| {
            bytes[offset..offset + data.len()].copy_from_slice(data);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.call(|bytes| {
            bytes.resize(usize::try_from(length).unwrap(), 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.call(|_| Ok(()))
    }
}

fn options() -> Options {
    Options::new().cache_bytes(1 << 20).wal_bytes(Options::WAL_BYTES_MIN)
}

fn open(table: &Bytes, log: Option<&Bytes>) -> Result<Store> {
    let log = log.map(|log| Box::new(log.clone()) as Box<dyn Storage>);
    options().open_on(Box::new(table.clone()), log)
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

/// Makes a key of this name.
fn create(store: &Store, name: &str) {
    try_create(store, name).unwrap();
}

fn try_create(store: &Store, name: &str) -> Result<(), Error> {
    let request = Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000));
    let new = NewKey::new(name).unwrap();
    store.write(&request, |txn| txn.create_key(&new)).map(drop)
}

fn keys(store: &Store) -> u64 {
    assert!(store.verify().unwrap().is_clean());
    store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap()
}

/// A store with these keys as a crash left it, and its log.
fn crashed(names: &[&str]) -> (Bytes, Bytes) {
    let (table, log) = (Bytes::default(), Bytes::default());
    let store = open(&table, Some(&log)).unwrap();
    names.iter().for_each(|name| create(&store, name));
    (table.copy(), log.copy())
}

#[test]
fn an_empty_storage_becomes_a_store_only_where_that_may_be() {
    let table = Bytes::default();
    let existing = options().create(false);
    let refused = existing.open_on(Box::new(table.clone()), None);
    assert!(matches!(refused, Err(Error::NoStore(_))), "{refused:?}");
    assert_eq!(table.len().unwrap(), 0);
    drop(open(&table, None).unwrap());
    existing.open_on(Box::new(table.clone()), None).unwrap();
}

#[test]
fn a_store_that_was_closed_is_one_storage_and_one_that_crashed_two() {
    let (table, log) = (Bytes::default(), Bytes::default());
    for (turn, with_log) in [false, true, true, false, true].into_iter().enumerate() {
        let store = open(&table, Some(&log).filter(|_| with_log)).unwrap();
        assert_eq!(keys(&store), turn as u64);
        create(&store, &format!("key-{turn}"));
    }
    // Nothing is in the log, so another takes its place.
    assert_eq!(keys(&open(&table, Some(&Bytes::default())).unwrap()), 5);

    let (table, log) = crashed(&["one", "two"]);
    assert!(matches!(open(&table.copy(), None), Err(Error::LogMismatch(_))));
    assert!(open(&table.copy(), Some(&Bytes::default())).is_err());
    assert_eq!(keys(&open(&table, Some(&log)).unwrap()), 2);
    assert_eq!(keys(&open(&table, None).unwrap()), 2);
}

#[test]
fn the_log_of_another_store_is_refused() {
    let (table, log) = crashed(&["one"]);
    let (_, others) = crashed(&["one", "two"]);
    for wrong in [&others.copy(), &table.copy()] {
        assert!(open(&table.copy(), Some(wrong)).is_err());
    }
    drop(open(&table, Some(&log)).unwrap());
    assert!(matches!(open(&table, Some(&others)), Err(Error::LogMismatch(_))));
    // A new store beside the log of another.
    assert!(matches!(open(&Bytes::default(), Some(&others)), Err(Error::LogMismatch(_))));
    assert_eq!(keys(&open(&table, Some(&log)).unwrap()), 1);
}

#[test]
fn the_log_can_be_longer_or_shorter_the_next_time() {
    let (table, log) = (Bytes::default(), Bytes::default());
    for (turn, more) in [0, 1 << 20, 0].into_iter().enumerate() {
        let options = options().wal_bytes(Options::WAL_BYTES_MIN + more);
        let store = options.open_on(Box::new(table.clone()), Some(Box::new(log.clone()))).unwrap();
        assert_eq!(keys(&store), 2 * turn as u64);
        create(&store, &format!("key-{turn}"));
        create(&store, &format!("other-{turn}"));
        // It begins with more than half of the least that is allowed.
        let length = log.len().unwrap();
        assert!(length > Options::WAL_BYTES_MIN / 2 && length <= Options::WAL_BYTES_MIN, "{length}");
    }
}

/// Cut off at any call, a store or a log that is being made is not taken for one.
#[test]
fn what_was_not_made_to_its_end_is_none() {
    let (mut half_made, mut half_logs) = (0, 0);
    for calls in 0..200 {
        let table = Bytes::failing_after(calls);
        let made = open(&table, None).is_ok();
        let left = table.copy();
        if left.first() == Some(0) {
            half_made += 1;
            assert!(!made);
            assert!(matches!(open(&left, None), Err(Error::NotAStore(_))), "{calls}");
            left.set_len(0).unwrap();
        }
        let store = open(&left, None).unwrap();
        create(&store, "one");
        drop(store);
        let cut_off = Bytes::failing_after(calls);
        // The first commit needs no log; the second makes it, or fails.
        let Ok(store) = open(&left, Some(&cut_off)) else { continue };
        create(&store, "two");
        let third = try_create(&store, "three");
        let is_made = third.is_ok();
        drop(store);
        let log_left = cut_off.copy();
        half_logs += u32::from(log_left.first() == Some(0));
        assert!(!is_made || log_left.first() == Some(b'k'));
        let found = keys(&open(&left, Some(&log_left)).unwrap());
        let is_unknown = matches!(third, Err(Error::CommitUnknown(_)));
        assert!(found == 2 + u64::from(is_made) || is_unknown && found == 3, "{calls}: {third:?}, {found}");
        if made && is_made {
            assert!(half_made >= 3 && half_logs >= 4, "{half_made} {half_logs}");
            return;
        }
    }
    panic!("it was never made");
}

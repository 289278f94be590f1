//! A store with a write-ahead log whose table others read, while one of them is stopped inside a lock on its header.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "these are tests")]

use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Builder, ConcurrencyMode, StorageBackend};

use super::embedded::EmbeddedEngine;
use super::embedded::wal::RedoLog;
use super::lock_wait::LOCK_WAIT_DEFAULT;
use super::redb::{LogState, Pages, TableFile};
use super::{Batch, Engine, Log};
use crate::tests::disk::{Disk, LOG};

const SLACK: Duration = Duration::from_millis(1500);
/// Many times as long as what is waited for takes.
const VERY_LONG: Duration = Duration::from_secs(20);

/// The engine, with a table that others may open to read.
fn engine(table: &Path, log: &Disk) -> EmbeddedEngine {
    let mut shared = Builder::new();
    shared.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    let file = OpenOptions::new().read(true).write(true).open(table).unwrap();
    let table = TableFile::on(FileBackend::new(file).unwrap(), &shared).unwrap();
    if table.log_state().unwrap() == LogState::None {
        table.mark(LogState::Closed { id: [7; 16], next: 0 }).unwrap();
        RedoLog::create(&log.file(LOG), [7; 16], 4 << 20).unwrap();
    }
    // Each commit begins a checkpoint.
    EmbeddedEngine::on(table, Box::new(log.file(LOG)), 1).unwrap()
}

/// A lock on the header, as a process holds it that begins to read.
fn stopped(table: &Path) -> FileBackend {
    let file = FileBackend::new(File::open(table).unwrap()).unwrap();
    assert!(file.try_lock_shared_range(Bound::Included(0), Bound::Excluded(320)).unwrap());
    file
}

fn commit(engine: &dyn Engine, row: u8) {
    let batch = Batch::from([(vec![1, row], Some(vec![row]))]);
    engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
}

/// The rows that there are.
fn rows(engine: &dyn Engine) -> Vec<u8> {
    let rows = engine.begin_read().unwrap().scan((Bound::Unbounded, Bound::Unbounded), 100).unwrap();
    rows.into_iter().map(|(row, stored)| (row[1], stored.unwrap().bytes)).map(|(row, _)| row).collect()
}

#[track_caller]
fn comes(what: &str, is: impl Fn() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < VERY_LONG, "{what} does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn commits_go_on_while_a_checkpoint_waits_for_a_reader_that_was_stopped() {
    let (table, log) = (tempfile::NamedTempFile::new().unwrap(), Disk::default());
    drop(TableFile::create(table.reopen().unwrap(), Pages::believed(1 << 20)).unwrap());
    let store = engine(table.path(), &log);
    commit(&store, 0);
    let locks = || store.page_state().unwrap().locks;
    let reader = stopped(table.path());
    (1..20).for_each(|row| commit(&store, row));
    comes("a wait of the checkpoint", || locks().waiting.is_some_and(|waits| waits > SLACK / 10));
    assert!(store.log_stats().unwrap().checkpointing);
    (20..40).for_each(|row| commit(&store, row));
    assert_eq!(rows(&store), (0..40).collect::<Vec<_>>());
    drop(reader);
    comes("the checkpoint", || {
        let log = store.log_stats().unwrap();
        log.checkpoints > 0 && locks().waiting.is_none()
    });
    assert!(locks().longest > SLACK / 10 && locks().waits > 0, "{:?}", locks());
    commit(&store, 40);
    store.close().unwrap();
    assert_eq!(rows(&engine(table.path(), &log)), (0..41).collect::<Vec<_>>());
}

#[test]
fn closing_gives_up_a_checkpoint_that_waits_and_loses_nothing() {
    let (table, log) = (tempfile::NamedTempFile::new().unwrap(), Disk::default());
    drop(TableFile::create(table.reopen().unwrap(), Pages::believed(1 << 20)).unwrap());
    let store = engine(table.path(), &log);
    commit(&store, 0);
    let reader = stopped(table.path());
    (1..20).for_each(|row| commit(&store, row));
    comes("a wait", || store.page_state().unwrap().locks.waiting.is_some());
    let (closed, closes) = mpsc::channel();
    let since = Instant::now();
    thread::spawn(move || closed.send(store.close()).unwrap());
    let outcome = closes.recv_timeout(VERY_LONG).expect("it is closed while the reader is stopped");
    assert!(outcome.is_err(), "the table is not up to date");
    let took = since.elapsed();
    assert!(took < LOCK_WAIT_DEFAULT + SLACK, "closing took {took:?}");
    drop(reader);
    assert_eq!(rows(&engine(table.path(), &log)), (0..20).collect::<Vec<_>>());
}

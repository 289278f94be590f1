//! A store on a disk that fails or loses its power: at the n-th call, for every n, also while what that
//! left is being recovered.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::disk::{Disk, Fails, Image, LOG, TABLE};
use super::{new_key, request, scope};
use crate::engine::disk::{OnStorage, Storage};
use crate::engine::embedded::wal::{RedoLog, log_bytes};
use crate::engine::embedded::{EmbeddedEngine, Limits, LogDisk, Sabotage};
use crate::engine::redb::{LogState, TableFile, builder};
use crate::engine::scripted::Scripted;
use crate::engine::{Batch, Engine, Log, ReadTransaction};
use crate::error::{Error, Result};
use crate::format::{Row, Space};
use crate::{Alias, Commit, KeyFilter, KeyId, Options, Store};

/// Every row with its commit: two stores with the same dump are the same.
type Dump = Vec<(Row, Vec<u8>, Commit)>;

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
struct Mode {
    cache_bytes: usize,
    redo_log: bool,
}

const DIRECT: Mode = Mode { cache_bytes: 1 << 20, redo_log: false };
const LOGGED: Mode = Mode { cache_bytes: 1 << 20, redo_log: true };

/// So short that it is used several times over.
const SEGMENT_BYTES: u64 = 16 * 1024;
/// So few that there are several checkpoints.
const CHECKPOINT_BYTES: usize = 2048;

/// A store on a disk, with a handle on its engine.
struct Mounted {
    store: Store,
    engine: Scripted,
}

impl Mounted {
    fn on(disk: &Disk, mode: Mode) -> Result<Self> {
        let builder = builder(mode.cache_bytes);
        let engine = if mode.redo_log {
            let table = TableFile::on(disk.file(TABLE), &builder)?;
            Scripted::new(EmbeddedEngine::on(table, Box::new(disk.file(LOG)), CHECKPOINT_BYTES)?)
        } else {
            Scripted::new(EmbeddedEngine::on_table(disk.file(TABLE), &builder)?)
        };
        let store = Options::new().on(Box::new(engine.clone()))?;
        Ok(Self { store, engine })
    }

    fn dump(&self) -> Result<Dump> {
        let rows = self.engine.begin_read()?.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX)?;
        let owned = rows.into_iter().map(|(row, stored)| {
            let stored = stored?;
            Ok((row, stored.bytes, stored.commit))
        });
        owned.collect()
    }

    /// The workload: one write for each step.
    fn step(&self, step: usize) -> Result<()> {
        let (one, two) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
        let alias: Alias = "moving".parse()?;
        if step == 6 {
            // Several commits, all of them or none.
            let keys =
                (20..80).map(|n| new_key(&format!("key-{n}"), n).alias(format!("a-{n}").parse().unwrap()));
            let imported: Result<Vec<_>> = self.store.import(&request(), keys).collect();
            return imported.map(drop);
        }
        let written = self.store.write(&request(), |txn| match step {
            0 => txn.create_key(&new_key("one", 1).alias(alias.clone())).map(drop),
            1 => txn.create_key(&new_key("two", 2)).map(drop),
            2 => txn.associate_alias(&alias, two).map(drop),
            3 => txn.rename_key_alias(one, &"renamed".parse()?).map(drop),
            4 => txn.delete_aliases(two, std::slice::from_ref(&alias)),
            _ => (10..16).try_for_each(|n| txn.create_key(&new_key(&format!("key-{n}"), n)).map(drop)),
        });
        written.map(drop)
    }
}

const STEPS: usize = 7;

/// A disk with an empty store that was closed.
fn disk_with_store() -> Disk {
    let disk = Disk::default();
    let engine = EmbeddedEngine::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    RedoLog::create(&disk.file(LOG), [7; 16], SEGMENT_BYTES).unwrap();
    disk
}

/// The state before the first step and behind each, and the calls that it took.
fn reference(base: &Image, mode: Mode) -> (Vec<Dump>, u64) {
    let disk = Disk::of(base.clone());
    let mounted = Mounted::on(&disk, mode).unwrap();
    let mut dumps = vec![mounted.dump().unwrap()];
    for step in 0..STEPS {
        mounted.step(step).unwrap();
        dumps.push(mounted.dump().unwrap());
    }
    drop(mounted);
    (dumps, disk.calls())
}

fn must_be_of_the_disk(error: &Error, when: &str) {
    let of_the_disk =
        matches!(error, Error::Io(_) | Error::CommitUnknown(_) | Error::Poisoned | Error::Corrupted(_));
    assert!(of_the_disk, "{when}: {error:?}");
}

/// Runs the workload until a write fails for good; returns how many were acknowledged, and how many
/// may be there.
fn run(mounted: &Mounted, dumps: &[Dump], when: &str) -> (usize, usize) {
    let mut acknowledged = 0;
    let mut failures = 0;
    let mut unknown = false;
    while acknowledged < STEPS && failures < 3 {
        match mounted.step(acknowledged) {
            Ok(()) => {
                acknowledged += 1;
                match mounted.dump() {
                    Ok(dump) => assert_eq!(dump, dumps[acknowledged], "{when}"),
                    Err(error) => must_be_of_the_disk(&error, when),
                }
            }
            Err(error) => {
                must_be_of_the_disk(&error, when);
                failures += 1;
                unknown |= matches!(error, Error::CommitUnknown(_));
                if matches!(error, Error::CommitUnknown(_) | Error::Poisoned) {
                    let next = mounted.step(acknowledged);
                    assert!(matches!(next, Err(Error::Poisoned)), "{when}: {next:?}");
                    break;
                }
            }
        }
    }
    // What was acknowledged is still served, or the disk is to blame; it is never just gone.
    if acknowledged > 0 {
        let found = mounted.store.read(&scope(), |snap| snap.key(KeyId::from_bytes([1; 16])));
        if let Err(error) = found {
            must_be_of_the_disk(&error, when);
        }
    }
    (acknowledged, acknowledged + usize::from(unknown))
}

fn must_survive(disk: &Disk, (acknowledged, most): (usize, usize), mode: Mode, dumps: &[Dump], when: &str) {
    for (kind, image) in disk.survivors(acknowledged as u64).into_iter().enumerate() {
        let when = format!("{when}, survivor {kind}");
        must_hold(image, (acknowledged, most), mode, dumps, &when);
    }
}

/// What a crash left is the store after one of these writes, and stays it when it is opened again.
fn must_hold(
    image: Image,
    (acknowledged, most): (usize, usize),
    mode: Mode,
    dumps: &[Dump],
    when: &str,
) -> Disk {
    let disk = Disk::of(image);
    let mut found = None;
    for time in ["first", "second"] {
        let mounted = Mounted::on(&disk, mode);
        let mounted = mounted.unwrap_or_else(|error| panic!("{when}, {time} time: {error:?}"));
        let dump = mounted.dump().unwrap();
        let is_prefix = dumps[acknowledged..=most].contains(&dump);
        assert!(is_prefix, "{when}, {time} time: {acknowledged} to {most} writes, found {dump:?}");
        if found.is_none() {
            assert_eq!(mounted.store.verify().unwrap().violations, [], "{when}");
        }
        assert_eq!(*found.get_or_insert_with(|| dump.clone()), dump, "{when}: it changed by itself");
    }
    disk
}

fn every_call_fails_once(mode: Mode, ever_after: bool) {
    let base = disk_with_store().bytes();
    let (dumps, calls) = reference(&base, mode);
    assert!(calls > 50, "{calls}");
    for from in 1..=calls {
        let when = format!("call {from} of {calls}, {mode:?}, ever after: {ever_after}");
        let disk = Disk::of(base.clone());
        disk.fail(Some(Fails { from, ever_after }));
        let written = match Mounted::on(&disk, mode) {
            Ok(mounted) => run(&mounted, &dumps, &when),
            Err(error) => {
                must_be_of_the_disk(&error, &when);
                (0, 0)
            }
        };
        must_survive(&disk, written, mode, &dumps, &when);
    }
}

#[test]
fn one_call_fails() {
    every_call_fails_once(DIRECT, false);
}

#[test]
fn one_call_fails_without_a_cache() {
    every_call_fails_once(Mode { cache_bytes: 0, ..DIRECT }, false);
}

#[test]
fn the_disk_fails_for_ever() {
    every_call_fails_once(DIRECT, true);
}

#[test]
fn one_call_fails_with_a_log() {
    every_call_fails_once(LOGGED, false);
}

#[test]
fn the_disk_fails_for_ever_with_a_log() {
    every_call_fails_once(LOGGED, true);
}

#[test]
fn a_recovery_that_fails_can_be_repeated() {
    let base = disk_with_store().bytes();
    let (dumps, calls) = reference(&base, LOGGED);
    let mut recoveries = 0;
    for from in (1..=calls).step_by(11) {
        let disk = Disk::of(base.clone());
        disk.fail(Some(Fails { from, ever_after: true }));
        let Ok(mounted) = Mounted::on(&disk, LOGGED) else { continue };
        let when = format!("call {from} of {calls}");
        let written = run(&mounted, &dumps, &when);
        drop(mounted);
        for (kind, image) in disk.survivors(from).into_iter().enumerate() {
            let whole = must_hold(image.clone(), written, LOGGED, &dumps, &when);
            let of_recovery = whole.calls();
            for again in (1..=of_recovery).step_by(7) {
                let when = format!("{when}, survivor {kind}, call {again} of its recovery");
                let disk = Disk::of(image.clone());
                disk.fail(Some(Fails { from: again, ever_after: true }));
                let seen = match Mounted::on(&disk, LOGGED) {
                    Ok(mounted) => mounted.dump().ok(),
                    Err(error) => {
                        must_be_of_the_disk(&error, &when);
                        None
                    }
                };
                // What was served must be there for good.
                let at_least = seen.map(|seen| dumps.iter().position(|dump| *dump == seen).unwrap());
                let least = at_least.map_or(written.0, |seen| seen.max(written.0));
                recoveries += 1;
                for image in disk.survivors(again) {
                    must_hold(image, (least, written.1), LOGGED, &dumps, &when);
                }
            }
        }
    }
    assert!(recoveries > 100, "{recoveries}");
}

/// A killed process leaves what it wrote, but nobody synced it: the power may go after it was served.
#[test]
fn what_a_killed_process_left_is_synced_before_it_is_served() {
    let base = disk_with_store().bytes();
    let (dumps, calls) = reference(&base, LOGGED);
    for from in 1..=calls.min(200) {
        let disk = Disk::of(base.clone());
        disk.fail(Some(Fails { from, ever_after: true }));
        let Ok(mounted) = Mounted::on(&disk, LOGGED) else { continue };
        let when = format!("call {from}");
        run(&mounted, &dumps, &when);
        drop(mounted);
        disk.fail(None);
        // So that no checkpoint, which syncs too, comes in between.
        disk.set_sync_time(Duration::from_millis(4));
        let mounted = Mounted::on(&disk, LOGGED).unwrap();
        let image = disk.synced();
        let served = mounted.dump().unwrap();
        let left = Mounted::on(&Disk::of(image), LOGGED).unwrap().dump().unwrap();
        let place = |dump: &Dump| dumps.iter().position(|other| other == dump).unwrap();
        assert!(place(&left) >= place(&served), "{when}: {} served, {} left", place(&served), place(&left));
    }
}

/// A disk whose next sync panics, as redb itself may on a damaged page.
struct Panicking(Box<dyn Storage>, Arc<AtomicBool>);

impl Storage for Panicking {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        assert!(!self.1.swap(false, SeqCst), "the disk panics, as the test has it");
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[test]
fn after_a_panic_in_a_commit_nothing_is_written_any_more() {
    let (disk, panics) = (disk_with_store(), Arc::new(AtomicBool::new(false)));
    let file = OnStorage(Box::new(Panicking(disk.storage(TABLE), panics.clone())));
    let engine = EmbeddedEngine::on_table(file, &builder(1 << 20)).unwrap();
    let store = Options::new().on(Box::new(engine)).unwrap();
    let create =
        |number| store.write(&request(), |txn| txn.create_key(&new_key(&format!("k{number}"), number)));
    create(1).unwrap();
    panics.store(true, SeqCst);
    let unknown = create(2);
    assert!(matches!(unknown, Err(Error::CommitUnknown(_))), "{unknown:?}");
    let next = create(3);
    assert!(matches!(next, Err(Error::Poisoned)), "{next:?}");
    assert_eq!(store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap(), 1);
}

/// Rows take most in memory, beside what they take in the log, if they are deleted and have a short address.
#[test]
fn a_log_full_of_deletions_is_recovered() {
    let disk = disk_with_store();
    let open = |disk: &Disk| {
        let table = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
        EmbeddedEngine::on(table, Box::new(disk.file(LOG)), usize::MAX)
    };
    let engine = open(&disk).unwrap();
    let rows: Batch = (0..110).map(|number| (vec![b'a', number], None)).collect();
    let commit = || engine.begin_write().unwrap().commit(&rows, Log::default()).unwrap();
    commit();
    // It says that the log is needed, and has nothing of it.
    let [table, _] = disk.synced();
    // Each in two sectors: as many as both segments hold.
    let last = (1..2 * SEGMENT_BYTES / 1024).fold(Commit::default(), |_, _| commit());
    let [_, log] = disk.synced();
    let recovered = open(&Disk::of([table, log])).unwrap();
    assert_eq!(recovered.begin_read().unwrap().commit(), last);
}

/// A storage of which one sync fails, though it was done.
struct FailsOnce(Box<dyn Storage>, Arc<AtomicU64>);

impl Storage for FailsOnce {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()?;
        match self.1.fetch_sub(1, SeqCst) {
            1 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// The table names the log before that is made. An import after that has failed goes to the table, and leaves what it says.
#[test]
fn an_import_after_a_log_could_not_be_made_leaves_its_id() {
    let mut failed = 0;
    for fails in 1..=4 {
        let (disk, left) = (Disk::default(), Arc::new(AtomicU64::new(u64::MAX)));
        let log = Box::new(FailsOnce(disk.storage(LOG), left.clone()));
        let store = Options::new().open_on(disk.storage(TABLE), Some(log)).unwrap();
        let create =
            |number| store.write(&request(), |txn| txn.create_key(&new_key(&format!("k{number}"), number)));
        create(1).unwrap();
        left.store(fails, SeqCst);
        failed += u32::from(create(2).is_err());
        left.store(u64::MAX, SeqCst);
        let imported: Result<Vec<_>> = store.import(&request(), [new_key("k3", 3)]).collect();
        if imported.is_err() {
            // It was a commit whose outcome nobody knows.
            continue;
        }
        let made = (4..7).filter(|number| create(*number).is_ok()).count();
        assert_eq!(made, 3, "sync {fails}");
        let found = store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap();
        // As a power cut leaves them.
        let disk = Disk::of(disk.synced());
        let again = Options::new().open_on(disk.storage(TABLE), Some(disk.storage(LOG)));
        let again = again.unwrap_or_else(|error| panic!("sync {fails}: {error:?}"));
        assert_eq!(again.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap(), found);
    }
    assert!(failed > 1, "{failed}");
}

#[test]
fn a_checkpoint_that_fails_is_told_when_the_store_is_closed() {
    let disk = disk_with_store();
    let open = |disk: &Disk| {
        let table = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
        EmbeddedEngine::on(table, Box::new(disk.file(LOG)), usize::MAX).unwrap()
    };
    let write = |engine: &dyn Engine| {
        let batch = Batch::from([(Space::of_store().floor(), Some(vec![1]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap()
    };
    let engine = open(&disk);
    let commit = write(&engine);
    disk.fail(Some(Fails { from: 1, ever_after: true }));
    assert!(matches!(engine.close(), Err(Error::Io(_))));
    // Its log has it nevertheless.
    let disk = Disk::of(disk.synced());
    let engine = open(&disk);
    assert_eq!(engine.begin_read().unwrap().commit(), commit);
    engine.close().unwrap();
    assert_eq!(
        EmbeddedEngine::on_table(disk.file(TABLE), &builder(1 << 20)).unwrap().begin_read().unwrap().commit(),
        commit
    );
}

/// A crash between the parts of a checkpoint: the table file has rows of commits that the log alone has
/// whole. With the log all is there; an older copy of the log is refused.
#[test]
fn part_of_a_checkpoint_needs_the_whole_log() {
    let open = |disk: &Disk| {
        let table = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
        EmbeddedEngine::on(table, Box::new(disk.file(LOG)), usize::MAX)
    };
    let write = |engine: &EmbeddedEngine, number: u8| {
        let batch = Batch::from([(vec![b'a', number], Some(vec![number]))]);
        engine.begin_write().unwrap().commit(&batch, Log { append: Some(&[number]), trim: None }).unwrap()
    };
    let rows =
        |read: &dyn ReadTransaction| read.scan((Bound::Included(b"a"), Bound::Unbounded), 100).unwrap().len();
    let base = disk_with_store().bytes();
    let (mut parts, mut from) = (0, 0);
    loop {
        from += 1;
        let disk = Disk::of(base.clone());
        let engine = open(&disk).unwrap();
        write(&engine, 0);
        let [_, older] = disk.synced();
        let last = (1..20).fold(Commit::default(), |_, number| write(&engine, number));
        disk.fail(Some(Fails { from, ever_after: true }));
        if engine.close().is_ok() {
            break;
        }
        for [table, log] in disk.survivors(from) {
            let when = format!("call {from}");
            let disk = Disk::of([table.clone(), log]);
            let file = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
            let (state, newest) = (file.log_state().unwrap(), file.newest().unwrap().commit());
            drop(file);
            assert_eq!(rows(&*open(&disk).unwrap().begin_read().unwrap()), 20, "{when}");
            if newest < last && matches!(state, LogState::InUse { floor, .. } if floor == last) {
                parts += 1;
                let refused = open(&Disk::of([table, older.clone()])).err();
                assert!(matches!(refused, Some(Error::LogMismatch(_))), "{when}: {refused:?}");
            } else if newest < last {
                let file = Disk::of([table, Vec::new()]).file(TABLE);
                let file = TableFile::on(file, &builder(1 << 20)).unwrap();
                assert_eq!(
                    rows(&file.newest().unwrap()),
                    0,
                    "{when}: the log need not reach to what the file has"
                );
            }
        }
    }
    assert!(parts > 20, "{parts}");
}

/// What is not in the log yet must not come to the table file: after a crash it would have part of a commit
/// that nobody has whole.
#[test]
fn a_checkpoint_comes_after_the_log() {
    let base = disk_with_store().bytes();
    for from in 1..=30 {
        let (table, log) = (Disk::of(base.clone()), Disk::of(base.clone()));
        let on = |table: &Disk, log: &Disk| {
            let table = TableFile::on(table.file(TABLE), &builder(1 << 20)).unwrap();
            EmbeddedEngine::on(table, Box::new(log.file(LOG)), usize::MAX)
        };
        let engine = on(&table, &log).unwrap();
        let write = |number: u8| {
            let batch = (0..20).map(|row| (vec![b'a', number, row], Some(vec![row]))).collect();
            engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap()
        };
        write(1);
        let acknowledged = write(2);
        // So that the checkpoint is the first that wants the next commit in the log.
        engine.sabotage(Some(Sabotage::CommitDoesNotWait));
        assert!(write(3).number().is_multiple_of(2));
        log.fail(Some(Fails { from: 1, ever_after: true }));
        table.fail(Some(Fails { from, ever_after: true }));
        assert!(matches!(engine.close(), Err(Error::Io(_))), "call {from}");
        for [table, _] in table.survivors(from) {
            let disk = Disk::of([table, log.synced()[LOG].clone()]);
            let left = on(&disk, &disk).unwrap_or_else(|error| panic!("call {from}: {error:?}"));
            let read = left.begin_read().unwrap();
            let rows = read.scan((Bound::Included(b"a"), Bound::Unbounded), 100).unwrap().len();
            assert_eq!((read.commit(), rows), (acknowledged, 40), "call {from}");
        }
    }
}

/// After a crash both halves of the log may be needed: neither is written over before the table file has what
/// is in it.
#[test]
fn a_half_of_the_log_is_kept_until_the_table_file_has_it() {
    let on = |table: &Disk, log: &Disk| {
        let table = TableFile::on(table.file(TABLE), &builder(1 << 20)).unwrap();
        EmbeddedEngine::on(table, Box::new(log.file(LOG)), usize::MAX).unwrap()
    };
    let write = |engine: &EmbeddedEngine, number: u8| {
        let batch = (0..10).map(|row| (vec![b'a', number, row], Some(vec![row; 300]))).collect();
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
    };
    let disk = disk_with_store();
    let engine = on(&disk, &disk);
    write(&engine, 0);
    // As if the checkpoint of the first half had not come far yet.
    let [table, _] = disk.synced();
    (1..8).for_each(|number| write(&engine, number));
    let [_, log] = disk.synced();
    assert!([8192, 8192 + 16 * 1024].iter().all(|half| log[*half] != 0), "both halves are in use");

    let (table, log) = (Disk::of([table, Vec::new()]), Disk::of([Vec::new(), log]));
    // So that the write could come long before the checkpoint.
    table.set_sync_time(Duration::from_millis(2));
    let engine = on(&table, &log);
    write(&engine, 8);
    let disk = Disk::of([table.synced()[TABLE].clone(), log.synced()[LOG].clone()]);
    let left = on(&disk, &disk);
    let read = left.begin_read().unwrap();
    assert_eq!(read.scan((Bound::Included(b"a"), Bound::Unbounded), 100).unwrap().len(), 90);
}

/// The log grows while both of its segments are in use: at no time is one of them anywhere but where it is looked for.
#[test]
fn a_crash_beside_a_log_that_grows_takes_nothing() {
    const SHORT: u64 = 4096;
    let on = |table: &Disk, log: &Disk| {
        let table = TableFile::on(table.file(TABLE), &builder(1 << 20)).unwrap();
        let disk = LogDisk { frames: Box::new(log.file(LOG)), marks: None };
        let limits = Limits { log_bytes: log_bytes(4 * SHORT), checkpoint_bytes: usize::MAX };
        EmbeddedEngine::growing(table, disk, limits)
    };
    let (table, log) = (disk_with_store(), Disk::default());
    RedoLog::create(&log.file(LOG), [7; 16], SHORT).unwrap();
    // So that a segment is full long before the table has what is in the one before it.
    table.set_sync_time(Duration::from_millis(5));
    let engine = on(&table, &log).unwrap();
    let mut crashes = Vec::new();
    for number in 0..60 {
        let batch = Batch::from([(vec![b'a', number], Some(vec![number]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
        let [table, _] = table.synced();
        crashes.push([table, log.synced()[LOG].clone()]);
    }
    let lengths: BTreeSet<_> = crashes.iter().map(|[_, log]| log.len() as u64).collect();
    assert_eq!(lengths, BTreeSet::from([1, 2, 4].map(|times| log_bytes(times * SHORT))));
    for (image, acknowledged) in crashes.into_iter().zip(1..) {
        let disk = Disk::of(image);
        let left = on(&disk, &disk).unwrap_or_else(|error| panic!("{acknowledged} commits: {error:?}"));
        let read = left.begin_read().unwrap();
        let rows = read.scan((Bound::Included(b"a"), Bound::Unbounded), 100).unwrap().len();
        assert_eq!(rows, acknowledged);
    }
}

#[test]
fn making_a_store_fails() {
    let make = |disk: &Disk| {
        let engine = EmbeddedEngine::initialize(disk.file(TABLE), &builder(1 << 20))?;
        Options::new().begin(&engine)
    };
    let whole = Disk::default();
    make(&whole).unwrap();
    for ever_after in [false, true] {
        for from in 1..=whole.calls() {
            let disk = Disk::default();
            disk.fail(Some(Fails { from, ever_after }));
            // A failure of closing is nobody's business; any other is told.
            if let Err(error) = make(&disk) {
                must_be_of_the_disk(&error, &format!("call {from}"));
            } else {
                must_survive(
                    &disk,
                    (0, 0),
                    DIRECT,
                    &[Mounted::on(&Disk::of(disk.bytes()), DIRECT).unwrap().dump().unwrap()],
                    "made",
                );
            }
        }
    }
}

/// The error of a store whose disk failed before.
pub(super) fn poisoned() -> Error {
    let disk = disk_with_store();
    let mounted = Mounted::on(&disk, DIRECT).unwrap();
    disk.fail(Some(Fails { from: 1, ever_after: true }));
    mounted.step(0).unwrap_err();
    // The disk is well again, but who knows what it lost.
    disk.fail(None);
    mounted.step(0).unwrap_err()
}

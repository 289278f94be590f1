//! Readers beside a writer: whatever it does to the table and the log, they read what it reads.

use std::fs::{self, File, OpenOptions};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wal::{LogEnd, RedoLog, SalvagedLog, log_bytes};
use super::{EmbeddedEngine, FileId, FollowedFiles, Follower, Limits, LogDisk};
use crate::engine::disk::StorageBackend;
use crate::engine::redb::{LogState, Pages, TableFile, TableReader, backend};
use crate::engine::scripted::Random;
use crate::engine::{Batch, Engine, Load, Log, ReadTransaction, Reading, RowHash};
use crate::error::{Error, Result};
use crate::format::{Row, Stored};
use crate::id::Commit;

pub(super) const PAGES: Pages = Pages { lock_wait: LOCK_WAIT, ..Pages::believed(1 << 20) };
const ID: [u8; 16] = [7; 16];
/// So short that a few commits fill a segment.
const SEGMENT_BYTES: u64 = 4096;
pub(super) const LOCK_WAIT: Duration = Duration::from_millis(50);
pub(super) const IDENTITY: &[u8] = b"identity";

/// A folder with the files of a store.
pub(super) struct Place(pub(super) tempfile::TempDir);

#[derive(Clone)]
pub(super) struct Files(pub(super) PathBuf);

impl Files {
    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.0.join(["table", "log"][number])
    }
}

impl Files {
    pub(super) fn write(&self, checkpoint_bytes: usize) -> EmbeddedEngine {
        self.try_write(checkpoint_bytes, 0).unwrap()
    }

    fn try_write(&self, checkpoint_bytes: usize, boot: u64) -> Result<EmbeddedEngine> {
        let table = TableFile::open(&self.path(0), PAGES).unwrap();
        let [frames, marks] = [1; 2].map(|log| Box::new(backend(to_write(&self.path(log))).unwrap()));
        let disk = LogDisk { frames, marks: Some(marks) };
        // It grows, at most to sixteen times its first length.
        let limits = Limits { log_bytes: log_bytes(16 * SEGMENT_BYTES), checkpoint_bytes };
        EmbeddedEngine::in_boot(table, disk, limits, boot)
    }
}

/// Files whose log seems to be another file.
struct InBoot(Files, u64);

impl FollowedFiles for InBoot {
    fn table(&self) -> Result<(TableReader, FileId)> {
        self.0.table()
    }

    fn table_now(&self) -> Result<FileId> {
        self.0.table_now()
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        self.0.log()
    }

    fn boot(&self) -> u64 {
        self.1
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

impl FollowedFiles for Files {
    fn table(&self) -> Result<(TableReader, FileId)> {
        Ok((TableReader::open(File::open(self.path(0))?, &self.path(0), PAGES)?, None))
    }

    fn table_now(&self) -> Result<FileId> {
        Ok(None)
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        Ok(Some(Box::new(backend(File::open(self.path(1))?)?)))
    }

    fn boot(&self) -> u64 {
        crate::engine::boot::of(&self.path(1))
    }

    fn name(&self) -> String {
        "a store".to_owned()
    }
}

pub(super) fn to_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

impl Place {
    pub(super) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let files = place.files();
        drop(TableFile::create(to_write(&files.path(0)), PAGES).unwrap());
        let table = TableFile::open(&files.path(0), PAGES).unwrap();
        table.mark(LogState::Closed { id: ID, next: 0 }).unwrap();
        drop(table);
        RedoLog::create(&backend(to_write(&files.path(1))).unwrap(), ID, SEGMENT_BYTES).unwrap();
        place
    }

    /// What a kill of its writer would leave.
    pub(super) fn copy(&self) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for number in 0..2 {
            fs::copy(self.files().path(number), copy.files().path(number)).unwrap();
        }
        copy
    }

    pub(super) fn files(&self) -> Files {
        Files(self.0.path().to_path_buf())
    }

    pub(super) fn mark(&self) -> Vec<u8> {
        fs::read(self.files().path(1)).unwrap()[4096..4608].to_vec()
    }

    pub(super) fn set_mark(&self, mark: &[u8]) {
        backend(to_write(&self.files().path(1))).unwrap().write(4096, mark).unwrap();
    }

    /// How long the log is.
    fn log_bytes(&self) -> u64 {
        fs::metadata(self.files().path(1)).unwrap().len()
    }

    pub(super) fn write(&self, checkpoint_bytes: usize) -> EmbeddedEngine {
        self.files().write(checkpoint_bytes)
    }

    pub(super) fn follow(&self) -> Result<Follower> {
        Follower::open(self.files(), IDENTITY.to_vec(), LOCK_WAIT)
    }
}

pub(super) fn rows(read: &dyn ReadTransaction) -> (Commit, Vec<(Row, Stored)>) {
    let rows = read.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap();
    (read.commit(), rows.into_iter().map(|(row, stored)| (row, stored.unwrap())).collect())
}

pub(super) fn commit(engine: &EmbeddedEngine, batch: &Batch) -> Commit {
    engine.begin_write().unwrap().commit(batch, Log { append: Some(b"entry"), trim: None }).unwrap()
}

pub(super) fn batch(random: &mut Random) -> Batch {
    let change = |random: &mut Random| {
        let row = vec![b'a' + u8::try_from(random.below(20)).unwrap()];
        let value = (random.below(4) > 0).then(|| vec![b'v'; random.index(700)]);
        (row, value)
    };
    (0..=random.below(3)).map(|_| change(random)).collect()
}

pub(super) fn load(engine: &EmbeddedEngine, random: &mut Random) -> Commit {
    let transaction = engine.begin_write().unwrap();
    let mut load = Load::after(transaction.commit_read());
    for _ in 0..=random.below(3) {
        for (row, value) in batch(random) {
            load.put(&row, value.as_deref());
        }
        load.end_commit(Some(b"entry".to_vec()));
    }
    transaction.load(&load).unwrap()
}

#[track_caller]
pub(super) fn must_agree(writer: &EmbeddedEngine, follower: &Follower) {
    let (expected, found) = (writer.begin_read().unwrap(), follower.begin_read().unwrap());
    assert_eq!(rows(&*found), rows(&*expected));
    let log = |read: &dyn ReadTransaction| {
        let entries = read.log(Commit::default(), usize::MAX).unwrap();
        entries.into_iter().map(|(commit, entry)| (commit, entry.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(log(&*found), log(&*expected));
}

#[test]
fn a_follower_reads_what_its_writer_reads() {
    for (seed, checkpoint_bytes) in (0..).zip([1, 300, 3000, usize::MAX, 1, 300, 3000, usize::MAX]) {
        let (place, mut random) = (Place::new(), Random::new(seed));
        let mut followers = vec![place.follow().unwrap()];
        for _ in 0..4 {
            let writer = place.write(checkpoint_bytes);
            followers.push(place.follow().unwrap());
            for turn in 0..60 {
                match random.below(12) {
                    0 => drop(load(&writer, &mut random)),
                    _ => drop(commit(&writer, &batch(&mut random))),
                }
                // One reads each time, others now and then: what they need may be overwritten by then.
                for (number, follower) in (1..).zip(&followers) {
                    if turn % (1 << number) == 0 {
                        must_agree(&writer, follower);
                    }
                }
            }
            let newest = rows(&*writer.begin_read().unwrap());
            writer.close().unwrap();
            for follower in &followers {
                assert_eq!(rows(&*follower.begin_read().unwrap()), newest);
            }
        }
        let has_grown = place.log_bytes() > log_bytes(SEGMENT_BYTES);
        assert!(has_grown || checkpoint_bytes < usize::MAX, "the log did not grow");
    }
}

/// What is cached of a row counts only as long as the row is what it was.
#[test]
fn a_follower_knows_which_rows_changed() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let follower = place.follow().unwrap();
    let mut known: Vec<(Row, Commit, Option<Stored>)> = Vec::new();
    let (mut kept, mut dropped) = (0, 0);
    // Snapshots that are read from for long, too: what was cached from a later one may not show in them.
    let mut held: Vec<Reading> = Vec::new();
    for _ in 0..6 {
        let writer = place.write(300);
        for _ in 0..40 {
            match random.below(12) {
                0 => drop(load(&writer, &mut random)),
                _ => drop(commit(&writer, &batch(&mut random))),
            }
            if random.below(3) > 0 {
                continue;
            }
            held.push(follower.begin_read().unwrap());
            for (row, commit, stored) in &known {
                for read in &held {
                    if read.unchanged_since(RowHash::of(row), *commit) {
                        assert_eq!(read.get(&[row]).unwrap().first(), Some(stored));
                        kept += 1;
                    } else {
                        dropped += 1;
                    }
                }
            }
            let read = held.last().unwrap();
            let row = vec![b'a' + u8::try_from(random.below(20)).unwrap()];
            let stored = read.get(&[&row]).unwrap().pop().unwrap();
            known.push((row, read.commit(), stored));
        }
        writer.close().unwrap();
    }
    assert!(kept > 100 && dropped > 100, "{kept} kept, {dropped} dropped");
}

/// What it has not read is overwritten, and the frames that it finds are not those that come next.
#[test]
fn a_follower_notices_that_frames_are_missing() {
    let row = |number: u8| Batch::from([(vec![number], Some(vec![number; 8]))]);
    for _ in 0..10 {
        let place = Place::new();
        let writer = place.write(usize::MAX);
        // The first frames of a segment of eight.
        for number in 0..3 {
            commit(&writer, &row(number));
        }
        let follower = place.follow().unwrap();
        let read = follower.begin_read().unwrap();
        // The rest of it, the next, and the first half of its place again.
        for number in 3..22 {
            commit(&writer, &row(number));
        }
        let after = follower.begin_read().unwrap();
        assert_eq!(after.commit(), Commit::new(22));
        for number in 0..22 {
            let row = [number];
            if after.unchanged_since(RowHash::of(&row), read.commit()) {
                assert_eq!(after.get(&[&row]).unwrap(), read.get(&[&row]).unwrap(), "{number}");
            }
        }
        writer.close().unwrap();
    }
}

#[test]
fn a_snapshot_of_a_follower_stays_as_it_is() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let writer = place.write(300);
    let follower = place.follow().unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        commit(&writer, &batch(&mut random));
        let read = follower.begin_read().unwrap();
        let expected = rows(&*read);
        held.push((read, expected));
    }
    for (read, expected) in held {
        assert_eq!(rows(&*read), expected);
    }
    writer.close().unwrap();
}

/// After a kill everything that was acknowledged is there, wherever the kernel left the mark.
#[test]
fn without_a_writer_all_that_was_acknowledged_is_read() {
    for seed in 0..40 {
        let (place, mut random) = (Place::new(), Random::new(seed));
        let writer = place.write(if seed % 2 == 0 { 300 } else { 3000 });
        let turns = random.index(40);
        let mut marks = vec![place.mark()];
        for _ in 0..turns {
            commit(&writer, &batch(&mut random));
            marks.push(place.mark());
        }
        let expected = rows(&*writer.begin_read().unwrap());
        let after = place.copy();
        after.set_mark(&marks[random.index(marks.len())]);
        let follower = after.follow().unwrap();
        assert_eq!(rows(&*follower.begin_read().unwrap()), expected, "{seed}");
        // A writer opens it again, and goes on.
        let again = after.write(300);
        must_agree(&again, &follower);
        commit(&again, &batch(&mut random));
        must_agree(&again, &follower);
        again.close().unwrap();
        writer.close().unwrap();
    }
}

/// A writer that is opening the store is waited for, because nobody knows yet what was acknowledged.
#[test]
fn while_a_writer_opens_the_store_a_follower_waits() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    commit(&writer, &batch(&mut Random::new(1)));
    let after = place.copy();
    // It has the table, and has not said yet that its mark counts.
    let opening = TableFile::open(&after.files().path(0), PAGES).unwrap();
    assert!(matches!(after.follow().err(), Some(Error::AlreadyOpen(_))));
    drop(opening);
    let follower = after.follow().unwrap();
    must_agree(&writer, &follower);
    writer.close().unwrap();
}

/// The mark is written when the frames before it are on the disk: so a log that ends before it lost some.
#[test]
fn a_log_that_ends_before_its_mark_is_damaged() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let writer = place.write(usize::MAX);
    for _ in 0..3 {
        commit(&writer, &batch(&mut random));
    }
    let before = place.copy();
    let last = commit(&writer, &batch(&mut random));
    let (log, log_before) = [&place, &before].map(|place| fs::read(place.files().path(1)).unwrap()).into();
    // Another file, so that no mark counts that a follower would go by; and a writer goes by none.
    let after = place.copy();
    let frames = [&log[..8192], &log_before[8192..]].concat();
    fs::write(after.files().path(1), frames).unwrap();
    let is_damaged = |error: Error| {
        assert!(matches!(&error, Error::Corrupted(what) if what.contains("was acknowledged")), "{error}");
    };
    is_damaged(after.follow().err().unwrap());
    is_damaged(after.files().try_write(usize::MAX, 0).err().unwrap());
    let disk = || Box::new(backend(File::open(after.files().path(1)).unwrap()).unwrap());
    let salvaged = SalvagedLog::read(disk(), None, Commit::default()).unwrap();
    assert!(matches!(salvaged.end, LogEnd::Damaged { newest, .. } if newest == Some(last)));
    // A table that has it all needs none of them.
    let salvaged = SalvagedLog::read(disk(), None, last).unwrap();
    assert_eq!(salvaged.end, LogEnd::Whole);
    writer.close().unwrap();
}

/// A disk that went away and came back, while the system ran on, has an older mark than the table and the frames.
#[test]
fn a_mark_that_is_older_than_the_table_keeps_nobody_waiting() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let boot = place.files().boot();
    let writer = place.files().try_write(300, boot).unwrap();
    commit(&writer, &batch(&mut random));
    let old = place.mark();
    for _ in 0..20 {
        commit(&writer, &batch(&mut random));
    }
    let expected = rows(&*writer.begin_read().unwrap());
    writer.checkpoint().unwrap();
    let after = place.copy();
    // As if it were the file that the mark names.
    after.set_mark(&old);
    let follower = Follower::open(InBoot(after.files(), boot), IDENTITY.to_vec(), LOCK_WAIT).unwrap();
    assert_eq!(rows(&*follower.begin_read().unwrap()), expected);
    writer.close().unwrap();
}

/// A commit that is larger than a segment goes to the table, and asks for segments that have room for such.
#[test]
fn commits_that_fit_in_no_segment_make_the_log_grow() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    let large = Batch::from([(b"large".to_vec(), Some(vec![7; 6000]))]);
    commit(&writer, &large);
    for _ in 0..200 {
        if place.log_bytes() > log_bytes(SEGMENT_BYTES) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(place.log_bytes(), log_bytes(2 * SEGMENT_BYTES));
    // The next one still finds the old segments, and goes on with the larger ones behind it.
    let follower = place.follow().unwrap();
    for groups in [0, 1, 2, 3, 4] {
        commit(&writer, &large);
        assert_eq!(writer.stats().wal.unwrap().groups, groups);
        must_agree(&writer, &follower);
    }
    let after = place.copy();
    must_agree(&writer, &after.follow().unwrap());
    // One that would not fit into the largest either asks for nothing.
    let length = place.log_bytes();
    commit(&writer, &Batch::from([(b"larger".to_vec(), Some(vec![7; 20 * 4096]))]));
    writer.checkpoint().unwrap();
    assert_eq!(place.log_bytes(), length);
    writer.close().unwrap();
}

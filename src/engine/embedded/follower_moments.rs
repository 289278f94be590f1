//! Readers beside a writer, looked at in the moments that count: while it syncs, while it moves its mark, inside of a
//! checkpoint, and when it comes and goes behind their back.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use redb::backends::FileBackend;

use super::follower_tests::{
    Files, IDENTITY, LOCK_WAIT, PAGES, Place, batch, commit, load, must_agree, rows, to_write,
};
use super::wal::{LOCKED_BYTE, Mark, Position, Segment};
use super::{EmbeddedEngine, FileId, FollowedFiles, Follower, Limits, LogDisk, for_tests::Given};
use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::redb::{TableFile, TableReader, backend};
use crate::engine::scripted::Random;
use crate::engine::{Batch, Engine};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::time::Stopwatch;

const MARK_AT: u64 = 4096;
const SECONDS: Duration = Duration::from_secs(60);

/// A call on a file, and whether it is about to be made or was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    HasRead(u64, usize),
    Writes(u64),
    HasWritten(u64),
    Syncs,
    HasSynced,
    HasUnlocked,
}

type Hook = Arc<dyn Fn(Call) + Send + Sync>;

/// A file that tells of each call.
struct Told {
    file: FileBackend,
    hook: Hook,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(out)
    }
}

impl StorageBackend for Told {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        (self.hook)(Call::HasRead(offset, out.len()));
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(Call::Syncs);
        self.file.sync_data()?;
        (self.hook)(Call::HasSynced);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (self.hook)(Call::Writes(offset));
        self.file.write(offset, data)?;
        (self.hook)(Call::HasWritten(offset));
        Ok(())
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_range(from, to)
    }

    fn try_lock_shared_range(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_shared_range(from, to)
    }

    fn lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.lock_range(from, to)
    }

    fn lock_shared_range(&self, from: Bound<u64>, to: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.lock_shared_range(from, to)
    }

    fn unlock_range(&self, from: Bound<u64>, to: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.unlock_range(from, to)?;
        (self.hook)(Call::HasUnlocked);
        Ok(())
    }

    fn query_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.file.query_lock_range(from, to)
    }
}

/// The files of a store, of which the log tells of each call, and that it is opened.
struct ToldFiles<O> {
    files: Files,
    opens: O,
    hook: Hook,
}

impl<O: Fn() + Send + Sync + 'static> FollowedFiles for ToldFiles<O> {
    fn table(&self) -> Result<(TableReader, FileId)> {
        self.files.table()
    }

    fn table_now(&self) -> Result<FileId> {
        self.files.table_now()
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        (self.opens)();
        let file = backend(File::open(self.files.path(1))?)?;
        Ok(Some(Box::new(Told { file, hook: self.hook.clone() })))
    }

    fn name(&self) -> String {
        self.files.name()
    }
}

impl Place {
    /// A writer of which these tell.
    fn write_told(&self, checkpoint_bytes: usize, [table, frames, marks]: [Hook; 3]) -> EmbeddedEngine {
        let open = |number: usize, hook: Hook| Told {
            file: backend(to_write(&self.files().path(number))).unwrap(),
            hook,
        };
        let table = TableFile::on(open(0, table), &PAGES.shared_builder()).unwrap();
        let (frames, marks) = (Box::new(open(1, frames)), Box::new(open(1, marks)));
        EmbeddedEngine::followed(table, frames, Some(marks), checkpoint_bytes).unwrap()
    }

    fn follow_told(
        &self,
        opens: impl Fn() + Send + Sync + 'static,
        hook: impl Fn(Call) + Send + Sync + 'static,
    ) -> Result<Follower> {
        let files = ToldFiles { files: self.files(), opens, hook: Arc::new(hook) };
        Follower::open(files, IDENTITY.to_vec(), LOCK_WAIT)
    }
}

fn nothing() -> Hook {
    Arc::new(|_| {})
}

fn put(row: &[u8], value: Vec<u8>) -> Batch {
    Batch::from([(row.to_vec(), Some(value))])
}

/// Whenever a follower has shown a commit, the power may go: all that was synced until then must have it.
#[test]
fn what_a_follower_has_shown_outlives_a_power_cut() {
    let place = Place::new();
    let log = place.files().path(1);
    let follower = Arc::new(place.follow().unwrap());
    let synced = Arc::new(Mutex::new(fs::read(&log).unwrap()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (files, follower, seen) = (place.files(), follower.clone(), seen.clone());
        move |call: Call| match call {
            Call::Writes(_) | Call::Syncs => {
                let shown = follower.begin_read().unwrap().commit();
                let after = Place(tempfile::tempdir().unwrap());
                fs::copy(files.path(0), after.files().path(0)).unwrap();
                fs::write(after.files().path(1), &*synced.lock().unwrap()).unwrap();
                let left = after.write(usize::MAX).begin_read().unwrap().commit();
                seen.lock().unwrap().push((shown, left));
            }
            Call::HasSynced => *synced.lock().unwrap() = fs::read(&log).unwrap(),
            Call::HasRead(..) | Call::HasWritten(_) | Call::HasUnlocked => {}
        }
    };
    // Without a checkpoint, and few commits, so that the table file is as it was when it was opened.
    let writer = place.write_told(usize::MAX, [nothing(), Arc::new(hook), nothing()]);
    for number in 0..6 {
        commit(&writer, &put(b"row", vec![number; 10]));
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().any(|(shown, _)| *shown == Commit::new(5)), "{seen:?}");
    for (shown, left) in &seen {
        assert!(shown <= left, "{shown:?} was shown, and after a power cut there is {left:?}: {seen:?}");
    }
    writer.close().unwrap();
}

/// Between the mark and the moment in which a commit shows in the process that writes, a follower has seen it.
#[test]
fn a_writers_reader_shows_no_less_than_a_follower_has_shown() {
    let place = Place::new();
    let follower = Arc::new(place.follow().unwrap());
    let writer = Arc::new(OnceLock::<Arc<EmbeddedEngine>>::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (follower, writer, seen) = (follower.clone(), writer.clone(), seen.clone());
        move |call: Call| {
            let (Call::HasWritten(MARK_AT), Some(writer)) = (call, writer.get().cloned()) else { return };
            let shown = follower.begin_read().unwrap().commit();
            let (says, said) = mpsc::channel();
            thread::spawn(move || says.send((shown, writer.begin_read().unwrap().commit())));
            // It waits, or it has it.
            if let Ok(both) = said.recv_timeout(Duration::from_millis(50)) {
                seen.lock().unwrap().push(both);
            } else {
                seen.lock().unwrap().push((shown, shown));
            }
        }
    };
    let engine = place.write_told(usize::MAX, [nothing(), nothing(), Arc::new(hook)]);
    assert!(writer.set(Arc::new(engine)).is_ok());
    for number in 0..5 {
        commit(writer.get().unwrap(), &put(b"row", vec![number; 10]));
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().any(|(shown, _)| *shown == Commit::new(5)), "{seen:?}");
    for (shown, here) in &seen {
        assert!(shown <= here, "{shown:?} was shown elsewhere, and here {here:?}");
    }
}

/// The first commit of a process goes to the table, where a follower sees it before it shows in the process that writes.
#[test]
fn a_writers_reader_shows_no_less_than_a_follower_has_found_in_the_table() {
    let place = Place::new();
    let follower = Arc::new(place.follow().unwrap());
    let writer = Arc::new(OnceLock::<Arc<EmbeddedEngine>>::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (follower, writer, seen) = (follower.clone(), writer.clone(), seen.clone());
        move |call: Call| {
            let (Call::HasUnlocked, Some(writer)) = (call, writer.get().cloned()) else { return };
            // There are locks under which it can't be read.
            let Ok(read) = follower.begin_read() else { return };
            let (says, said) = mpsc::channel();
            thread::spawn(move || says.send(writer.begin_read().unwrap().commit()));
            // It waits, or it has it.
            let here = said.recv_timeout(Duration::from_millis(50)).unwrap_or(read.commit());
            seen.lock().unwrap().push((read.commit(), here));
        }
    };
    let file = Told { file: backend(to_write(&place.files().path(0))).unwrap(), hook: Arc::new(hook) };
    let table = TableFile::on(file, &PAGES.shared_builder()).unwrap();
    let log = LogDisk { frames: Box::new(backend(to_write(&place.files().path(1))).unwrap()), marks: None };
    let limits = Limits { log_bytes: 0, checkpoint_bytes: usize::MAX };
    let engine = EmbeddedEngine::open(table, Given(crate::sync::Mutex::new(Some(log)), 0), limits).unwrap();
    assert!(writer.set(Arc::new(engine)).is_ok());
    let newest = commit(writer.get().unwrap(), &put(b"row", vec![1; 10]));
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().any(|(shown, _)| *shown == newest), "{seen:?}");
    for (shown, here) in &seen {
        assert!(shown <= here, "{shown:?} was shown elsewhere, and here {here:?}");
    }
}

/// What lies behind the mark may not have been synced by a writer that was killed.
#[test]
fn what_a_killed_writer_left_is_synced_before_it_is_shown() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    let newest = commit(&writer, &put(b"row", vec![1; 10]));
    let killed = place.copy();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = syncs.clone();
    let follower = killed.follow_told(
        || {},
        move |call| {
            if call == Call::HasSynced {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        },
    );
    let follower = follower.unwrap();
    assert_eq!(follower.shown(), newest);
    assert!(syncs.load(Ordering::SeqCst) > 0, "a commit was shown that a power cut takes");
    writer.close().unwrap();
}

/// A writer that a test holds up in the middle of a checkpoint.
#[derive(Default)]
struct Gate {
    /// How often the table is still synced before the checkpoint waits.
    left: AtomicU64,
    is_armed: AtomicBool,
    waits: AtomicBool,
    is_open: AtomicBool,
}

impl Gate {
    fn pass(&self, call: Call) {
        if !self.is_armed.load(Ordering::SeqCst) {
            return;
        }
        match call {
            Call::HasSynced => {
                let left = self.left.load(Ordering::SeqCst);
                self.left.store(left.saturating_sub(1), Ordering::SeqCst);
            }
            // Pages come before the header, for which redb takes locks.
            Call::Writes(offset) if offset >= 4096 && self.left.load(Ordering::SeqCst) == 0 => {
                self.waits.store(true, Ordering::SeqCst);
                until(|| self.is_open.load(Ordering::SeqCst));
            }
            _ => {}
        }
    }
}

fn until(holds: impl Fn() -> bool) {
    let started = Stopwatch::start();
    while !holds() {
        assert!(started.elapsed() < SECONDS, "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Its snapshot of the table has rows of commits that the mark which it read does not name yet.
#[test]
fn a_snapshot_that_was_taken_inside_of_a_checkpoint_is_not_shown_too_early() {
    // Its thread may have looked before, and then there is nothing to be seen.
    let seen = (0..60).filter(|_| read_inside_of_a_checkpoint()).take(3).count();
    assert_eq!(seen, 3);
}

fn read_inside_of_a_checkpoint() -> bool {
    let (place, gate) = (Place::new(), Arc::new(Gate::default()));
    let hook = gate.clone();
    let hooks: [Hook; 3] = [Arc::new(move |call| hook.pass(call)), nothing(), nothing()];
    let writer = Arc::new(place.write_told(usize::MAX, hooks));
    let is_armed = Arc::new(AtomicBool::new(false));
    let follower = {
        let (writer, gate, is_armed) = (writer.clone(), gate.clone(), is_armed.clone());
        let meanwhile = move |call: Call| {
            if call == Call::HasRead(MARK_AT, 88) && is_armed.swap(false, Ordering::SeqCst) {
                // The mark was read. Now comes a checkpoint of other rows, which stops after its first part.
                gate.left.store(2, Ordering::SeqCst);
                gate.is_armed.store(true, Ordering::SeqCst);
                for number in 0..30 {
                    if !gate.waits.load(Ordering::SeqCst) {
                        commit(&writer, &put(&[b'A' + number % 10], vec![2; 300]));
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                until(|| gate.waits.load(Ordering::SeqCst));
            }
        };
        place.follow_told(|| {}, meanwhile).unwrap()
    };
    for number in 0..10 {
        commit(&writer, &put(&[b'A' + number], vec![1; 10]));
    }
    // All that is now in the table, the follower has not looked at.
    for number in 0..20 {
        commit(&writer, &put(b"z", vec![number; 300]));
    }
    until(|| !writer.as_ref().log_stats().unwrap().checkpointing);
    let before = rows(&*writer.begin_read().unwrap());
    is_armed.store(true, Ordering::SeqCst);
    let shown = rows(&*follower.begin_read().unwrap());
    let now = rows(&*writer.begin_read().unwrap());
    let was_inside = gate.waits.load(Ordering::SeqCst);
    // Else its thread would wait for a checkpoint that comes no more.
    is_armed.store(false, Ordering::SeqCst);
    gate.is_open.store(true, Ordering::SeqCst);
    let expected = if shown.0 == before.0 { before } else { now };
    assert_eq!(shown, expected);
    was_inside
}

/// It reads the table; a writer comes, and goes; then it opens the log.
#[test]
fn a_writer_that_came_and_went_meanwhile_is_not_overlooked() {
    let place = Place::new();
    let first = place.write(usize::MAX);
    commit(&first, &put(b"row", vec![1; 10]));
    // It was killed, so its table says that it needs the log.
    let killed = place.copy();
    let is_first = AtomicBool::new(true);
    let newest = Arc::new(Mutex::new(None));
    let opens = {
        let (files, newest) = (killed.files(), newest.clone());
        move || {
            if is_first.swap(false, Ordering::SeqCst) {
                let writer = files.write(usize::MAX);
                let mut random = Random::new(1);
                commit(&writer, &batch(&mut random));
                load(&writer, &mut random);
                *newest.lock().unwrap() = Some(rows(&*writer.begin_read().unwrap()));
                writer.close().unwrap();
            }
        }
    };
    let follower = killed.follow_told(opens, |_| {}).unwrap();
    let shown = rows(&*follower.begin_read().unwrap());
    assert_eq!(Some(shown), *newest.lock().unwrap());
    first.close().unwrap();
}

/// Whoever says that nobody waits any more goes on to read, and so the follower goes on to look.
#[test]
fn a_follower_looks_for_commits_also_when_waiting_was_ended() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    let follower = place.follow().unwrap();
    follower.stop_waiting();
    let newest = commit(&writer, &put(b"row", vec![1; 10]));
    until(|| follower.shown() == newest);
    writer.close().unwrap();
}

/// While somebody holds the lock that says that the mark counts.
#[test]
fn a_mark_with_impossible_numbers_is_refused() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    commit(&writer, &put(b"row", vec![1; 10]));
    let killed = place.copy();
    writer.close().unwrap();
    let holder = backend(to_write(&killed.files().path(1))).unwrap();
    let byte = Bound::Included(LOCKED_BYTE);
    assert!(holder.try_lock_range(byte, byte).unwrap());
    let log = fs::read(killed.files().path(1)).unwrap();
    let (id, length) = (log[16..32].try_into().unwrap(), (log.len() as u64 - 8192) / 2);
    let at = |sequence, length| Position::at(Segment { sequence, length });
    let sound = Mark {
        session: 1,
        closed: false,
        loads: 0,
        commit: Commit::default(),
        end: at(3, length),
        base: Commit::default(),
        boot: 0,
    };
    let far = u64::MAX - 1;
    let hostile = [
        Mark { end: at(far, length), ..sound },
        Mark { end: Position { offset: length + 1, ..at(3, length) }, ..sound },
        Mark { commit: Commit::new(far), ..sound },
        Mark { base: Commit::new(far), ..sound },
        Mark { end: at(3, length + 512), ..sound },
        Mark { end: at(3, length - 1), ..sound },
        Mark { end: at(3, far), ..sound },
    ];
    for mark in &hostile {
        killed.set_mark(&mark.encode(&id));
        let opened = killed.follow();
        assert!(matches!(opened.as_ref().err(), Some(Error::Corrupted(_))), "{mark:?}: {:?}", opened.err());
    }
}

/// It moves on to the newest snapshot of the table, because redb can't use the pages of an older one again.
#[test]
fn a_table_does_not_grow_beside_a_follower() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let (writer, follower) = (place.write(3000), place.follow().unwrap());
    // Some at first are those of a checkpoint and of the snapshots before it; then there are no more.
    let lengths = [800, 4000].map(|commits| {
        for _ in 0..commits {
            commit(&writer, &batch(&mut random));
            assert!(follower.begin_read().unwrap().commit() > Commit::default());
        }
        must_agree(&writer, &follower);
        fs::metadata(place.files().path(0)).unwrap().len()
    });
    assert!(lengths[1] < lengths[0] * 3, "{lengths:?}");
}

/// One that has found out that the writer is gone shows what lies behind the mark; then no other may show less.
#[test]
fn what_a_killed_writer_left_is_shown_by_all_at_once() {
    let place = Place::new();
    let writer = place.write(usize::MAX);
    commit(&writer, &put(b"row", vec![1; 10]));
    let mark = place.mark();
    let newest = commit(&writer, &put(b"row", vec![2; 10]));
    let killed = place.copy();
    writer.close().unwrap();
    // It was killed after the sync, before the mark.
    killed.set_mark(&mark);
    let holder = backend(to_write(&killed.files().path(1))).unwrap();
    let byte = Bound::Included(LOCKED_BYTE);
    for _ in 0..20 {
        assert!(holder.try_lock_range(byte, byte).unwrap());
        let follower = killed.follow().unwrap();
        assert!(follower.begin_read().unwrap().commit() < newest);
        holder.unlock_range(byte, byte).unwrap();
        let other = killed.follow().unwrap();
        assert_eq!(other.begin_read().unwrap().commit(), newest);
        assert_eq!(follower.begin_read().unwrap().commit(), newest);
    }
}

/// Where redb says what a commit of the table is: its flag says that its writer has not synced that it is the newest.
const FLAGS: usize = 9;
const UNFLUSHED: u8 = 8;

fn set_unflushed(place: &Place) {
    let path = place.files().path(0);
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes[FLAGS] & UNFLUSHED == 0, "it is taken back when the commit returns");
    bytes[FLAGS] |= UNFLUSHED;
    fs::write(&path, bytes).unwrap();
}

/// A power cut takes back what a writer said without a sync: that the newest commit of the table is on the disk.
#[test]
fn what_a_power_cut_left_of_the_table_is_read_as_a_writer_reads_it() {
    let (place, mut random) = (Place::new(), Random::new(1));
    let writer = place.write(usize::MAX);
    // With it the table says that the log is in use.
    for _ in 0..3 {
        commit(&writer, &batch(&mut random));
        let after = place.copy();
        set_unflushed(&after);
        must_agree(&writer, &after.follow().unwrap());
    }
    let loaded = load(&writer, &mut random);
    let after = place.copy();
    set_unflushed(&after);
    must_agree(&writer, &after.follow().unwrap());
    // Beside a writer it is a commit that nobody was told of.
    let holder = backend(to_write(&after.files().path(0))).unwrap();
    let byte = Bound::Included(crate::engine::redb::WRITER_BYTE);
    assert!(holder.try_lock_range(byte, byte).unwrap());
    let file = File::open(after.files().path(0)).unwrap();
    let table = TableReader::open(file, &after.files().path(0), PAGES).unwrap();
    assert!(table.newest().unwrap().commit() < loaded);
    writer.close().unwrap();
    let newest = rows(&*place.follow().unwrap().begin_read().unwrap());
    let after = place.copy();
    set_unflushed(&after);
    assert_eq!(rows(&*after.follow().unwrap().begin_read().unwrap()), newest);
}

/// A file whose mark can't be written, once that is so; or it seems so, and is written all the same.
#[derive(Debug)]
struct NoMarks(FileBackend, Arc<AtomicBool>, bool);

impl StorageBackend for NoMarks {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let fails = self.1.load(Ordering::SeqCst);
        if !fails || self.2 {
            self.0.write(offset, data)?;
        }
        if fails { Err(io::Error::other("no mark can be written")) } else { Ok(()) }
    }
}

/// Nothing is acknowledged that followers can't be told of. Who reads here is shown what they find: whether a write that
/// failed was made, only the file tells; and by its mark they go also when the writer is gone.
#[test]
fn a_commit_whose_mark_can_not_be_written_is_unknown_and_shown_where_the_mark_is() {
    for is_made in [false, true] {
        let (place, mut random) = (Place::new(), Random::new(1));
        let fails = Arc::new(AtomicBool::new(false));
        let (files, boot) = (place.files(), place.files().boot());
        let table = TableFile::open(&files.path(0), PAGES).unwrap();
        let [frames, marks] = [1; 2].map(|log| backend(to_write(&files.path(log))).unwrap());
        let marks = Box::new(NoMarks(marks, Arc::clone(&fails), is_made));
        let disk = LogDisk { frames: Box::new(frames), marks: Some(marks) };
        let limits = Limits { log_bytes: 0, checkpoint_bytes: usize::MAX };
        let engine = EmbeddedEngine::in_boot(table, disk, limits, boot).unwrap();
        let before = commit(&engine, &batch(&mut random));
        let follower = place.follow().unwrap();
        fails.store(true, Ordering::SeqCst);
        let log = crate::engine::Log::default();
        let unknown = engine.begin_write().unwrap().commit(&batch(&mut random), log);
        assert!(matches!(unknown, Err(Error::CommitUnknown(_))), "{unknown:?}");
        let shown = before.number() + u64::from(is_made);
        assert_eq!(engine.begin_read().unwrap().commit().number(), shown);
        assert_eq!(follower.begin_read().unwrap().commit().number(), shown);
        assert!(matches!(engine.begin_write().err(), Some(Error::Poisoned)));
        drop(engine);
        assert_eq!(follower.begin_read().unwrap().commit().number(), shown);
        assert_eq!(place.follow().unwrap().begin_read().unwrap().commit().number(), shown);
        // It is durable all the same, and who opens the store to write finds it.
        let again = place.write(usize::MAX);
        assert_eq!(again.begin_read().unwrap().commit().number(), before.number() + 1);
        must_agree(&again, &follower);
    }
}

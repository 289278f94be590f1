//! Each call of a follower fails, reads and syncs: while it attaches, and while it looks again at what a writer has changed
//! meanwhile. It tells the failure, and never shows a wrong state; the next read is as if nothing had failed.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::disk::{Call, Decide, Disk, TABLE};
use super::history::{History, LOAD, STEPS, take};
use super::machine::{IDENTITY, LOCK_WAIT, Machine, PAGES};
use crate::engine::Engine;
use crate::engine::disk::{OnStorage, StorageBackend};
use crate::engine::embedded::{EmbeddedEngine, Follower};
use crate::engine::redb::{TableFile, builder};
use crate::engine::simulated::SimulatedFiles;
use crate::error::Error;

/// The calls of one thread, of which one fails, or all from one on.
#[derive(Default)]
struct Failing {
    /// How many were made since it began, and from which on they fail; 0 if none does.
    calls: AtomicU64,
    from: AtomicU64,
    ever_after: AtomicBool,
    syncs: AtomicU64,
    of: Mutex<Option<thread::ThreadId>>,
}

impl Failing {
    fn decide(self: &Arc<Self>) -> Decide {
        let failing = self.clone();
        Arc::new(move |call| {
            // Not of the thread that refreshes.
            if *failing.of.lock().unwrap() != Some(thread::current().id()) {
                return true;
            }
            let (number, from) = (failing.calls.fetch_add(1, SeqCst) + 1, failing.from.load(SeqCst));
            if matches!(call, Call::Sync) {
                failing.syncs.fetch_add(1, SeqCst);
            }
            from == 0 || number < from || (number > from && !failing.ever_after.load(SeqCst))
        })
    }

    fn begin(&self, from: u64, ever_after: bool) {
        self.from.store(from, SeqCst);
        self.ever_after.store(ever_after, SeqCst);
        self.calls.store(0, SeqCst);
        *self.of.lock().unwrap() = Some(thread::current().id());
    }

    /// Returns whether the call was reached that was to fail.
    fn end(&self) -> bool {
        *self.of.lock().unwrap() = None;
        self.calls.load(SeqCst) >= self.from.load(SeqCst)
    }
}

/// What a writer has done since a follower looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// The same writer: its next commit.
    Commit,
    /// A whole segment, so that the mark names the next.
    Segment,
    /// So much that what the follower has not read is overwritten.
    Lapped,
    Load,
    /// It has closed the store.
    Closed,
    /// It was killed, and what it wrote last was not synced.
    Killed,
    /// It was killed, and another one has recovered the store.
    Recovered,
}

const ALL: [Since; 7] = [
    Since::Commit,
    Since::Segment,
    Since::Lapped,
    Since::Load,
    Since::Closed,
    Since::Killed,
    Since::Recovered,
];

/// Before what is looked at: a log is in use, and one of its segments has been used again.
const STEPS_BEFORE: u8 = 9;

fn settle(writer: &EmbeddedEngine) {
    while writer.log_stats().is_some_and(|stats| stats.checkpointing) {
        thread::sleep(Duration::from_micros(50));
    }
}

fn steps(writer: &EmbeddedEngine, history: &History, until: u8) -> u64 {
    let from = history.steps(writer.begin_read().unwrap().commit().number());
    for step in from..until {
        take(writer, step).unwrap();
    }
    settle(writer);
    history.after(until)
}

/// A machine with a writer that has taken some steps, and what kills it.
fn begin(history: &History) -> (Machine, Writer) {
    let disk = Disk::default();
    drop(TableFile::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap());
    let machine = Machine::on(disk);
    let is_killed = Arc::default();
    let engine = machine.write_until(&is_killed).unwrap();
    steps(&engine, history, STEPS_BEFORE);
    (machine, Writer { engine, is_killed })
}

struct Writer {
    engine: EmbeddedEngine,
    is_killed: Arc<AtomicBool>,
}

impl Writer {
    fn kill(self) {
        self.is_killed.store(true, SeqCst);
        drop(self.engine);
    }
}

/// Has the writer do it; returns it, if it is there still, and the newest commit.
fn go_on(
    since: Since,
    history: &History,
    machine: &Machine,
    writer: Writer,
) -> (Option<EmbeddedEngine>, u64) {
    let until = match since {
        Since::Commit => STEPS_BEFORE + 1,
        Since::Segment => STEPS_BEFORE + 3,
        Since::Lapped => STEPS,
        Since::Load => LOAD + 1,
        Since::Closed | Since::Killed | Since::Recovered => STEPS_BEFORE + 2,
    };
    let newest = steps(&writer.engine, history, until);
    match since {
        Since::Commit | Since::Segment | Since::Lapped | Since::Load => return (Some(writer.engine), newest),
        Since::Closed => writer.engine.close().unwrap(),
        Since::Killed | Since::Recovered => writer.kill(),
    }
    let again = (since == Since::Recovered).then(|| machine.write_at_ease().unwrap());
    // Else a follower may look again at what is in motion, and the failure does not count.
    again.iter().for_each(settle);
    (again, newest)
}

/// How often each was seen.
#[derive(Debug, Default)]
struct Met {
    told: u64,
    /// How many syncs were made, failed ones included.
    syncs: u64,
}

fn must_be_io(error: &Error, when: &str) {
    let of_the_disk = error.to_string().contains("the disk fails");
    assert!(matches!(error, Error::Io(_)) && of_the_disk, "{when}: {error:?}");
}

/// Reads, also if it takes some time until what a writer does is at rest.
fn shown(history: &History, follower: &Follower, when: &str) -> u64 {
    loop {
        match history.shown_by(Ok(follower)) {
            Ok(Some(shown)) => return shown,
            Ok(None) => thread::yield_now(),
            Err(complaint) => panic!("{when}: {complaint}"),
        }
    }
}

/// One call of attaching fails.
fn attach(history: &History, since: Since, (from, ever_after): (u64, bool), met: &mut Met) -> bool {
    let when = format!("attach, {since:?}, call {from}, ever after: {ever_after}");
    let (machine, writer) = begin(history);
    let (writer, newest) = go_on(since, history, &machine, writer);
    let failing = Arc::new(Failing::default());
    failing.begin(from, ever_after);
    let attached = machine.follow(&failing.decide());
    let is_reached = failing.end();
    met.syncs += failing.syncs.load(SeqCst);
    match attached {
        Ok(follower) => {
            assert!(!is_reached, "{when}: nothing was told");
            assert_eq!(shown(history, &follower, &when), newest, "{when}");
        }
        Err(error) => {
            met.told += 1;
            must_be_io(&error, &when);
        }
    }
    let follower = machine.follow(&failing.decide()).unwrap_or_else(|error| panic!("{when}: {error:?}"));
    assert_eq!(shown(history, &follower, &when), newest, "{when}, again");
    drop(writer);
    is_reached
}

/// One call of a read fails that finds what a writer has done since.
fn read_on(history: &History, since: Since, (from, ever_after): (u64, bool), met: &mut Met) -> bool {
    let when = format!("read, {since:?}, call {from}, ever after: {ever_after}");
    let (machine, writer) = begin(history);
    let failing = Arc::new(Failing::default());
    let follower = machine.follow(&failing.decide()).unwrap();
    let (writer, newest) = go_on(since, history, &machine, writer);
    failing.begin(from, ever_after);
    let read = history.shown_with(&follower);
    let is_reached = failing.end();
    met.syncs += failing.syncs.load(SeqCst);
    match read {
        Ok(shown) => assert_eq!((is_reached, shown), (false, Ok(newest)), "{when}"),
        Err(error) => {
            met.told += 1;
            must_be_io(&error, &when);
        }
    }
    assert_eq!(shown(history, &follower, &format!("{when}, again")), newest, "{when}, again");
    // And it goes on.
    if let Some(writer) = &writer {
        let step = history.steps(newest);
        if step < STEPS {
            let committed = take(writer, step).unwrap();
            assert_eq!(shown(history, &follower, &when), committed, "{when}, after another commit");
        }
    }
    is_reached
}

fn every_call(one: impl Fn(&History, Since, (u64, bool), &mut Met) -> bool) {
    let history = History::new();
    for since in ALL {
        for ever_after in [false, true] {
            let (mut met, mut from, mut beyond) = (Met::default(), 1, 0);
            // The thread that refreshes may have read before, for once.
            while beyond < 2 {
                let is_reached = one(&history, since, (from, ever_after), &mut met);
                beyond = if is_reached { 0 } else { beyond + 1 };
                from += u64::from(is_reached);
            }
            println!("{since:?}, ever after: {ever_after}: {met:?} of {} calls", from - 1);
            assert!(from > 2 && met.told == from - 1, "{since:?}: {met:?} of {} calls", from - 1);
            // What a killed writer left was not synced.
            assert_eq!(met.syncs > 0, since == Since::Killed, "{since:?}: {met:?}");
        }
    }
}

/// A file whose reads end too early for some time, as if it had become too short.
#[derive(Debug)]
struct Short {
    file: OnStorage,
    is_short: Arc<AtomicBool>,
}

impl StorageBackend for Short {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // It has its first page still.
        if offset >= 4096 && self.is_short.load(SeqCst) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// After such a read redb reads no more: the follower must open the table again, as after any other failure.
#[test]
fn a_read_that_ended_too_early_fails_alone() {
    let history = History::new();
    let (machine, writer) = begin(&history);
    let (disk, is_short) = (machine.disk.clone(), Arc::new(AtomicBool::new(false)));
    let of_follower = is_short.clone();
    let file = move |number| Short {
        file: disk.file(number),
        is_short: if number == TABLE { of_follower.clone() } else { Arc::default() },
    };
    let files = SimulatedFiles { machine: machine.locks(), file, pages: PAGES };
    let follower = Follower::open(files, IDENTITY.to_vec(), LOCK_WAIT).unwrap();
    // Its table changes, so that it reads from that.
    let (writer, newest) = go_on(Since::Load, &history, &machine, writer);
    is_short.store(true, SeqCst);
    let error = history.shown_with(&follower).unwrap_err();
    assert!(matches!(error, Error::Corrupted(_) | Error::Io(_)), "{error:?}");
    is_short.store(false, SeqCst);
    assert_eq!(shown(&history, &follower, "after it"), newest);
    drop(writer);
}

#[test]
fn each_call_of_attaching_fails() {
    every_call(attach);
}

#[test]
fn each_call_of_a_read_that_looks_again_fails() {
    every_call(read_on);
}

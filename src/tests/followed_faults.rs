//! A writer with followers, on a disk that fails or loses its power at each call that changes something: writes, syncs and
//! changes of length, from the first commit to the end of closing, and from the recovery on.
//!
//! In the moment of the call a follower that is attached reads, and another one attaches. Whatever the power cut leaves then
//! has all that was acknowledged, and all that any of them has shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::disk::{Call, Decide, Disk, LOG, TABLE};
use super::history::{History, LARGE, LOAD, STEPS, take};
use super::machine::{Asks, Machine, Through, succeeds};
use crate::engine::Engine;
use crate::engine::embedded::{EmbeddedEngine, Follower};
use crate::engine::redb::{TableFile, builder};
use crate::error::{Error, Result};

const MARK_AT: u64 = 4096;
/// How often a run looks whether the checkpoint has ended.
const SETTLES_MAX: u32 = 100_000;

/// What the writer is at when it makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Recovery,
    FirstCommit,
    LogMade,
    LogInUse,
    Frame,
    /// The first frame of a segment whose place had frames before.
    Reuse,
    FrameSynced,
    Mark,
    MarkOfUse,
    MarkOfLoad,
    MarkOfCheckpoint,
    MarkOfClose,
    Growth,
    Checkpoint,
    Load,
    LargeCommit,
    Close,
}

/// Which a run meets that makes its log.
const FRESH: [Moment; 16] = [
    Moment::FirstCommit,
    Moment::MarkOfUse,
    Moment::MarkOfLoad,
    Moment::MarkOfClose,
    Moment::LogMade,
    Moment::LogInUse,
    Moment::Frame,
    Moment::Reuse,
    Moment::FrameSynced,
    Moment::Mark,
    Moment::MarkOfCheckpoint,
    Moment::Growth,
    Moment::Checkpoint,
    Moment::Load,
    Moment::LargeCommit,
    Moment::Close,
];

/// What there was when the power was cut at the call.
struct Cut {
    moment: Moment,
    /// What was acknowledged or shown to anybody.
    told: u64,
    /// As if the processes were killed instead.
    killed: Disk,
}

/// A run in which one call fails, or all from one on.
struct Run {
    history: Arc<History>,
    machine: Machine,
    /// The number of the call, known from the beginning, or when the first of this moment is made.
    from: AtomicU64,
    aim: Option<Moment>,
    ever_after: bool,
    calls: AtomicU64,
    acknowledged: AtomicU64,
    /// The step that is being taken.
    step: AtomicU8,
    is_opened: AtomicBool,
    /// Whether the log has a frame of this run.
    has_frame: AtomicBool,
    is_closing: AtomicBool,
    attached: Follower,
    /// At which the call failed, known before anything fails after it.
    moment: Mutex<Option<Moment>>,
    cut: Mutex<Option<Cut>>,
    complaints: Mutex<Vec<String>>,
    /// How often a follower could not tell in time, in the moment of the call.
    in_motion: AtomicU64,
}

impl Run {
    fn decide(self: &Arc<Self>, through: Through) -> Decide {
        let run = Arc::downgrade(self);
        Arc::new(move |call| {
            let Some(run) = run.upgrade() else { return true };
            if matches!(call, Call::Len | Call::Read) {
                return !run.ever_after || run.calls.load(SeqCst) < run.from.load(SeqCst);
            }
            let mut at = run.moment.lock().unwrap();
            let number = run.calls.fetch_add(1, SeqCst) + 1;
            let moment = run.moment(through, call);
            if at.is_none() && run.aim == Some(moment) {
                run.from.store(number, SeqCst);
            }
            let from = run.from.load(SeqCst);
            if number == from {
                *at = Some(moment);
                drop(at);
                run.cut(moment);
            }
            number < from || (number > from && !run.ever_after)
        })
    }

    fn moment(&self, through: Through, call: Call<'_>) -> Moment {
        let in_background = thread::current().name() == Some("keystead checkpoint");
        let (step, is_closing) = (self.step.load(SeqCst), self.is_closing.load(SeqCst));
        match (through, call) {
            (Through::Table, _) if in_background && is_closing => Moment::Close,
            (Through::Table, _) if in_background => Moment::Checkpoint,
            _ if !in_background && !self.is_opened.load(SeqCst) => Moment::Recovery,
            (Through::Table, _) if step == LOAD => Moment::Load,
            (Through::Table, _) if step == LARGE => Moment::LargeCommit,
            (Through::Table, _) if step == 0 => Moment::FirstCommit,
            (Through::Table, _) if is_closing => Moment::Close,
            (Through::Table, _) => Moment::LogInUse,
            (Through::Making, _) => Moment::LogMade,
            (Through::Frames, Call::Write(_, frame)) => {
                let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
                self.has_frame.store(true, SeqCst);
                if number(8) >= 2 && number(16) == 0 { Moment::Reuse } else { Moment::Frame }
            }
            // It is synced when it was made, or opened.
            (Through::Frames, _) if !self.has_frame.load(SeqCst) => Moment::LogMade,
            (Through::Frames, _) => Moment::FrameSynced,
            (Through::Marks, Call::Write(MARK_AT, mark)) => {
                let commit = u64::from_le_bytes(mark[24..32].try_into().unwrap());
                match (in_background, step) {
                    (true, _) if is_closing => Moment::MarkOfClose,
                    (true, _) => Moment::MarkOfCheckpoint,
                    (false, LOAD) => Moment::MarkOfLoad,
                    (false, _) if commit > self.acknowledged.load(SeqCst) => Moment::Mark,
                    (false, _) => Moment::MarkOfUse,
                }
            }
            (Through::Marks, _) => Moment::Growth,
        }
    }

    fn complain(&self, complaint: String) {
        self.complaints.lock().unwrap().push(complaint);
    }

    /// What a follower shows, or if it can't tell in time, what was acknowledged: at least what was acknowledged before it began to read.
    fn look(&self, who: &str, follower: Result<&Follower>) -> u64 {
        let acknowledged = self.acknowledged.load(SeqCst);
        match self.history.shown_by(follower) {
            Ok(Some(shown)) if shown >= acknowledged => return shown,
            Ok(Some(shown)) => self.complain(format!("{who} shows {shown}, acknowledged is {acknowledged}")),
            Ok(None) => {
                self.in_motion.fetch_add(1, SeqCst);
            }
            Err(complaint) => self.complain(format!("{who}: {complaint}")),
        }
        acknowledged
    }

    fn cut(&self, moment: Moment) {
        let acknowledged = self.acknowledged.load(SeqCst);
        let shown = self.look("who is attached", Ok(&self.attached));
        let other = self.machine.follow(&succeeds());
        let by_other = self.look("who attaches", other.as_ref().map_err(copy_of));
        let told = acknowledged.max(shown).max(by_other);
        *self.cut.lock().unwrap() = Some(Cut { moment, told, killed: self.machine.disk.copy() });
    }

    /// Takes the steps that are left, until the store takes none any more.
    fn take_steps(&self, writer: &EmbeddedEngine) {
        let mut failures = 0;
        while self.step.load(SeqCst) < STEPS && failures < 3 {
            let step = self.step.load(SeqCst);
            match take(writer, step) {
                Ok(commit) => {
                    self.acknowledged.store(commit, SeqCst);
                    self.step.store(step + 1, SeqCst);
                    // Alone, so that each run makes the same calls; or beside the checkpoint.
                    if !self.ever_after {
                        self.settle(writer);
                    }
                    self.look("who reads after each step", Ok(&self.attached));
                }
                Err(error) => {
                    failures += 1;
                    self.check_error(&error);
                    if matches!(error, Error::CommitUnknown(_) | Error::Poisoned) {
                        let next = take(writer, step);
                        if !matches!(next, Err(Error::Poisoned)) {
                            self.complain(format!("after {error:?} the next commit: {next:?}"));
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Waits for the checkpoint, unless it failed.
    fn settle(&self, writer: &EmbeddedEngine) {
        for _ in 0..SETTLES_MAX {
            let is_at_rest = writer.log_stats().is_none_or(|stats| !stats.checkpointing);
            if is_at_rest || writer.begin_write().is_err() {
                return;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Which error a call that failed may lead to.
    fn check_error(&self, error: &Error) {
        let moment = *self.moment.lock().unwrap();
        let fits = match moment {
            Some(Moment::Frame | Moment::Reuse | Moment::FrameSynced | Moment::Mark | Moment::MarkOfLoad) => {
                matches!(error, Error::CommitUnknown(_))
            }
            Some(_) => matches!(error, Error::CommitUnknown(_) | Error::Poisoned | Error::Io(_)),
            None => false,
        };
        if !fits {
            self.complain(format!("the call of {moment:?} failed, and so the commit: {error:?}"));
        }
    }
}

fn copy_of(error: &Error) -> Error {
    match error {
        Error::AlreadyOpen(locked) => Error::AlreadyOpen(locked.clone()),
        other => Error::Corrupted(format!("{other:?}").into()),
    }
}

/// Where a run begins: what the files have, and what was acknowledged.
struct Start {
    disk: Disk,
    acknowledged: u64,
}

fn empty() -> Start {
    let disk = Disk::default();
    drop(TableFile::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap());
    Start { disk, acknowledged: 0 }
}

/// A writer was killed, and what it wrote last was not synced: the mark.
fn killed(history: &History, steps: u8) -> Start {
    let machine = Machine::on(empty().disk);
    let writer = machine.write_at_ease().unwrap();
    for step in 0..steps {
        take(&writer, step).unwrap();
    }
    Start { disk: machine.disk.copy(), acknowledged: history.after(steps) }
}

/// How often each moment was met, and what there was to see.
#[derive(Debug, Default)]
struct Met {
    moments: BTreeMap<Moment, u64>,
    in_motion: u64,
    images: u64,
    /// How often a follower without a writer showed what only it had synced.
    synced_by_follower: u64,
}

/// Which call fails.
#[derive(Debug, Clone, Copy)]
enum At {
    Call(u64),
    First(Moment),
}

/// Runs once; returns whether the call was reached that was to fail.
fn run(history: &Arc<History>, start: &Start, at: At, ever_after: bool, met: &mut Met) -> bool {
    let (from, aim) = match at {
        At::Call(from) => (from, None),
        At::First(moment) => (u64::MAX, Some(moment)),
    };
    let machine = Machine::on(start.disk.copy());
    let attached = machine.follow(&succeeds()).unwrap();
    let run = Arc::new(Run {
        history: history.clone(),
        machine: machine.clone(),
        from: AtomicU64::new(from),
        aim,
        ever_after,
        calls: AtomicU64::new(0),
        acknowledged: AtomicU64::new(start.acknowledged),
        step: AtomicU8::new(history.steps(start.acknowledged)),
        is_opened: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
        attached,
        moment: Mutex::default(),
        cut: Mutex::default(),
        complaints: Mutex::default(),
        in_motion: AtomicU64::new(0),
        has_frame: AtomicBool::new(false),
    });
    let of_writer = run.clone();
    let asks: Asks = Arc::new(move |through| of_writer.decide(through));
    // A failure of opening or closing takes nothing with it.
    if let Ok(writer) = machine.write(&asks) {
        run.is_opened.store(true, SeqCst);
        run.take_steps(&writer);
        run.is_closing.store(true, SeqCst);
        drop(writer);
    }
    drop(asks);
    let cut = run.cut.lock().unwrap().take();
    let moment = cut.as_ref().map(|cut| cut.moment);
    let when = format!("{at:?} ({moment:?}), ever after: {ever_after}, start {}", start.acknowledged);
    // Its writer is gone.
    let shown = run.look("who is left", Ok(&run.attached));
    let most = history.after((run.step.load(SeqCst) + 1).min(STEPS));
    for image in machine.disk.survivors(from).into_iter().skip(1).take(2) {
        met.images += 1;
        must_have(history, &Disk::of(image), (shown, most), &format!("{when}, at the end"));
    }
    met.in_motion += run.in_motion.load(SeqCst);
    if let Some(cut) = &cut {
        *met.moments.entry(cut.moment).or_default() += 1;
        if !ever_after {
            must_outlive(history, cut, most, met, &when);
        }
    }
    assert_eq!(*run.complaints.lock().unwrap(), Vec::<String>::new(), "{when}");
    cut.is_some()
}

/// Who opens it finds this much; a follower that is there before shows what the writer finds, and what it commits.
fn must_have(history: &History, disk: &Disk, (least, most): (u64, u64), when: &str) {
    let machine = Machine::on(disk.clone());
    let follower = machine.follow(&succeeds()).unwrap_or_else(|error| panic!("{when}: {error:?}"));
    let shown = |what: &str| loop {
        match history.shown_by(Ok(&follower)) {
            Ok(Some(shown)) => return shown,
            // A checkpoint is on its way.
            Ok(None) => thread::yield_now(),
            Err(complaint) => panic!("{when}, {what}: {complaint}"),
        }
    };
    let before = shown("without a writer");
    assert!((least..=most).contains(&before), "{when}: {before} is shown, not {least} to {most}");
    let writer = machine.write_at_ease().unwrap_or_else(|error| panic!("{when}: {error:?}"));
    let found = history.shown(&*writer.begin_read().unwrap());
    assert_eq!(found, Ok(before), "{when}: of the writer");
    assert_eq!(shown("beside a writer"), before, "{when}");
    let step = history.steps(before);
    if step < STEPS {
        let committed = take(&writer, step).unwrap();
        assert_eq!(shown("after a commit"), committed, "{when}");
    }
}

/// What the power cut leaves has all that anybody was told of, also if a follower told of more before it.
fn must_outlive(history: &History, cut: &Cut, most: u64, met: &mut Met, when: &str) {
    for image in cut.killed.survivors(cut.told) {
        met.images += 1;
        must_have(history, &Disk::of(image), (cut.told, most), &format!("{when}, power cut"));
    }
    let machine = Machine::on(cut.killed.copy());
    let synced = machine.disk.synced()[LOG].clone();
    let follower = machine.follow(&succeeds()).unwrap_or_else(|error| panic!("{when}, killed: {error:?}"));
    let shown =
        history.shown_by(Ok(&follower)).unwrap_or_else(|complaint| panic!("{when}, killed: {complaint}"));
    let shown = shown.expect("nothing moves");
    assert!((cut.told..=most).contains(&shown), "{when}, killed: {shown} is shown, {} was told", cut.told);
    met.synced_by_follower += u64::from(machine.disk.synced()[LOG] != synced);
    for image in machine.disk.survivors(shown) {
        met.images += 1;
        must_have(history, &Disk::of(image), (shown, most), &format!("{when}, killed, followed, power cut"));
    }
}

fn every_call(start: &Start, history: &Arc<History>, ever_after: bool) -> Met {
    let mut met = Met::default();
    let mut from = 1;
    while run(history, start, At::Call(from), ever_after, &mut met) {
        from += 1;
    }
    // Threads that run side by side don't make their calls in the same order each time.
    for moment in FRESH {
        if !met.moments.contains_key(&moment) {
            run(history, start, At::First(moment), ever_after, &mut met);
        }
    }
    println!("{} calls, {met:?}", from - 1);
    met
}

fn must_have_met(met: &Met, moments: &[Moment]) {
    for moment in moments {
        assert!(met.moments.contains_key(moment), "{moment:?} was not met: {met:?}");
    }
    // Two followers look at each call. Inside of a commit of the table nothing can be seen for most of the time.
    let calls: u64 = met.moments.values().sum();
    assert!(met.in_motion < calls, "too often nothing could be seen: {met:?}");
}

#[test]
fn each_call_of_a_followed_writer_fails_once() {
    let history = Arc::new(History::new());
    let met = every_call(&empty(), &history, false);
    must_have_met(&met, &FRESH);
    assert!(met.synced_by_follower > 10, "{met:?}");
}

#[test]
fn the_disk_of_a_followed_writer_fails_for_ever() {
    let history = Arc::new(History::new());
    must_have_met(&every_call(&empty(), &history, true), &FRESH);
}

#[test]
fn each_call_of_a_followed_recovery_fails() {
    let history = Arc::new(History::new());
    for (steps, ever_after) in [(9, false), (12, true), (22, false)] {
        let start = killed(&history, steps);
        let mut met = Met::default();
        let mut from = 1;
        // What comes later is as without a recovery.
        while met.moments.get(&Moment::Mark).is_none_or(|marks| *marks < 2) {
            assert!(run(&history, &start, At::Call(from), ever_after, &mut met), "{met:?}");
            from += 1;
        }
        let moments = [Moment::Recovery, Moment::Frame, Moment::FrameSynced, Moment::Mark];
        for moment in moments {
            if !met.moments.contains_key(&moment) {
                run(&history, &start, At::First(moment), ever_after, &mut met);
            }
        }
        println!("after {steps} steps: {met:?}");
        must_have_met(&met, &moments);
    }
}

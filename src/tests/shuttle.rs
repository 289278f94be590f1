//! The engine with a write-ahead log under shuttle, which chooses after every step which thread makes the next:
//! `RUSTFLAGS='--cfg shuttle' cargo test --lib shuttle --target-dir target/shuttle`.
//!
//! It is the code itself that runs: writers, the group commit, the publication of snapshots, the marks of the
//! stripes, the cache of records, the checkpoint and the closing, on the simulated disk. A step is what is
//! done between two uses of a lock, a condition variable or an atomic; and a sync takes many. What redb does
//! between two syncs is one step, because shuttle does not know its locks, and so is what the skip list and the
//! cache's table do.
//!
//! - What the threads, and followers beside them, were answered must be linearizable.
//! - If the power is cut, at any step, what the disk is left with must explain all that anybody was told until
//!   then: reads and refusals too.
//! - Everybody comes to an end: shuttle finds out if nobody can go on. Here no waiting ever times out.
//!
//! A failure prints its schedule, which `shuttle::replay` repeats.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use shuttle::rand::{RngCore, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::disk::{Disk, Fails, Image, LOG, TABLE};
use super::linearizability::checker::check;
use super::linearizability::recorder::{History, Recorder, answer};
use super::linearizability::specification::{Alias, Answer, Call, Key, Name, Names};
use super::linearizability::workload::{Random, Workload};
use crate::engine::disk::{OnStorage, Storage};
use crate::engine::embedded::wal::RedoLog;
use crate::engine::embedded::{EmbeddedEngine, Follower, Sabotage};
use crate::engine::redb::{Pages, TableFile, builder};
use crate::engine::simulated::{Machine, SimulatedFiles};
use crate::engine::{Engine, Waited};
use crate::format::Space;
use crate::sync::{atomic::AtomicUsize, thread};
use crate::{Commit, Error, Options, Result, Store};

const SEED: u64 = 20_260_101;
const WORKLOAD: Workload = Workload { families: 1 };
/// So many threads are preempted at the worst moment, in the schedules of PCT.
const DEPTH: usize = 3;

/// So many of the moments at which the power could be cut are tried in each execution.
const CUTS: usize = 3;

/// What threads do to a store.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    threads: usize,
    calls: usize,
    /// The length of a segment of the log.
    segment_bytes: u64,
    checkpoint_bytes: usize,
    /// At some call the disk begins to fail.
    disk_fails: bool,
    /// How many followers read, each a process of its own.
    followers: usize,
    sabotage: Option<Sabotage>,
}

/// Groups of commits, and no checkpoint before the store is closed.
const GROUPS: Scenario = Scenario {
    threads: 3,
    calls: 2,
    segment_bytes: 64 * 1024,
    checkpoint_bytes: 1 << 20,
    disk_fails: false,
    followers: 0,
    sabotage: None,
};

/// A log that is soon full.
const FULL_LOG: Scenario = Scenario { calls: 6, segment_bytes: 5 * 512, checkpoint_bytes: 1500, ..GROUPS };

const FAILING_DISK: Scenario = Scenario { disk_fails: true, ..FULL_LOG };

/// A writer whose log is soon full, so that there is a checkpoint, and one who reads along.
const FOLLOWED: Scenario = Scenario { threads: 2, followers: 1, ..FULL_LOG };

/// What all executions of a test came across.
#[derive(Default)]
struct Met {
    executions: AtomicU64,
    commits: AtomicU64,
    groups: AtomicU64,
    waits_for_checkpoint: AtomicU64,
    cuts: AtomicU64,
    failures: AtomicU64,
    checkpoints: AtomicU64,
    follower_reads: AtomicU64,
    /// How often a follower could not read in time, because what it looked at was in motion.
    not_in_time: AtomicU64,
}

/// What a power cut would leave, up to some time.
struct Cut {
    image: Image,
    until: u64,
}

/// Notes what a power cut would leave now.
#[derive(Clone)]
struct Power {
    disk: Disk,
    recorder: Arc<Recorder>,
    cuts: Arc<Mutex<Vec<Cut>>>,
}

/// A file that is slow: others make steps while it is written, and many while it is synced.
struct Slow {
    storage: Box<dyn Storage>,
    power: Power,
    steps: AtomicUsize,
    /// How many steps a write takes before it is there, and as many after it.
    steps_of_write: usize,
}

/// So many steps a sync takes: enough for others to run a transaction each.
const STEPS_OF_SYNC: usize = 40;
/// So many the mark takes, and after it: enough for a follower to read.
const STEPS_OF_MARK: usize = 10;
/// How often a follower that could not read in time tries once more.
const TRIES: usize = 20;

impl Power {
    fn note(&self) {
        let (image, until) = (self.disk.synced(), self.recorder.now());
        let mut cuts = self.cuts.lock().unwrap();
        match cuts.last_mut() {
            Some(last) if last.image == image => last.until = until,
            _ => cuts.push(Cut { image, until }),
        }
    }
}

impl Slow {
    fn steps(&self, count: usize) {
        for _ in 0..count {
            self.steps.fetch_add(1, SeqCst);
        }
    }
}

impl Storage for Slow {
    fn len(&self) -> std::io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.storage.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.steps(self.steps_of_write);
        let written = self.storage.write(offset, data);
        self.steps(self.steps_of_write);
        written
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.storage.set_len(length)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.steps(STEPS_OF_SYNC);
        let synced = self.storage.sync();
        self.power.note();
        self.steps(1);
        synced
    }
}

/// Two aliases go to and fro between two keys, one comes and goes, and keys are renamed: most calls change
/// something that the others look at.
fn call(random: &mut Random) -> Call {
    let (key, alias) = (Key(random.below(2)), Alias(random.below(2)));
    match random.below(10) {
        0..3 => Call::Resolve(alias),
        3 => Call::CreateAlias(Alias(2), key),
        4 => Call::DeleteAliases(key, vec![Alias(2)]),
        5 => Call::Rename(key, Name(2 + random.below(2))),
        _ => Call::Associate(alias, key),
    }
}

/// What is in a store, and its table file.
fn filled() -> &'static (Names, Vec<u8>) {
    static FILLED: OnceLock<(Names, Vec<u8>)> = OnceLock::new();
    FILLED.get_or_init(|| {
        let filled = Arc::new(Mutex::new(None));
        let fill = filled.clone();
        let make = move || {
            let disk = Disk::default();
            let engine = EmbeddedEngine::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap();
            Options::new().begin(&engine).unwrap();
            let store = Options::new().on(Box::new(engine)).unwrap();
            let names = WORKLOAD.fill(&store);
            drop(store);
            let [table, _] = disk.bytes();
            *fill.lock().unwrap() = Some((names, table));
        };
        runner(RandomScheduler::new_from_seed(SEED, 1)).run(make);
        let filled = filled.lock().unwrap().take();
        filled.unwrap()
    })
}

/// The history before this time: what returned later has an unknown outcome.
fn until(history: &History, time: u64) -> History {
    let mut history = history.clone();
    history.retain(|operation| operation.began < time);
    for operation in &mut history {
        operation.returned.take_if(|returned| returned.at >= time);
    }
    history
}

/// All that is there when everybody is done, read from what is on the disk.
fn look(image: Image) -> Result<Answer> {
    let disk = Disk::of(image);
    let table = TableFile::on(disk.file(TABLE), &builder(1 << 20))?;
    let engine = EmbeddedEngine::on(table, Box::new(disk.file(LOG)), usize::MAX)?;
    let store = Options::new().on(Box::new(engine))?;
    answer(&store, &WORKLOAD.look())
}

/// Whether what was found at last goes with what everybody was told.
fn must_explain(mut history: History, found: Answer, when: &str) -> Result<(), String> {
    Recorder::append(&mut history, WORKLOAD.look(), found);
    check(&filled().0, &history).map_err(|violation| format!("{when}: {violation}"))
}

impl Scenario {
    /// The store that is filled, and an empty log.
    fn image(&self) -> Image {
        let disk = Disk::of([filled().1.clone(), Vec::new()]);
        RedoLog::create(&disk.file(LOG), [7; 16], self.segment_bytes).unwrap();
        disk.bytes()
    }

    fn open(&self, power: &Power, machine: &Machine) -> EmbeddedEngine {
        let slow = |number, steps_of_write| {
            let (storage, power, steps) = (power.disk.storage(number), power.clone(), AtomicUsize::new(0));
            OnStorage(Box::new(Slow { storage, power, steps, steps_of_write }))
        };
        if self.followers == 0 {
            let table = TableFile::on(slow(TABLE, 0), &builder(1 << 20)).unwrap();
            return EmbeddedEngine::on(table, Box::new(slow(LOG, 0)), self.checkpoint_bytes).unwrap();
        }
        let table = machine.handle(TABLE, slow(TABLE, 0));
        let table = TableFile::on(table, &Pages::believed(1 << 20).shared_builder()).unwrap();
        let [frames, marks] = [0, STEPS_OF_MARK].map(|steps| Box::new(machine.handle(LOG, slow(LOG, steps))));
        EmbeddedEngine::followed(table, frames, Some(marks), self.checkpoint_bytes).unwrap()
    }

    /// One execution of a follower.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen` also where a process on files would wait: here time does not pass.
    fn attach(power: &Power, machine: &Machine) -> Result<Store> {
        let disk = power.disk.clone();
        let file = move |number| disk.file(number);
        let files = SimulatedFiles { machine: machine.clone(), file, pages: Pages::believed(1 << 20) };
        let follower = Follower::open(files, Space::of_store().fixed(), Duration::ZERO)?;
        Options::new().on(Box::new(follower))
    }

    /// One execution.
    fn run(&self, image: Image, met: &Met) -> Result<(), String> {
        let mut random = Random::new(thread_rng().next_u64());
        let (disk, recorder) = (Disk::of(image), Arc::new(Recorder::default()));
        let power = Power { disk: disk.clone(), recorder: recorder.clone(), cuts: Arc::default() };
        let machine = Machine::default();
        let engine = Arc::new(self.open(&power, &machine));
        engine.sabotage(self.sabotage);
        let store = Options::new().on(Box::new(engine.clone())).unwrap();
        if self.disk_fails {
            disk.fail(Some(Fails {
                from: 1 + u64::from(random.below(40)),
                ever_after: random.below(2) == 0,
            }));
        }
        let failed = AtomicBool::new(false);
        let mut followers = Vec::new();
        for _ in 0..self.followers {
            let follower = Self::attach(&power, &machine).map_err(|error| format!("attaching: {error:?}"))?;
            followers.push(vec![follower]);
        }
        let complaints: Vec<_> = thread::scope(|scope| {
            let mut threads: Vec<_> = (0..self.threads)
                .map(|number| {
                    let (mut random, store, power, failed) = (random.split(), &store, &power, &failed);
                    scope.spawn(move || self.call(number, &mut random, store, power, failed))
                })
                .collect();
            for (number, attached) in followers.iter_mut().enumerate() {
                let (mut random, power, machine) = (random.split(), &power, &machine);
                let number = self.threads + number;
                threads.push(
                    scope.spawn(move || self.read_along(number, &mut random, attached, power, machine, met)),
                );
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        met.note(&engine, failed.load(SeqCst));
        drop(store);
        let closed = Arc::into_inner(engine).expect("the store is gone").close();
        complaints.into_iter().collect::<Result<Vec<()>, String>>()?;
        if closed.is_err() && !self.disk_fails {
            return Err(format!("closing: {closed:?}"));
        }
        for (number, attached) in followers.iter().enumerate() {
            for follower in attached {
                let looked = recorder.call(follower, self.threads + number, &WORKLOAD.look());
                looked.map_err(|error| format!("a follower after it was closed: {error:?}"))?;
            }
        }
        drop(followers);
        let history = recorder.history();
        let found = look(disk.bytes()).map_err(|error| format!("after it was closed: {error:?}"))?;
        must_explain(history.clone(), found, "after it was closed")?;
        let mut cuts = std::mem::take(&mut *power.cuts.lock().unwrap());
        for _ in 0..CUTS.min(cuts.len()) {
            let Cut { image, until: time } = cuts.swap_remove(random.index(cuts.len()));
            met.cuts.fetch_add(1, SeqCst);
            let when = format!("the power is cut at {time}");
            let found = look(image).map_err(|error| format!("{when}: {error:?}"))?;
            must_explain(until(&history, time), found, &when)?;
        }
        Ok(())
    }

    /// What one follower does: it reads, and attaches again now and then, as a process that is started again.
    fn read_along(
        &self,
        number: usize,
        random: &mut Random,
        attached: &mut Vec<Store>,
        power: &Power,
        machine: &Machine,
        met: &Met,
    ) -> Result<(), String> {
        for _ in 0..self.calls {
            if random.below(3) == 0 {
                match Self::attach(power, machine) {
                    // Those of before stay open: who closes the table waits for locks, and here nobody else goes on meanwhile.
                    Ok(follower) => attached.push(follower),
                    Err(Error::AlreadyOpen(_)) => drop(met.not_in_time.fetch_add(1, SeqCst)),
                    Err(error) => return Err(format!("attaching again: {error:?}")),
                }
            }
            let call = if random.below(2) == 0 { WORKLOAD.look() } else { Call::Resolve(Alias(0)) };
            for _ in 0..TRIES {
                let follower = attached.last().expect("one is attached before");
                match power.recorder.call(follower, number, &call) {
                    Err(Error::AlreadyOpen(_)) => {
                        met.not_in_time.fetch_add(1, SeqCst);
                        thread::yield_now();
                    }
                    Err(error) => return Err(format!("a follower, {call:?}: {error:?}")),
                    Ok(_) => {
                        met.follower_reads.fetch_add(1, SeqCst);
                        break;
                    }
                }
            }
            power.note();
        }
        Ok(())
    }

    /// What one thread does.
    fn call(
        &self,
        number: usize,
        random: &mut Random,
        store: &Store,
        power: &Power,
        failed: &AtomicBool,
    ) -> Result<(), String> {
        for _ in 0..self.calls {
            let (call, failed_before) = (call(random), failed.load(SeqCst));
            let answered = power.recorder.call(store, number, &call);
            power.note();
            match answered {
                Err(Error::Poisoned) if failed_before => {}
                Err(Error::Poisoned | Error::Io(_) | Error::CommitUnknown(_)) if self.disk_fails => {
                    failed.store(true, SeqCst);
                }
                Err(error) => return Err(format!("{call:?}: {error:?}")),
                Ok(answer) if failed_before && !call.is_read() => {
                    return Err(format!("{call:?} was answered {answer:?} after the disk had failed"));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

impl Met {
    fn note(&self, engine: &EmbeddedEngine, failed: bool) {
        let stats = engine.log_stats().unwrap();
        self.executions.fetch_add(1, SeqCst);
        self.commits.fetch_add(stats.commits, SeqCst);
        self.groups.fetch_add(stats.groups, SeqCst);
        self.waits_for_checkpoint.fetch_add(stats.waits_for_checkpoint, SeqCst);
        self.failures.fetch_add(u64::from(failed), SeqCst);
        self.checkpoints.fetch_add(stats.checkpoints, SeqCst);
    }

    fn all(&self) -> [u64; 6] {
        let Self { executions, commits, groups, waits_for_checkpoint, cuts, failures, .. } = self;
        [executions, commits, groups, waits_for_checkpoint, cuts, failures].map(|it| it.load(SeqCst))
    }
}

fn runner<S: Scheduler + 'static>(scheduler: S) -> Runner<S> {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    // It says that weaker orderings are run as the strongest: that is known.
    config.silence_warnings = true;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    Runner::new(scheduler, config)
}

/// Runs it with so many schedules that are drawn at random, and so many of PCT, which makes few threads wait
/// at few places, but for long.
fn explore(iterations: usize, run: impl Fn() + Send + Sync + Clone + 'static) {
    println!("{iterations} random schedules, seed {SEED}");
    runner(RandomScheduler::new_from_seed(SEED, iterations)).run(run.clone());
    println!("{iterations} schedules of PCT, depth {DEPTH}, seed {SEED}");
    runner(PctScheduler::new_from_seed(SEED, DEPTH, iterations)).run(run);
}

/// Every execution must be right. Returns what they came across.
fn must_hold(scenario: Scenario, iterations: usize) -> [u64; 6] {
    hold(scenario, iterations).all()
}

fn hold(scenario: Scenario, iterations: usize) -> Arc<Met> {
    let (image, met) = (scenario.image(), Arc::new(Met::default()));
    let of_run = met.clone();
    explore(iterations, move || {
        if let Err(complaint) = scenario.run(image.clone(), &of_run) {
            panic!("{complaint}");
        }
    });
    let all = met.all();
    println!("executions, commits, groups, waits for a checkpoint, power cuts, failures: {all:?}");
    met
}

/// How the first execution that is wrong ended.
fn complaint(scenario: Scenario, iterations: usize) -> Option<String> {
    let panic = catch_unwind(|| must_hold(scenario, iterations)).err()?;
    Some(panic.downcast_ref::<String>().expect("it is the message of a panic").clone())
}

#[test]
fn what_was_told_is_true_and_outlives_a_power_cut() {
    let [executions, commits, groups, _, cuts, _] = must_hold(GROUPS, 300);
    assert!(groups < commits, "no two commits shared a group");
    assert!(cuts > executions, "the power was never cut");
}

#[test]
fn a_log_that_is_full_loses_nothing_and_nobody() {
    let [_, _, _, waits_for_checkpoint, ..] = must_hold(FULL_LOG, 150);
    assert!(waits_for_checkpoint > 0, "nobody ever waited for a checkpoint");
}

#[test]
fn a_disk_that_fails_ends_all_writing_and_leaves_what_was_told() {
    let [executions, .., failures] = must_hold(FAILING_DISK, 200);
    assert!(failures > executions / 4 && failures < executions, "{failures} of {executions}");
}

/// What a follower is answered goes with what the writer's threads are: a commit that was acknowledged is there in each read
/// that begins after it. And what it was shown outlives a power cut.
#[test]
fn who_reads_along_sees_what_was_acknowledged_and_nothing_that_is_lost() {
    let met = hold(FOLLOWED, 200);
    let [executions, reads, not_in_time, checkpoints] =
        [&met.executions, &met.follower_reads, &met.not_in_time, &met.checkpoints].map(|it| it.load(SeqCst));
    println!("reads of followers, not in time, checkpoints: {reads}, {not_in_time}, {checkpoints}");
    assert!(reads > executions, "followers read {reads} times");
    assert!(checkpoints > executions / 4, "there were {checkpoints} checkpoints");
}

/// One waits for the next commit, one for ever, one commits, and one says that the store is to be closed.
#[test]
fn everybody_who_waits_is_woken() {
    let image = GROUPS.image();
    explore(300, move || {
        let (disk, recorder) = (Disk::of(image.clone()), Arc::new(Recorder::default()));
        let power = Power { disk, recorder, cuts: Arc::default() };
        let engine = Arc::new(GROUPS.open(&power, &Machine::default()));
        let store = Options::new().on(Box::new(engine.clone())).unwrap();
        let before = engine.begin_read().unwrap().commit();
        let wait = |after| engine.wait(after, Duration::MAX).unwrap();
        thread::scope(|scope| {
            let for_commit = scope.spawn(|| {
                let waited = wait(before);
                let newest = engine.begin_read().unwrap().commit();
                (waited, newest)
            });
            let for_ever = scope.spawn(|| wait(Commit::new(u64::MAX)));
            scope.spawn(|| answer(&store, &Call::Associate(Alias(0), Key(1))).unwrap());
            let closing = store.clone();
            scope.spawn(move || closing.close());
            let (waited, newest) = for_commit.join().unwrap();
            assert!(waited == Waited::Closed || newest > before, "{waited:?} at {newest} after {before}");
            assert_eq!(for_ever.join().unwrap(), Waited::Closed);
        });
        drop(store);
        Arc::into_inner(engine).expect("the store is gone").close().unwrap();
    });
}

#[test]
fn a_promise_that_is_broken_is_found_out() {
    for sabotage in [Sabotage::PublishBeforeSync, Sabotage::EndDoesNotWait, Sabotage::CommitDoesNotWait] {
        let found = complaint(Scenario { sabotage: Some(sabotage), ..GROUPS }, 3000);
        println!("{sabotage:?}: {found:?}");
        assert!(found.is_some(), "{sabotage:?} was not found out");
    }
    let late = Scenario { sabotage: Some(Sabotage::FailureIsNotedLate), ..FAILING_DISK };
    let found = complaint(late, 3000);
    println!("{found:?}");
    assert!(found.is_some(), "a failure that is noted late was not found out");
    let late = Scenario { sabotage: Some(Sabotage::MarkIsWrittenLate), ..FOLLOWED };
    let found = complaint(late, 300);
    println!("{found:?}");
    assert!(found.is_some(), "a mark that is written after the commit was acknowledged was not found out");
}

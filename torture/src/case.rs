//! One case: a store on a disk of its own, used, struck, opened again and looked at, several times over.

use std::io::ErrorKind;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use keystead::{BackgroundCheck, Error, Options, Store};

use crate::call::options;
use crate::disk::{Calls, Disk, Effect, Figures, Trouble};
use crate::follower::{Follower, Opening};
use crate::images::IMAGES_MAX;
use crate::oracle::{Found, Oracle};
use crate::random::Random;
use crate::session::{Met, Sabotage, Seen, Session, Told};

/// What is the same in all cases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Always with a write-ahead log, always without; or some cases so and some so, and some changing.
    pub(crate) logged: Option<bool>,
    pub(crate) threads: Option<usize>,
    /// How many followers there are of a store that always has its log; of half of these there are some otherwise.
    pub(crate) followers: Option<usize>,
    /// How many crash images are taken in a session, at most.
    pub(crate) images_max: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { logged: None, threads: None, followers: None, images_max: IMAGES_MAX, sabotage: None }
    }
}

/// What came of a case.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) disk: Figures,
    /// How often a store was opened after a crash, and compared.
    pub(crate) crash_points: u64,
    pub(crate) met: Met,
    pub(crate) violation: Option<String>,
}

pub(crate) struct Case {
    pub(crate) disk: Disk,
    pub(crate) random: Random,
    pub(crate) oracle: Oracle,
    options: Options,
    numbers: AtomicU64,
    pub(crate) met: Met,
    pub(crate) settings: Settings,
    logged: Logged,
    pub(crate) heavy: bool,
    /// How many followers there are to be beside the writer.
    pub(crate) followers_wanted: usize,
    /// Those that there are: a power cut ends them, the end of the writer does not.
    followers: Vec<Follower>,
    /// Whether anybody was told that there is a store.
    exists: bool,
    pub(crate) crash_points: u64,
    /// How many crashes there had been when the store was compared last.
    crashes_compared: u64,
}

#[derive(Debug, Clone, Copy)]
enum Logged {
    Always,
    Never,
    AtRandom,
}

const THREADS_MAX: u64 = 4;
const FOLLOWERS_MAX: usize = 2;
/// How long a follower waits for a writer: so that a case does not wait for long where a write of the mark has failed.
const LOCK_WAIT: Duration = Duration::from_millis(10);
const ROUNDS_MAX: u64 = 6;
const STEPS_MAX: u64 = 40;
/// How often the opening is struck, one time after the other.
const STRUCK_OPENINGS_MAX: u64 = 4;

/// Runs the case with this seed.
pub(crate) fn run(seed: u64, settings: Settings) -> Verdict {
    let mut random = Random::new(seed);
    let disk = Disk::new(random.fork(), settings.sabotage);
    let logged = match settings.logged {
        Some(true) => Logged::Always,
        Some(false) => Logged::Never,
        None => *random.pick(&[Logged::Always, Logged::Always, Logged::Never, Logged::AtRandom]),
    };
    // Only a store that always has its log is opened as one that is followed.
    let drawn = if random.one_in(2) { 1 + random.index(FOLLOWERS_MAX) } else { 0 };
    let followers_wanted = match logged {
        Logged::Always => settings.followers.unwrap_or(drawn),
        Logged::Never | Logged::AtRandom => 0,
    };
    let heavy = random.one_in(8);
    let checkpoints = if heavy { &[usize::MAX, 300_000][..] } else { &[1, 4_000, 30_000, 300_000] };
    // A check of pages is a thread of its own: with one thread a case is to do the same each time.
    let page_check = match settings.threads {
        Some(1) => BackgroundCheck::Never,
        _ => *random.pick(&[BackgroundCheck::AfterUncleanEnd, BackgroundCheck::AfterOpening]),
    };
    let options = options()
        .page_check(page_check)
        .wal_bytes(Options::WAL_BYTES_MIN)
        .checkpoint_bytes(*random.pick(checkpoints))
        .cache_bytes(*random.pick(&[0, 100_000, 10_000_000]))
        .record_cache_bytes(*random.pick(&[0, 1_000_000]));
    let (mut met, mut crash_points) = (Met::default(), 0);
    let violation = match Oracle::new() {
        Err(error) => Some(format!("there is no store in memory: {error:?}")),
        Ok(oracle) => {
            let mut case = Case {
                disk: disk.clone(),
                random,
                oracle,
                options,
                numbers: AtomicU64::new(0),
                met: Met::default(),
                settings,
                logged,
                heavy,
                followers_wanted,
                followers: Vec::new(),
                exists: false,
                crash_points: 0,
                crashes_compared: 0,
            };
            let ran = case.run();
            (met, crash_points) = (case.met, case.crash_points);
            ran.err()
        }
    };
    Verdict { disk: disk.figures(), crash_points, met, violation }
}

impl Case {
    fn run(&mut self) -> Found<()> {
        let rounds = 1 + self.random.below(ROUNDS_MAX);
        let mut told = Told::default();
        for _ in 0..rounds {
            self.struck_openings(&mut told)?;
            let store = self.open_and_settle(std::mem::take(&mut told))?;
            self.attach_followers()?;
            told = self.round(store)?;
        }
        self.struck_openings(&mut told)?;
        let store = self.open_and_settle(told)?;
        // It goes on working: a session on a disk that is well.
        self.attach_followers()?;
        self.take_images();
        let told = self.session(&store);
        self.met(&store, &told);
        drop(store);
        self.compare_images(&told)?;
        drop(self.open_and_settle(told)?);
        Ok(())
    }

    /// Uses a store until something strikes it, or not.
    fn round(&mut self, store: Store) -> Found<Told> {
        self.take_images();
        let strikes_at_work = !self.random.one_in(6);
        if strikes_at_work {
            self.strike(400);
        }
        let told = self.session(&store);
        self.met(&store, &told);
        if !strikes_at_work {
            self.strike(30);
        }
        drop(store);
        self.compare_images(&told)?;
        self.restart();
        Ok(told)
    }

    /// Ends the writer, or all processes by a power cut; the disk is well then.
    fn restart(&mut self) {
        let cut_power = !self.random.one_in(3);
        if self.disk.cuts_power(cut_power) {
            self.followers.clear();
        }
        self.disk.restart(cut_power);
    }

    pub(crate) fn opening(&self, disk: &Disk) -> Opening {
        let options = self.options.clone().lock_wait(LOCK_WAIT);
        Opening { disk: disk.clone(), options, sabotage: self.settings.sabotage }
    }

    /// Opens the followers that are missing, on a disk that is well.
    fn attach_followers(&mut self) -> Found<()> {
        let mut told = Told::default();
        for _ in self.followers.len()..self.followers_wanted {
            self.followers.extend(self.opening(&self.disk).open(&mut told));
        }
        self.met.add(&told.met);
        told.complaints.pop().map_or(Ok(()), Err)
    }

    /// Has followers read while there is no writer, those that are there and another one.
    fn follow_alone(&mut self, told: &mut Told) {
        let mut opening = Told::default();
        self.followers.extend(self.opening(&self.disk).open(&mut opening));
        self.met.add(&opening.met);
        told.complaints.extend(opening.complaints);
        let seen = Seen::up_to(told.newest.max(self.oracle.newest()));
        for follower in &mut self.followers {
            let times = 1 + self.random.below(3);
            let mut read = follower.read_along(&mut self.random, &seen, times);
            if told.trimmed.is_some() {
                // Steps of trimming are made at once when it is compared.
                read.claims.clear();
            }
            read.met.note("reads without a writer", times);
            self.met.add(&read.met);
            told.add(read);
        }
        self.followers.truncate(self.followers_wanted);
    }

    fn session(&mut self, store: &Store) -> Told {
        let threads = 1 + self.random.index(usize::try_from(THREADS_MAX).expect("there are few"));
        let session = Session {
            store,
            disk: &self.disk,
            numbers: &self.numbers,
            seen: Seen::up_to(self.oracle.newest()),
            sabotage: self.settings.sabotage,
            heavy: self.heavy,
        };
        let steps = 1 + self.random.below(STEPS_MAX);
        if self.random.one_in(8) {
            return session.trim(self.random.below(self.oracle.newest() + 1));
        }
        session.run(&mut self.random, self.settings.threads.unwrap_or(threads), steps, &mut self.followers)
    }

    fn met(&mut self, store: &Store, told: &Told) {
        self.met.add(&told.met);
        if let Some(log) = store.stats().log {
            self.met.note("checkpoints", log.checkpoints);
            self.met.note("waits for a checkpoint", log.waits_for_checkpoint);
            self.met.note("groups of commits", log.groups);
        }
    }

    /// Opens the store some times while that is struck; what it serves then is told.
    fn struck_openings(&mut self, told: &mut Told) -> Found<()> {
        let times = self.random.below(STRUCK_OPENINGS_MAX).saturating_sub(1);
        for _ in 0..times {
            self.strike(60);
            if self.followers_wanted > 0 && self.exists && self.random.one_in(2) {
                self.follow_alone(told);
                self.restart();
                continue;
            }
            match self.open(&self.disk.clone()) {
                Ok(store) => {
                    self.exists = true;
                    let session = Session {
                        store: &store,
                        disk: &self.disk,
                        numbers: &self.numbers,
                        seen: Seen::up_to(told.newest),
                        sabotage: self.settings.sabotage,
                        heavy: self.heavy,
                    };
                    let steps = self.random.below(6);
                    let served = session.run(&mut self.random, 1, steps, &mut self.followers);
                    self.met(&store, &served);
                    told.add(served);
                }
                Err(error) if self.may_be_half_made(&error) => self.disk.wipe_table(),
                Err(_) if self.disk.has_failed() => {}
                Err(error) => return Err(format!("it can't be opened: {error:?}")),
            }
            self.restart();
        }
        Ok(())
    }

    fn open_and_settle(&mut self, told: Told) -> Found<Store> {
        let disk = self.disk.clone();
        let mut opened = self.open(&disk);
        if opened.as_ref().is_err_and(|error| self.may_be_half_made(error)) {
            self.disk.wipe_table();
            opened = self.open(&disk);
        }
        let store = opened.map_err(|error| format!("the disk is well, and it can't be opened: {error:?}"))?;
        self.exists = true;
        self.oracle.settle(&store, told)?;
        let crashes = self.disk.figures().crashes;
        // Several of them, one upon the other, are compared once.
        self.crash_points += u64::from(crashes > self.crashes_compared);
        self.crashes_compared = crashes;
        Ok(store)
    }

    /// Whether it is what a crash left of a store that nobody was told of.
    fn may_be_half_made(&self, error: &Error) -> bool {
        !self.exists && matches!(error, Error::NotAStore(_))
    }

    pub(crate) fn open(&mut self, disk: &Disk) -> Result<Store, Error> {
        let logged = match self.logged {
            Logged::Always => true,
            Logged::Never => false,
            Logged::AtRandom => self.random.one_in(2),
        };
        let with_log = || self.options.open_on(disk.table(), Some(disk.log()));
        if self.followers_wanted > 0 {
            return disk.machine().open(&self.options, disk.files());
        }
        if logged {
            return with_log();
        }
        match self.options.open_on(disk.table(), None) {
            Err(Error::LogMismatch(_)) => {
                // It was not closed: opened with its log and closed, it needs that no more.
                drop(with_log()?);
                self.options.open_on(disk.table(), None)
            }
            opened => opened,
        }
    }

    /// Has something happen within so many calls: the end of the process or the power, calls that fail, or
    /// calls that fail and then the end.
    fn strike(&mut self, within: u64) {
        let random = &mut self.random;
        // Often early: what was recovered is then not on the disk for long.
        let within = within.min(*random.pick(&[12, 60, u64::MAX]));
        let what = random.below(10);
        if what < 6 {
            let effect = if random.one_in(4) { Effect::Kill } else { Effect::PowerCut };
            // Syncs are the moments at which something becomes a promise.
            let (of, within) = *random.pick(&[(Calls::All, within), (Calls::Syncs, within.div_ceil(6))]);
            let from = 1 + random.below(within);
            self.disk.expect(Trouble { of, from, count: 1, effect });
        }
        if what >= 4 {
            let (of, within, kind) = *random.pick(&[
                (Calls::All, within, ErrorKind::Other),
                (Calls::Reads, within.div_ceil(4), ErrorKind::UnexpectedEof),
                (Calls::Reads, within.div_ceil(4), ErrorKind::Other),
                (Calls::Writes, within.div_ceil(2), ErrorKind::StorageFull),
                (Calls::Writes, within.div_ceil(2), ErrorKind::Other),
                (Calls::Syncs, within.div_ceil(6), ErrorKind::Other),
                (Calls::Lengths, 4, ErrorKind::StorageFull),
            ]);
            let (from, count) = (1 + random.below(within), *random.pick(&[1, 1, 1, 4, u64::MAX]));
            self.disk.expect(Trouble { of, from, count, effect: Effect::Fail(kind) });
        }
    }
}

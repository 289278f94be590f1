//! A run: stores of each size are made once, then the engines take turns in each work, several rounds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::crash;
use crate::data::{Keys, Random};
use crate::disk::Disk;
use crate::engines::Engine;
use crate::peer::{Answer, Place};
use crate::samples::{Row, Samples, Series};
use crate::subject::{Contents, Subject};
use crate::works::{self, CALLERS, PAGE, Set};

/// The works that can be asked for.
pub const WORKS: [&str; 9] = [
    "floor_overwrite_sync",
    "associate",
    "associate_64",
    "resolve",
    "resolve_hot",
    "follower",
    "list_100",
    "import",
    "size",
];
/// Asked for like the others; runs last on the stores, because it kills them.
pub const OPEN_AFTER_KILL: &str = "open_after_kill";

/// The keys of the small scope.
const SMALL: usize = 1000;
/// Stores above this size are loaded less often, and have no more than so many moves for their size.
const LARGE: usize = 200_000;

/// How much is done.
pub struct Plan {
    pub sizes: Vec<usize>,
    pub works: Vec<String>,
    pub engines: Vec<Engine>,
    pub folder: PathBuf,
    pub rounds: usize,
    pub slice: Duration,
    pub quick: bool,
}

impl Plan {
    fn wants(&self, work: &str) -> bool {
        self.works.iter().any(|wanted| wanted == work)
    }

    /// The engines in this round: each begins once.
    fn order(&self, round: usize) -> impl Iterator<Item = usize> {
        let count = self.engines.len();
        (0..count).map(move |index| (index + round) % count)
    }
}

/// Runs everything.
pub fn run(plan: &Plan) -> Answer<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("stores-").tempdir_in(&plan.folder)?;
    let mut run = Run { plan, folder, samples: Samples::default(), began: Instant::now() };
    for size in &plan.sizes {
        run.size(*size)?;
    }
    Ok(run.samples.rows())
}

struct Run<'a> {
    plan: &'a Plan,
    folder: TempDir,
    samples: Samples,
    began: Instant,
}

impl Run<'_> {
    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn add(&mut self, work: &str, engine: &str, (threads, keys): (usize, usize), micros: &[f64]) {
        let series = Series { work: work.into(), engine: engine.into(), threads, keys };
        self.samples.add(series, "us", micros);
    }

    fn add_one(&mut self, work: &str, engine: &str, keys: usize, unit: &'static str, sample: f64) {
        let series = Series { work: work.into(), engine: engine.into(), threads: 1, keys };
        self.samples.add(series, unit, &[sample]);
    }

    fn size(&mut self, count: usize) -> Answer<()> {
        let (keys, small) = (Keys::new(count)?, Keys::new(SMALL)?);
        let (large_new, small_new) = (keys.new_keys()?, small.new_keys()?);
        let contents = Contents { large: &large_new, small: &small_new };
        let mut subjects = self.load(contents)?;
        drop(small_new);
        for round in 0..self.plan.rounds {
            self.say(&format!("{count} keys, round {} of {}", round + 1, self.plan.rounds));
            self.associates(&mut subjects, &keys, round)?;
            self.resolves(&mut subjects, &keys, round)?;
            self.follows(&mut subjects, &keys, round)?;
            self.lists(&mut subjects, (&keys, &small), round)?;
        }
        self.choose_grouping(count);
        self.kills(&mut subjects, &keys)?;
        drop(subjects);
        if self.plan.wants("size") {
            self.sizes(&keys, Contents { large: &large_new, small: &[] })?;
        }
        Ok(())
    }

    /// Makes the stores; their loads are the samples of `import`.
    fn load(&mut self, contents: Contents<'_>) -> Answer<Vec<Subject>> {
        let count = contents.large.len();
        let rounds = match count {
            _ if !self.plan.wants("import") => 1,
            large if large > LARGE => 2,
            _ => 3,
        };
        let mut subjects = Vec::new();
        for round in 0..rounds {
            for index in 0..self.plan.engines.len() {
                let engine = self.plan.engines[index];
                let (subject, took) = Subject::load(engine, self.folder.path(), contents, true)?;
                self.say(&format!("{count} keys loaded into {} in {took:.2?}", engine.name));
                if self.plan.wants("import") {
                    let rate = count as f64 / took.as_secs_f64();
                    self.add_one("import", engine.name, count, "keys_per_s", rate);
                }
                if round == 0 {
                    subjects.push(subject);
                }
            }
        }
        Ok(subjects)
    }

    fn associates(&mut self, subjects: &mut [Subject], keys: &Keys, round: usize) -> Answer<()> {
        let (slice, count) = (self.plan.slice, keys.count());
        if self.plan.wants("floor_overwrite_sync") {
            let mut disk = Disk::new(self.folder.path())?;
            self.add("floor_overwrite_sync", "disk", (1, count), &disk.overwrite(slice)?);
            self.add("floor_append_sync", "disk", (1, count), &disk.append(slice)?);
        }
        if self.plan.wants("associate") {
            for index in self.plan.order(round) {
                let subject = &mut subjects[index];
                let samples = works::associate(subject, keys, 2 * slice)?;
                self.add("associate", subject.engine.name, (1, count), &samples);
            }
        }
        if self.plan.wants("associate_64") {
            for index in self.plan.order(round) {
                self.associate_64(&mut subjects[index], keys)?;
            }
        }
        Ok(())
    }

    fn associate_64(&mut self, subject: &mut Subject, keys: &Keys) -> Answer<()> {
        let engine = subject.engine.name;
        let ways: &[(&str, bool)] = if subject.peer()?.can_group() {
            &[("associate_64_alone", false), ("associate_64_grouped", true)]
        } else {
            &[("associate_64", false)]
        };
        for (work, grouped) in ways {
            let (samples, rate) = works::associate_64(subject, keys, 2 * self.plan.slice, *grouped)?;
            self.add(work, engine, (CALLERS, keys.count()), &samples);
            let (work, threads) = (format!("{work}_rate"), CALLERS);
            let series = Series { work, engine: engine.into(), threads, keys: keys.count() };
            self.samples.add(series, "per_s", &[rate]);
        }
        Ok(())
    }

    /// `associate_64` of a peer is the better of its two ways.
    fn choose_grouping(&mut self, count: usize) {
        for engine in &self.plan.engines {
            let series = |work: &str| Series {
                work: work.into(),
                engine: engine.name.into(),
                threads: CALLERS,
                keys: count,
            };
            let rate = |way: &str| self.samples.median(&series(&format!("associate_64_{way}_rate")));
            let (Some(alone), Some(grouped)) = (rate("alone"), rate("grouped")) else { continue };
            let way = if grouped > alone { "grouped" } else { "alone" };
            let (latency, rate) = (format!("associate_64_{way}"), format!("associate_64_{way}_rate"));
            self.samples.copy(&series(&latency), "associate_64", "us");
            self.samples.copy(&series(&rate), "associate_64_rate", "per_s");
        }
    }

    fn resolves(&mut self, subjects: &mut [Subject], keys: &Keys, round: usize) -> Answer<()> {
        let mut sets = Vec::new();
        if self.plan.wants("resolve") {
            sets.push(("resolve", Set::All));
        }
        if self.plan.wants("resolve_hot") {
            let hot = [("resolve_hot_1k", 1000), ("resolve_hot_100k", 100_000)];
            let hot = hot.into_iter().filter(|(_, set)| 2 * set <= keys.count());
            sets.extend(hot.map(|(work, set)| (work, Set::Hot(set))));
        }
        for (work, set) in sets {
            for threads in [1, 2] {
                for index in self.plan.order(round) {
                    let subject = &mut subjects[index];
                    let samples = works::resolve(subject, keys, threads, set, self.plan.slice)?;
                    self.add(work, subject.engine.name, (threads, keys.count()), &samples);
                }
            }
        }
        Ok(())
    }

    /// Of who only reads, beside the writer; and what the one system call costs that each of these reads makes.
    fn follows(&mut self, subjects: &mut [Subject], keys: &Keys, round: usize) -> Answer<()> {
        if !self.plan.wants("follower") {
            return Ok(());
        }
        let (slice, count) = (self.plan.slice, keys.count());
        let disk = Disk::new(self.folder.path())?;
        self.add("floor_read_cached", "disk", (1, count), &disk.read_cached(slice)?);
        for index in self.plan.order(round) {
            let subject = &mut subjects[index];
            let engine = subject.engine.name;
            if let Some(samples) = works::resolve_follower(subject, keys, Set::Hot(1000), slice)? {
                self.add("resolve_follower", engine, (1, count), &samples);
            }
            if let Some(samples) = works::follower_first_read(subject, keys, slice)? {
                self.add("follower_first_read", engine, (1, count), &samples);
            }
        }
        Ok(())
    }

    fn lists(&mut self, subjects: &mut [Subject], (keys, small): (&Keys, &Keys), round: usize) -> Answer<()> {
        if !self.plan.wants("list_100") {
            return Ok(());
        }
        let places = [("list_100", Place::Large, keys), ("list_100_of_1k", Place::Small, small)];
        for (work, place, of_place) in places.into_iter().filter(|(_, _, keys)| keys.count() > 2 * PAGE) {
            for index in self.plan.order(round) {
                let subject = &mut subjects[index];
                let seed = subject.random.number();
                let samples = works::list(subject, place, of_place, seed, self.plan.slice)?;
                self.add(work, subject.engine.name, (1, keys.count()), &samples);
            }
        }
        Ok(())
    }

    fn kills(&mut self, subjects: &mut [Subject], keys: &Keys) -> Answer<()> {
        if !self.plan.wants(OPEN_AFTER_KILL) {
            return Ok(());
        }
        for round in 0..3 {
            self.say(&format!("{} keys, killing, round {} of 3", keys.count(), round + 1));
            for index in self.plan.order(round) {
                let subject = &mut subjects[index];
                let commits_for = if self.plan.quick { 300 } else { 1000 };
                let commits_for = Duration::from_millis(commits_for);
                let (followed, opened) =
                    crash::open_after_kill(subject, keys, commits_for, !self.plan.quick)?;
                self.add(OPEN_AFTER_KILL, subject.engine.name, (1, keys.count()), &[opened]);
                if let Some(followed) = followed {
                    self.add("follow_after_kill", subject.engine.name, (1, keys.count()), &[followed]);
                }
            }
        }
        let mut random = Random::new(1);
        subjects.iter().try_for_each(|subject| {
            // What was not acknowledged is not there in part: every page agrees with what is known.
            let slice = Duration::from_millis(20);
            works::list(subject, Place::Large, keys, random.number(), slice).map(drop)
        })
    }

    fn sizes(&mut self, keys: &Keys, contents: Contents<'_>) -> Answer<()> {
        let count = keys.count();
        let moves = if self.plan.quick { count } else { count.min(LARGE).max(count / 4) };
        for index in 0..self.plan.engines.len() {
            let engine = self.plan.engines[index];
            let (mut subject, _) = Subject::load(engine, self.folder.path(), contents, false)?;
            subject.close();
            let per_key = |subject: &Subject| Ok(subject.bytes()? as f64 / count as f64);
            let bytes: Answer<f64> = per_key(&subject);
            self.add_one("size_import", engine.name, count, "bytes_per_key", bytes?);
            subject.open()?;
            works::move_many(&mut subject, keys, moves)?;
            subject.close();
            let bytes: Answer<f64> = per_key(&subject);
            self.add_one("size_after_moves", engine.name, count, "bytes_per_key", bytes?);
            self.say(&format!("{count} keys, the size of {}", engine.name));
        }
        Ok(())
    }
}

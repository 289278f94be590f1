//! The works: each runs for a slice of time on one engine's store, checks every answer, and gives its samples,
//! in microseconds.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keystead::{Alias, KeyId};

use crate::data::{Keys, Planned, Random, Targets};
use crate::group::Group;
use crate::peer::{Answer, Outcome, Peer, Place, Session};
use crate::record::ENABLED;
use crate::subject::Subject;

/// How many callers `associate_64` has.
pub const CALLERS: usize = 64;
/// Aliases in a page.
pub const PAGE: usize = 100;
/// Look-ups that are timed together: the clock takes as long as a fast one.
const TOGETHER: usize = 64;
/// The pause of the background writer between two commits.
const PAUSE: Duration = Duration::from_millis(5);

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

/// The answer must be that it moved, from where it was.
fn check(planned: &Planned, outcome: Outcome, targets: &Targets) -> Answer<()> {
    match outcome {
        Ok(moved) if moved.changed && moved.former == planned.former => {
            targets.moved(planned.alias, planned.key);
            Ok(())
        }
        other => Err(format!("moving alias {} to key {}: {other:?}", planned.alias, planned.key).into()),
    }
}

/// One caller moves random aliases to random keys, each in a durable commit.
pub fn associate(subject: &mut Subject, keys: &Keys, slice: Duration) -> Answer<Vec<f64>> {
    let mut samples = Vec::new();
    let mut random = Random::new(subject.random.number());
    let targets = &subject.targets;
    subject.peer()?.session(&mut |session| {
        let end = Instant::now() + slice;
        while Instant::now() < end {
            let (alias, key) = (random.below(keys.count()), random.below(keys.count()));
            let planned = keys.plan(targets, alias, key, 1);
            let start = Instant::now();
            let outcome = session.associate(&planned.wanted)?;
            samples.push(micros(start.elapsed()));
            check(&planned, outcome, targets)?;
        }
        Ok(())
    })?;
    Ok(samples)
}

/// Threads that begin together and end at the same time.
struct Start {
    ready: AtomicUsize,
    end: OnceLock<Instant>,
}

impl Start {
    fn new() -> Self {
        Self { ready: AtomicUsize::new(0), end: OnceLock::new() }
    }

    /// Called by each thread; returns when all are there, with the end.
    fn wait(&self) -> Instant {
        self.ready.fetch_add(1, Ordering::AcqRel);
        loop {
            match self.end.get() {
                Some(end) => return *end,
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Waits for so many threads, but not for ever: one that failed never comes.
    fn go(&self, threads: usize, slice: Duration) -> Instant {
        let patience = Instant::now() + Duration::from_secs(30);
        while self.ready.load(Ordering::Acquire) < threads && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        self.end.get_or_init(|| start + slice);
        start
    }
}

/// One caller of many: aliases and targets of its own.
fn call(
    caller: usize,
    keys: &Keys,
    targets: &Targets,
    seed: u64,
    end: Instant,
    associate: &mut dyn FnMut(&Planned) -> Answer<Outcome>,
) -> Answer<Vec<f64>> {
    let mut random = Random::new(seed.wrapping_add(caller as u64));
    let own = keys.count() / CALLERS;
    let mut samples = Vec::new();
    while Instant::now() < end {
        let (alias, key) = (random.below(own), random.below(own));
        let planned = keys.plan(targets, caller + CALLERS * alias, caller + CALLERS * key, CALLERS);
        let start = Instant::now();
        let outcome = associate(&planned)?;
        samples.push(micros(start.elapsed()));
        check(&planned, outcome, targets)?;
    }
    Ok(samples)
}

/// 64 callers at once, each with aliases and targets of its own; and how many moves there were in a second.
pub fn associate_64(
    subject: &mut Subject,
    keys: &Keys,
    slice: Duration,
    grouped: bool,
) -> Answer<(Vec<f64>, f64)> {
    let seed = subject.random.number();
    let (peer, targets, start, group) = (subject.peer()?, &subject.targets, Start::new(), Group::default());
    thread::scope(|scope| {
        let writer = grouped.then(|| {
            let write = || peer.session(&mut |session| group.run(session, peer.group_max()));
            scope.spawn(write)
        });
        let callers = (0..CALLERS).map(|caller| {
            let (start, group) = (&start, &group);
            scope.spawn(move || {
                if grouped {
                    let end = start.wait();
                    return call(caller, keys, targets, seed, end, &mut |planned| {
                        group.associate(planned.wanted.clone())
                    });
                }
                let mut samples = Vec::new();
                peer.session(&mut |session| {
                    let end = start.wait();
                    let associate = &mut |planned: &Planned| session.associate(&planned.wanted);
                    samples = call(caller, keys, targets, seed, end, associate)?;
                    Ok(())
                })?;
                Ok(samples)
            })
        });
        let callers: Vec<_> = callers.collect();
        let begun = start.go(CALLERS, slice);
        let mut samples = Vec::new();
        let mut failed = None;
        for caller in callers {
            match caller.join().unwrap_or_else(|_| Err("a caller panicked".into())) {
                Ok(some) => samples.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        let took = begun.elapsed().as_secs_f64();
        group.close();
        if let Some(writer) = writer {
            writer.join().unwrap_or_else(|_| Err("the writer panicked".into()))?;
        }
        let rate = samples.len() as f64 / took;
        failed.map_or(Ok((samples, rate)), Err)
    })
}

/// Which aliases are looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Any.
    All,
    /// So many, spread over all.
    Hot(usize),
}

impl Set {
    fn count(self, keys: &Keys) -> usize {
        match self {
            Self::All => keys.count(),
            Self::Hot(count) => count.min(keys.count()),
        }
    }

    fn alias(self, keys: &Keys, index: usize) -> usize {
        index * (keys.count() / self.count(keys))
    }
}

/// Threads resolve random aliases, while one more commits moves at a fixed pace.
pub fn resolve(
    subject: &mut Subject,
    keys: &Keys,
    threads: usize,
    set: Set,
    slice: Duration,
) -> Answer<Vec<f64>> {
    let seed = subject.random.number();
    // As in a service that has run for a while, each name was asked for before.
    if set == Set::All && !std::mem::replace(&mut subject.used, true) {
        subject.peer()?.session(&mut |session| use_all(session, keys, set))?;
    }
    let writer = subject.peer()?;
    resolve_by(subject, (writer, writer), keys, (threads, set), (seed, slice))
}

/// The same of hot names, by somebody who follows the store; `None` where that is not measured.
pub fn resolve_follower(
    subject: &mut Subject,
    keys: &Keys,
    set: Set,
    slice: Duration,
) -> Answer<Option<Vec<f64>>> {
    let seed = subject.random.number();
    let writer = subject.peer()?;
    let Some(follow) = subject.engine.follow else { return Ok(None) };
    let follower = follow(subject.folder.path(), subject.settings)?;
    resolve_by(subject, (writer, &*follower), keys, (1, set), (seed, slice)).map(Some)
}

/// What the first read of a follower takes after each of some moves was acknowledged; it must see the move.
pub fn follower_first_read(subject: &mut Subject, keys: &Keys, slice: Duration) -> Answer<Option<Vec<f64>>> {
    let mut random = Random::new(subject.random.number());
    let (writer, targets) = (subject.peer()?, &subject.targets);
    let Some(follow) = subject.engine.follow else { return Ok(None) };
    let follower = follow(subject.folder.path(), subject.settings)?;
    let mut samples = Vec::new();
    writer.session(&mut |writing| {
        follower.session(&mut |following| {
            let end = Instant::now() + slice;
            while Instant::now() < end {
                let (alias, key) = (random.below(keys.count()), random.below(keys.count()));
                let planned = keys.plan(targets, alias, key, 1);
                let outcome = writing.associate(&planned.wanted)?;
                let start = Instant::now();
                let found = following.resolve(Place::Large, &keys.aliases[alias])?;
                samples.push(micros(start.elapsed()));
                check(&planned, outcome, targets)?;
                if found.is_none_or(|found| found.key_id() != keys.ids[planned.key]) {
                    return Err("a follower does not see an acknowledged move".into());
                }
            }
            Ok(())
        })
    })?;
    Ok(Some(samples))
}

fn resolve_by(
    subject: &Subject,
    (writer, peer): (&dyn Peer, &dyn Peer),
    keys: &Keys,
    (threads, set): (usize, Set),
    (seed, slice): (u64, Duration),
) -> Answer<Vec<f64>> {
    let (targets, start, stop) = (&subject.targets, Start::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        let writer =
            scope.spawn(|| writer.session(&mut |session| disturb(session, keys, targets, seed, &stop)));
        let readers = (0..threads).map(|reader| {
            let start = &start;
            scope.spawn(move || {
                let mut samples = Vec::new();
                peer.session(&mut |session| {
                    let mut random = Random::new(seed.wrapping_add(1 + reader as u64));
                    if set != Set::All {
                        use_all(session, keys, set)?;
                    }
                    let end = start.wait();
                    while Instant::now() < end {
                        samples.push(look_up(session, keys, targets, set, &mut random)?);
                    }
                    Ok(())
                })?;
                Ok(samples)
            })
        });
        let readers: Vec<_> = readers.collect();
        start.go(threads, slice);
        let samples = readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())))
            .collect::<Answer<Vec<_>>>();
        stop.store(true, Ordering::Release);
        writer.join().unwrap_or_else(|_| Err("the writer panicked".into()))?;
        Ok(samples?.concat())
    })
}

/// Durable moves of random aliases, some 200 in a second.
fn disturb(
    session: &mut dyn Session,
    keys: &Keys,
    targets: &Targets,
    seed: u64,
    stop: &AtomicBool,
) -> Answer<()> {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Acquire) {
        let (alias, key) = (random.below(keys.count()), random.below(keys.count()));
        let planned = keys.plan(targets, alias, key, 1);
        let outcome = session.associate(&planned.wanted)?;
        check(&planned, outcome, targets)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn use_all(session: &mut dyn Session, keys: &Keys, set: Set) -> Answer<()> {
    for index in 0..set.count(keys) {
        session.resolve(Place::Large, &keys.aliases[set.alias(keys, index)])?;
    }
    Ok(())
}

/// Some look-ups, timed together: what one took.
fn look_up(
    session: &mut dyn Session,
    keys: &Keys,
    targets: &Targets,
    set: Set,
    random: &mut Random,
) -> Answer<f64> {
    let count = set.count(keys);
    let wanted: [(usize, Alias, KeyId); TOGETHER] = std::array::from_fn(|_| {
        let alias = set.alias(keys, random.below(count));
        (alias, keys.aliases[alias].clone(), keys.ids[targets.of(alias)])
    });
    let mut other = Vec::new();
    let start = Instant::now();
    for (alias, name, expected) in &wanted {
        let key = session.resolve(Place::Large, name)?.ok_or("an alias is missing")?;
        if (key.key_id(), key.state()) != (*expected, ENABLED) {
            other.push(*alias);
        }
    }
    let took = micros(start.elapsed()) / TOGETHER as f64;
    other.into_iter().try_for_each(|alias| must_agree(session, keys, targets, alias))?;
    Ok(took)
}

/// An alias that was moved meanwhile must soon be where the writer says.
fn must_agree(session: &mut dyn Session, keys: &Keys, targets: &Targets, alias: usize) -> Answer<()> {
    let patience = Instant::now() + Duration::from_secs(2);
    loop {
        let key = session.resolve(Place::Large, &keys.aliases[alias])?.ok_or("an alias is missing")?;
        if (key.key_id(), key.state()) == (keys.ids[targets.of(alias)], ENABLED) {
            return Ok(());
        }
        if Instant::now() > patience {
            return Err(format!("alias {alias} names another key than the one it was moved to").into());
        }
    }
}

/// A page of 100 aliases from a random place on.
pub fn list(subject: &Subject, place: Place, keys: &Keys, seed: u64, slice: Duration) -> Answer<Vec<f64>> {
    let mut samples = Vec::new();
    let mut random = Random::new(seed);
    subject.peer()?.session(&mut |session| {
        let end = Instant::now() + slice;
        while Instant::now() < end {
            let first = random.below(keys.count() - PAGE - 1) + 1;
            let (mut count, mut right) = (0, true);
            let start = Instant::now();
            session.list(place, &keys.aliases[first - 1], PAGE, &mut |name, key_id| {
                let index = first + count;
                let key = if place == Place::Large { subject.targets.of(index) } else { index };
                right &= name == keys.aliases[index].as_str() && key_id == keys.ids[key];
                count += 1;
            })?;
            samples.push(micros(start.elapsed()));
            if count != PAGE || !right {
                return Err(format!("the page behind alias {} is another", first - 1).into());
            }
        }
        Ok(())
    })?;
    Ok(samples)
}

/// So many moves of random aliases to random keys, many in a commit.
pub fn move_many(subject: &mut Subject, keys: &Keys, moves: usize) -> Answer<()> {
    let mut random = Random::new(subject.random.number());
    let (peer, targets) = (subject.peer()?, &subject.targets);
    let group = peer.group_max().min(keys.count() / 4);
    peer.session(&mut |session| {
        let mut left = moves;
        while left > 0 {
            // An alias is moved once in a commit.
            let count = left.min(group);
            let mut aliases = BTreeSet::new();
            while aliases.len() < count {
                aliases.insert(random.below(keys.count()));
            }
            let planned =
                aliases.into_iter().map(|alias| keys.plan(targets, alias, random.below(keys.count()), 1));
            let planned: Vec<_> = planned.collect();
            let wanted: Vec<_> = planned.iter().map(|planned| planned.wanted.clone()).collect();
            let outcomes = session.associate_group(&wanted)?;
            planned
                .iter()
                .zip(outcomes)
                .try_for_each(|(planned, outcome)| check(planned, outcome, targets))?;
            left -= count;
        }
        Ok(())
    })
}

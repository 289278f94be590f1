//! A follower: another simulated process, which reads the store beside its writer, or without one. All that it shows counts
//! as reported: it must be true, and be there after each crash that comes later.

use std::sync::atomic::Ordering;
use std::thread;

use keystead::simulation::Machine;
use keystead::{Error, Limit, Options, Store};

use crate::call::{Query, scope};
use crate::disk::Disk;
use crate::names;
use crate::random::Random;
use crate::session::{Claim, Fact, Sabotage, Seen, Told};

/// A store that is open to be read only.
pub(crate) struct Follower {
    store: Store,
    opening: Opening,
    /// The newest commit that it has shown, also before it was opened again.
    shown: u64,
    /// What it was asked last: of which scope, at which commit, and its answer.
    last: Option<(usize, Query, u64, String)>,
    /// How many calls of followers had failed when it was asked the last time.
    since: u64,
}

/// How followers of a store are opened.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) disk: Disk,
    pub(crate) options: Options,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Opening {
    /// `None` if that was not possible in time, or a call of the disk failed.
    pub(crate) fn open(&self, told: &mut Told) -> Option<Follower> {
        self.open_since(self.disk.failures_of_followers(), told)
    }

    fn open_since(&self, since: u64, told: &mut Told) -> Option<Follower> {
        let now = self.disk.failures_of_followers();
        let machine = match self.sabotage {
            // One on which nobody has locked anything.
            Some(Sabotage::BlindFollower) => Machine::default(),
            _ => self.disk.machine(),
        };
        match machine.follow(&self.options, self.disk.files_to_follow()) {
            Ok(store) => {
                told.met.note("followers", 1);
                Some(Follower { store, opening: self.clone(), shown: 0, last: None, since: now })
            }
            Err(error) => {
                self.failed(told, "no follower can be opened", &error, since);
                None
            }
        }
    }

    /// Why a follower may fail: one of its own calls of the disk did, in this call or since the one before it began, or a
    /// writer was busy for too long.
    fn failed(&self, told: &mut Told, what: &str, error: &Error, since: u64) {
        let has_failed = self.disk.failures_of_followers() > since;
        match error {
            Error::AlreadyOpen(_) => told.met.note("reads of followers not in time", 1),
            // A read that ends too early may be one of a file that is too short.
            // And redb reads no more of a file after a failure, until the next read of the follower opens it again.
            Error::Io(_) | Error::Corrupted(_) | Error::Poisoned if has_failed => {
                told.met.note("failed reads of followers", 1);
            }
            _ => told.complaints.push(format!("{what}: {error:?}")),
        }
    }
}

impl Follower {
    /// Reads something: never less than was acknowledged, or shown by another process, before.
    fn read(&mut self, random: &mut Random, seen: &Seen, told: &mut Told) {
        match random.below(12) {
            0 => self.open_again(told),
            1 => self.read_feed(random, seen, told),
            _ => self.ask(random, seen, told),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Reads so many times.
    pub(crate) fn read_along(&mut self, random: &mut Random, seen: &Seen, times: u64) -> Told {
        let mut told = Told::default();
        for _ in 0..times {
            self.read(random, seen, &mut told);
            thread::yield_now();
        }
        told
    }

    /// As a process that is started again.
    fn open_again(&mut self, told: &mut Told) {
        let since = self.since();
        if let Some(opened) = self.opening.open_since(since, told) {
            *self = Self { shown: self.shown, ..opened };
        }
    }

    /// How many calls of followers had failed when the call before this one began.
    fn since(&mut self) -> u64 {
        std::mem::replace(&mut self.since, self.opening.disk.failures_of_followers())
    }

    fn ask(&mut self, random: &mut Random, seen: &Seen, told: &mut Told) {
        let (mut number, mut query) = (random.index(crate::call::SCOPES), names::query_of_follower(random));
        let is_stale = self.opening.sabotage == Some(Sabotage::StaleFollower) && random.one_in(2);
        let stale = self.last.take().filter(|_| is_stale);
        if let Some((asked_of, asked, ..)) = &stale {
            (number, query) = (*asked_of, asked.clone());
        }
        let since = self.since();
        let least = seen.newest();
        let asked = self.store.read(&scope(number), |snap| Ok((snap.commit().number(), query.ask(snap)?)));
        match asked {
            Ok((commit, answer)) => {
                let answer = stale.map_or(answer, |(_, _, _, answer)| answer);
                told.met.note("reads of followers", 1);
                self.show(commit, least, seen, told);
                self.last = Some((number, query.clone(), commit, answer.clone()));
                let fact = Fact::Query(number, query, answer);
                told.claims.push(Claim { from: commit, to: commit, fact });
            }
            Err(error) => self.opening.failed(told, &format!("a follower, {query:?}"), &error, since),
        }
    }

    fn read_feed(&mut self, random: &mut Random, seen: &Seen, told: &mut Told) {
        let since = self.since();
        let least = seen.newest();
        let after = keystead::Commit::new(least.saturating_sub(random.below(20)));
        let limit = Limit::new(10).expect("10 is a limit");
        match self.store.changes(Some(&self.store.position_after(after)), limit) {
            Ok(changes) => {
                told.met.note("entries of the feed of followers", changes.commits.len() as u64);
                let last = changes.commits.last().map(|record| record.info.commit.number());
                // A page may end before what is the newest.
                self.show(last.unwrap_or_default(), 0, seen, told);
                told.feed.extend(changes.commits);
            }
            Err(Error::HistoryTrimmed { .. }) => {}
            Err(error) => self.opening.failed(told, "the feed of a follower", &error, since),
        }
    }

    /// Notes that it showed a commit, in a read that began when `least` was known to be there.
    fn show(&mut self, commit: u64, least: u64, seen: &Seen, told: &mut Told) {
        if commit < least {
            told.complaints.push(format!("a follower shows {commit}, and {least} was reported before"));
        }
        if least > 0 && commit < self.shown {
            told.complaints.push(format!("a follower shows {commit}, and has shown {}", self.shown));
        }
        self.shown = self.shown.max(commit);
        seen.by_followers.fetch_max(commit, Ordering::SeqCst);
        told.hear(commit, &self.opening.disk);
    }
}

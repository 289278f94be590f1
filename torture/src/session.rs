//! Threads that use a store until it is enough, or the disk fails them; and what they were told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use keystead::{CommitRecord, Error, Limit, Store};

use crate::call::{Call, Done, Query, is_refusal, kind, scope};
use crate::disk::Disk;
use crate::follower::Follower;
use crate::names;
use crate::random::Random;

/// A lie of the harness, to see that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sabotage {
    /// The disk acknowledges syncs that it does not carry out.
    LyingSync,
    /// After a sync that failed, what was not written is still read as if it had been, and forgotten.
    PhantomPages,
    /// After a sync that failed, the system has dropped also what the writer said to followers since the sync before.
    DroppedMarks,
    /// A read is answered as it was before.
    StaleRead,
    /// A commit whose outcome is not known counts as acknowledged.
    EarlyAcknowledgement,
    /// A commit that was made counts as one that failed cleanly.
    HiddenCommit,
    /// A follower is answered as it was before.
    StaleFollower,
    /// The disk acknowledges the syncs of followers, and carries out none.
    UnsyncedFollower,
    /// Followers see no lock of the writer. So they take what lies behind its mark, which they don't sync either, and pages
    /// that it overwrites.
    BlindFollower,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It made a commit; its number, if it is known, and the answer.
    Made(Option<(u64, String)>),
    /// It made none, for sure.
    Nothing,
    /// It may have.
    Unknown,
}

/// Something that must be true in one of the states between two commits, both included.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) fact: Fact,
}

#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// A call comes to this: an answer that needs no commit, or a refusal.
    Call(Call, Result<String, String>),
    /// A call comes to the answer that another had, stored in this commit.
    Replay(Call, String, u64),
    /// A query has this answer.
    Query(usize, Query, String),
}

/// A call that was made, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
    /// How many calls of the disk there were when that was known.
    pub(crate) known_at: u64,
}

/// What threads were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) calls: Vec<Made>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) feed: Vec<CommitRecord>,
    /// The newest commit that anybody heard of.
    pub(crate) newest: u64,
    /// How many calls of the disk there were when a commit was heard of: of each that is newer than those before.
    pub(crate) heard: Vec<(u64, u64)>,
    /// If the history was trimmed, alone: up to where for sure, and how many calls of the disk there were then.
    pub(crate) trimmed: Option<(u64, u64)>,
    pub(crate) met: Met,
    pub(crate) complaints: Vec<String>,
}

impl Told {
    pub(crate) fn add(&mut self, other: Self) {
        self.calls.extend(other.calls);
        self.claims.extend(other.claims);
        self.feed.extend(other.feed);
        self.newest = self.newest.max(other.newest);
        self.heard.extend(other.heard);
        self.trimmed = self.trimmed.max(other.trimmed);
        self.met.add(&other.met);
        self.complaints.extend(other.complaints);
    }

    fn meet(&mut self, call: &Call, done: &Done) {
        if done.replayed {
            self.met.note("replayed", 1);
        } else if done.made_commit {
            self.met.note(Met::COMMITS, 1);
            self.met.note(call.what.name(), 1);
        } else {
            self.met.note("unchanged", 1);
        }
    }

    pub(crate) fn hear(&mut self, commit: u64, disk: &Disk) {
        if commit > self.newest {
            self.newest = commit;
            self.heard.push((disk.calls(), commit));
        }
    }

    /// The newest commit that was heard of before a call of the disk.
    pub(crate) fn newest_before(&self, call: u64) -> u64 {
        let before = self.heard.iter().filter(|(calls, _)| *calls < call);
        before.map(|(_, commit)| *commit).max().unwrap_or_default()
    }
}

/// How often something happened, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Met(BTreeMap<&'static str, u64>);

impl Met {
    /// Commits that were acknowledged.
    pub(crate) const COMMITS: &str = "commits";

    pub(crate) fn note(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, times)| self.note(name, *times));
    }

    pub(crate) fn times(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(name, times)| format!("{name} {times}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// The newest commits that somebody has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Acknowledged to a thread of the writer.
    pub(crate) acknowledged: AtomicU64,
    /// Shown by a follower.
    pub(crate) by_followers: AtomicU64,
}

impl Seen {
    /// All up to this commit was acknowledged.
    pub(crate) fn up_to(commit: u64) -> Self {
        Self { acknowledged: AtomicU64::new(commit), ..Self::default() }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub(crate) fn newest(&self) -> u64 {
        self.acknowledged().max(self.by_followers.load(Ordering::SeqCst))
    }
}

/// What all threads of a case have in common.
pub(crate) struct Session<'a> {
    pub(crate) store: &'a Store,
    pub(crate) disk: &'a Disk,
    /// Numbers for calls.
    pub(crate) numbers: &'a AtomicU64,
    pub(crate) seen: Seen,
    pub(crate) sabotage: Option<Sabotage>,
    /// Whether there are many large commits.
    pub(crate) heavy: bool,
}

/// How often a thread tries before it leaves a store that fails.
const FAILURES_MAX: u32 = 4;

impl Session<'_> {
    /// Runs so many threads, each so many steps; and beside them followers, each of which reads at most as often.
    pub(crate) fn run(
        &self,
        random: &mut Random,
        threads: usize,
        steps: u64,
        followers: &mut [Follower],
    ) -> Told {
        let mut told = Told::default();
        let mut seeds: Vec<Random> = (0..threads).map(|_| random.fork()).collect();
        if followers.is_empty()
            && let [random] = &mut seeds[..]
        {
            told.add(self.work(random, steps));
            return told;
        }
        self.disk.share(true);
        thread::scope(|scope| {
            let mut workers: Vec<_> =
                seeds.iter_mut().map(|random| scope.spawn(|| self.work(random, steps))).collect();
            for follower in followers {
                let (mut random, seen) = (random.fork(), &self.seen);
                workers.push(scope.spawn(move || follower.read_along(&mut random, seen, steps)));
            }
            for worker in workers {
                match worker.join() {
                    Ok(of_thread) => told.add(of_thread),
                    Err(_) => told.complaints.push("a thread panicked".to_owned()),
                }
            }
        });
        self.disk.share(false);
        told
    }

    /// Trims the history, while nobody else writes.
    pub(crate) fn trim(&self, to: u64) -> Told {
        let mut told = Told::default();
        let trimmed = self.store.trim_history(keystead::Commit::new(to));
        told.met.note("trims", 1);
        let floor = match trimmed {
            Ok(floor) => floor.number(),
            Err(error) => {
                self.failed(&mut told, "trimming", &error);
                0
            }
        };
        told.trimmed = Some((floor, self.disk.calls()));
        if let Ok(newest) = self.position() {
            told.hear(newest, self.disk);
        }
        told
    }

    fn work(&self, random: &mut Random, steps: u64) -> Told {
        let mut told = Told::default();
        let mut old = None;
        let mut failures = 0;
        for _ in 0..steps {
            let went_well = match random.below(10) {
                0..=1 => self.ask(random, &mut told, &mut old),
                2 if random.one_in(3) => self.follow(random, &mut told),
                _ => self.call(random, &mut told),
            };
            failures += u32::from(!went_well);
            if failures >= FAILURES_MAX {
                break;
            }
        }
        told
    }

    /// A failure of the store: only that of the disk explains it.
    fn failed(&self, told: &mut Told, what: &str, error: &Error) -> bool {
        if !self.disk.has_failed() {
            told.complaints.push(format!("{what}: {error:?}, but no call of the disk has failed"));
        }
        false
    }

    fn ask(&self, random: &mut Random, told: &mut Told, old: &mut Option<(usize, Query, String)>) -> bool {
        let (number, mut query) = (random.index(crate::call::SCOPES), names::query(random));
        let (acknowledged, newest) = (self.seen.acknowledged(), self.seen.newest());
        let stale = self.sabotage == Some(Sabotage::StaleRead) && random.one_in(2);
        let stale = old.take().filter(|_| stale);
        let number = stale.as_ref().map_or(number, |(number, ..)| *number);
        if let Some((_, asked, _)) = &stale {
            query = asked.clone();
        }
        let asked = self.store.read(&scope(number), |snap| Ok((snap.commit().number(), query.ask(snap)?)));
        match asked {
            Ok((commit, answer)) => {
                // After a failure followers may have found what the process that failed can't tell that it is there.
                let least = if self.disk.has_failed() { acknowledged } else { newest };
                if commit < least {
                    let complaint =
                        format!("a read of {commit} began when {least} was acknowledged or shown");
                    told.complaints.push(complaint);
                }
                told.hear(commit, self.disk);
                told.met.note("reads", 1);
                let answer = stale.map_or(answer, |(_, _, answer)| answer);
                *old = Some((number, query.clone(), answer.clone()));
                told.claims.push(Claim {
                    from: commit,
                    to: commit,
                    fact: Fact::Query(number, query, answer),
                });
                true
            }
            Err(error) => self.failed(told, &format!("{query:?}"), &error),
        }
    }

    /// Reads some of the feed.
    fn follow(&self, random: &mut Random, told: &mut Told) -> bool {
        let from = self.seen.acknowledged().saturating_sub(random.below(20));
        let position = self.store.position_after(keystead::Commit::new(from));
        let limit = Limit::new(10).expect("10 is a limit");
        match self.store.changes(Some(&position), limit) {
            Ok(changes) => {
                told.hear(changes.position.commit().number(), self.disk);
                told.met.note("entries of the feed", changes.commits.len() as u64);
                told.feed.extend(changes.commits);
                true
            }
            // What is older was trimmed, or nothing was written yet.
            Err(Error::HistoryTrimmed { .. } | Error::CommitNotFound(_)) => true,
            Err(error) => self.failed(told, "the feed", &error),
        }
    }

    fn position(&self) -> Result<u64, Error> {
        self.store.position().map(|position| position.commit().number())
    }

    fn call(&self, random: &mut Random, told: &mut Told) -> bool {
        let call = names::call(random, self.numbers.fetch_add(1, Ordering::SeqCst), self.heavy);
        let made = self.position().map(|from| (from, call.make(self.store)));
        let (from, made) = match made {
            Ok(made) => made,
            Err(error) => return self.failed(told, "the position", &error),
        };
        told.hear(from, self.disk);
        let outcome = match made {
            Ok(done) => {
                told.hear(done.commit, self.disk);
                self.seen.acknowledged.fetch_max(done.commit, Ordering::SeqCst);
                told.meet(&call, &done);
                if done.made_commit && self.sabotage == Some(Sabotage::HiddenCommit) && random.one_in(30) {
                    Outcome::Nothing
                } else if done.made_commit {
                    Outcome::Made(Some((done.commit, done.answer)))
                } else {
                    let fact = if done.replayed {
                        Fact::Replay(call.clone(), done.answer, done.commit)
                    } else {
                        Fact::Call(call.clone(), Ok(done.answer))
                    };
                    self.claim(told, from, fact);
                    Outcome::Nothing
                }
            }
            Err(error) if is_refusal(&error) => {
                let too_large = matches!(error, Error::TransactionTooLarge { .. });
                told.met.note(if too_large { "too large" } else { "refused" }, 1);
                self.claim(told, from, Fact::Call(call.clone(), Err(kind(&error))));
                Outcome::Nothing
            }
            Err(error) => {
                let unknown = matches!(error, Error::CommitUnknown(_));
                told.met.note(if unknown { "unknown" } else { "failed" }, 1);
                self.failed(told, &format!("{call:?}"), &error);
                let outcome = self.outcome_of(&error);
                self.made(told, call, outcome);
                return false;
            }
        };
        self.made(told, call, outcome);
        true
    }

    fn made(&self, told: &mut Told, call: Call, outcome: Outcome) {
        told.calls.push(Made { call, outcome, known_at: self.disk.calls() });
    }

    fn outcome_of(&self, error: &Error) -> Outcome {
        match (error, self.sabotage) {
            (Error::CommitUnknown(_), Some(Sabotage::EarlyAcknowledgement)) => Outcome::Made(None),
            (Error::CommitUnknown(_), _) => Outcome::Unknown,
            _ => Outcome::Nothing,
        }
    }

    /// Something that was told without a commit: it was true between the newest commit when the call began,
    /// and that when it had returned.
    fn claim(&self, told: &mut Told, from: u64, fact: Fact) {
        if let Ok(to) = self.position() {
            told.hear(to, self.disk);
            told.claims.push(Claim { from, to, fact });
        }
    }
}

//! What a store must hold: the same commits, made one after the other of a store in memory that never fails,
//! and everything that anybody was told must be true of it.
//!
//! That such a store does what the specification says, the model test shows (`tests/model.rs`). Here it says
//! what each commit must have done, record for record; what each query had to find at its commit; and why each
//! refusal was one.

use std::collections::BTreeMap;

use keystead::{Commit, CommitRecord, Limit, Result, Store};

use crate::call::{Call, Query, SCOPES, options, scope};
use crate::session::{Claim, Fact, Made, Outcome, Told};

pub(crate) struct Oracle {
    reference: Store,
    /// The newest commit of the store, as far as it was looked at: there it stays.
    newest: u64,
    /// What the reference was made by.
    journal: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Call(Call),
    Trim(Commit),
}

/// A violation, in words; or that the store failed.
pub(crate) type Found<T> = std::result::Result<T, String>;

/// What a store holds that was opened after a crash, whose calls have an end with it.
pub(crate) struct Held {
    /// What had been told when it crashed: before this call of the disk.
    pub(crate) call: u64,
    pub(crate) newest: u64,
    floor: Commit,
    /// The commits of the session.
    pub(crate) feed: BTreeMap<u64, CommitRecord>,
    /// Each scope, as text.
    pub(crate) scopes: Vec<String>,
    /// The commits at which outcomes were stored, of calls whose end was not known.
    outcomes: BTreeMap<u64, Call>,
}

/// What a follower showed of what a crash left.
pub(crate) struct Shown {
    pub(crate) newest: u64,
    scopes: Vec<String>,
}

impl Shown {
    /// Whether a writer that opens the store later finds the same, if it finds no more.
    pub(crate) fn must_be(&self, held: &Held) -> Found<()> {
        if held.newest < self.newest {
            return Err(format!(
                "a follower showed {}, and {} is the newest that is left",
                self.newest, held.newest
            ));
        }
        if held.newest == self.newest && held.scopes != self.scopes {
            let Self { newest, scopes } = self;
            return Err(format!("of {newest} a follower showed {scopes:?}, and there is {:?}", held.scopes));
        }
        Ok(())
    }
}

/// Calls of one session by what they left.
struct Calls {
    by_actor: BTreeMap<String, Made>,
    /// Those that came to nothing but a stored outcome leave no entry in the feed.
    by_commit: BTreeMap<u64, Call>,
}

impl Oracle {
    pub(crate) fn new() -> Result<Self> {
        let reference = options().in_memory()?;
        let newest = reference.position()?.commit().number();
        Ok(Self { reference, newest, journal: Vec::new() })
    }

    /// Another oracle that knows the same.
    fn fork(&self) -> Found<Self> {
        let mut fork = Self::new().map_err(must_not_fail)?;
        for step in self.journal.clone() {
            match &step {
                Step::Call(call) => drop(call.make(&fork.reference).map_err(must_not_fail)?),
                Step::Trim(floor) => drop(fork.reference.trim_history(*floor).map_err(must_not_fail)?),
            }
            fork.journal.push(step);
        }
        fork.newest = position(&fork.reference)?;
        match fork.newest == self.newest {
            true => Ok(fork),
            false => Err(format!("made again, {} is {}", self.newest, fork.newest)),
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Compares a store with what was told before. What it holds is told then, too.
    pub(crate) fn settle(&mut self, store: &Store, told: Told) -> Found<()> {
        if let Some(complaint) = told.complaints.first() {
            return Err(complaint.clone());
        }
        let newest = position(store)?;
        let least = told.newest.max(self.newest);
        if newest < least {
            return Err(format!("commit {least} was told of, and {newest} is the newest that is left"));
        }
        if let Some((least, _)) = told.trimmed {
            self.trim(floor_of(store, least)?)?;
        }
        let feed = feed_of(store, self.newest)?;
        for record in &told.feed {
            let found = if record.info.commit.number() > self.newest {
                feed.get(&record.info.commit.number()).cloned()
            } else {
                self.entry(record)?
            };
            if found.as_ref() != Some(record) {
                return Err(format!("the feed told {record:?}, and now has {found:?}"));
            }
        }
        let mut calls = Calls::of(store, told.calls)?;
        let mut claims = told.claims;
        self.replay(&feed, newest, &mut calls, &mut claims)?;
        self.judge(&mut claims)?;
        if let Some(claim) = claims.first() {
            return Err(format!("this was told, and was true at no commit it may be of: {claim:?}"));
        }
        calls.must_be_there(u64::MAX)?;
        self.compare(&scopes_of(store)?, &scopes_of(&self.reference)?)?;
        must_be_clean(store)
    }

    /// The newest commit of a store after a crash at this call of the disk: none is missing that was reported before.
    fn newest_of(&self, store: &Store, told: &Told, call: u64) -> Found<u64> {
        let newest = position(store)?;
        let least = told.newest_before(call).max(self.newest);
        match newest < least {
            true => Err(format!("commit {least} was told of, and {newest} is the newest that is left")),
            false => Ok(newest),
        }
    }

    /// Reads what a follower shows of what a crash at this call of the disk left.
    pub(crate) fn shown(&self, store: &Store, told: &Told, call: u64) -> Found<Shown> {
        Ok(Shown { newest: self.newest_of(store, told, call)?, scopes: scopes_of(store)? })
    }

    /// Reads all of a store that was opened after a crash at this call of the disk, in or after a session.
    pub(crate) fn held(&self, store: &Store, told: &Told, call: u64) -> Found<Held> {
        let newest = self.newest_of(store, told, call)?;
        let least = told.trimmed.filter(|(_, known_at)| *known_at < call).map_or(0, |(floor, _)| floor);
        let floor = floor_of(store, least)?;
        // First of those that did not come to nothing: others may have been answered by what these stored.
        let (mut asked, others): (Vec<_>, Vec<_>) = told
            .calls
            .iter()
            .filter(|made| made.may_be_there(call))
            .partition(|made| !matches!(made.outcome, Outcome::Nothing));
        asked.extend(others);
        let mut outcomes = BTreeMap::new();
        for Made { call, .. } in asked {
            if let Ok(Some((_, commit))) = call.outcome(store) {
                outcomes.entry(commit).or_insert_with(|| call.clone());
            }
        }
        must_be_clean(store)?;
        let feed = feed_of(store, self.newest)?;
        Ok(Held { call, newest, floor, feed, scopes: scopes_of(store)?, outcomes })
    }

    /// Compares what stores hold that were opened after crashes in or after one session, with what had been told by
    /// then. Each of them has a part of what the session did.
    pub(crate) fn compare_all(&self, told: &Told, mut all: Vec<Held>) -> Found<()> {
        all.sort_by_key(|held| held.newest);
        let mut fork = self.fork()?;
        let mut calls = Calls::until_a_crash(told);
        let failed: BTreeMap<_, _> = told
            .calls
            .iter()
            .filter(|made| matches!(made.outcome, Outcome::Nothing))
            .map(|made| (made.call.actor.as_str(), made.known_at))
            .collect();
        let mut expected: Option<(u64, BTreeMap<u64, CommitRecord>, Vec<String>)> = None;
        for held in all {
            let in_words = |what: String| format!("after a crash at call {}: {what}", held.call);
            if told.trimmed.is_some() {
                fork.trim(held.floor).map_err(in_words)?;
            }
            for (commit, call) in &held.outcomes {
                calls.by_commit.entry(*commit).or_insert_with(|| call.clone());
            }
            fork.replay(&held.feed, held.newest, &mut calls, &mut Vec::new()).map_err(in_words)?;
            if fork.newest != held.newest {
                return Err(in_words(format!("{} is the newest, and must be {}", held.newest, fork.newest)));
            }
            let (_, feed, scopes) = match &mut expected {
                Some(expected) if expected.0 == fork.newest => expected,
                expected => {
                    let feed = feed_of(&fork.reference, self.newest).map_err(in_words)?;
                    expected.insert((fork.newest, feed, scopes_of(&fork.reference).map_err(in_words)?))
                }
            };
            if held.feed != *feed {
                return Err(in_words(format!("the feed must be {feed:?}, and is {:?}", held.feed)));
            }
            calls.must_be_there(held.call).map_err(in_words)?;
            for (commit, record) in &held.feed {
                let failed_at = record.info.actor.as_deref().and_then(|actor| failed.get(actor));
                if failed_at.is_some_and(|known_at| *known_at < held.call) {
                    return Err(in_words(format!(
                        "commit {commit} is of a call that failed cleanly: {record:?}"
                    )));
                }
            }
            fork.compare(&held.scopes, scopes).map_err(in_words)?;
        }
        Ok(())
    }

    /// Makes the commits of the store again, each by the call that it says it is of.
    fn replay(
        &mut self,
        feed: &BTreeMap<u64, CommitRecord>,
        newest: u64,
        calls: &mut Calls,
        claims: &mut Vec<Claim>,
    ) -> Found<()> {
        while self.newest < newest {
            self.judge(claims)?;
            let number = self.newest + 1;
            let record = feed.get(&number);
            let Made { call, outcome, .. } = calls.take(number, record)?;
            let done = call.make(&self.reference);
            let done = done.map_err(|error| format!("commit {number} is of {call:?}, which is {error:?}"))?;
            let last = position(&self.reference)?;
            if last < number || !done.made_commit {
                return Err(format!("commit {number} is of {call:?}, which changes nothing there"));
            }
            if last > newest {
                return Err(format!("{call:?} is there in part: up to {newest} of {number} to {last}"));
            }
            let expected = feed_of(&self.reference, self.newest)?;
            for number in number..=last {
                let (expected, found) = (expected.get(&number), feed.get(&number));
                if expected != found {
                    return Err(format!("commit {number} must be {expected:?}, and is {found:?}"));
                }
            }
            match outcome {
                Outcome::Made(Some(told)) if told != (last, done.answer.clone()) => {
                    return Err(format!("{call:?} was told {told:?}, but made {done:?}"));
                }
                Outcome::Nothing => {
                    return Err(format!("commit {number} is of {call:?}, which failed cleanly"));
                }
                Outcome::Made(_) | Outcome::Unknown => {}
            }
            self.newest = last;
            self.journal.push(Step::Call(call));
        }
        Ok(())
    }

    /// Drops the claims that are true now. One whose time is over stays.
    fn judge(&self, claims: &mut Vec<Claim>) -> Found<()> {
        let mut failure = None;
        claims.retain(|claim| {
            if !(claim.from..=claim.to).contains(&self.newest) || failure.is_some() {
                return true;
            }
            match self.holds(&claim.fact) {
                Ok(holds) => !holds,
                Err(error) => {
                    failure = Some(must_not_fail(error));
                    true
                }
            }
        });
        failure.map_or(Ok(()), Err)
    }

    fn holds(&self, fact: &Fact) -> Result<bool> {
        Ok(match fact {
            Fact::Query(number, query, answer) => {
                self.reference.read(&scope(*number), |snap| query.ask(snap))? == *answer
            }
            Fact::Replay(call, answer, commit) => {
                call.outcome(&self.reference)? == Some((answer.clone(), *commit))
            }
            Fact::Call(call, told) => match call.judge(&self.reference)? {
                Ok(done) => !done.made_commit && !done.replayed && told.as_ref() == Ok(&done.answer),
                Err(refusal) => told.as_ref() == Err(&refusal),
            },
        })
    }

    /// What the reference's feed has in the place of an entry; what was trimmed since counts as right.
    fn entry(&self, told: &CommitRecord) -> Found<Option<CommitRecord>> {
        let commit = told.info.commit;
        let before = Commit::new(commit.number().saturating_sub(1));
        let one = Limit::new(1).expect("1 is a limit");
        match self.reference.changes(Some(&self.reference.position_after(before)), one) {
            Ok(page) => Ok(page.commits.into_iter().find(|record| record.info.commit == commit)),
            Err(keystead::Error::HistoryTrimmed { .. }) => Ok(Some(told.clone())),
            Err(error) => Err(must_not_fail(error)),
        }
    }

    /// Everything that can be listed or looked up.
    fn compare(&self, found: &[String], expected: &[String]) -> Found<()> {
        match found.iter().zip(expected).enumerate().find(|(_, (found, expected))| found != expected) {
            Some((number, (found, expected))) => {
                Err(format!("scope {number} must be {expected}, and is {found}"))
            }
            None => Ok(()),
        }
    }

    /// Trims the history as far as the store did: each step of it is a commit, which is in no feed.
    fn trim(&mut self, floor: Commit) -> Found<()> {
        self.reference.trim_history(floor).map_err(must_not_fail)?;
        self.newest = position(&self.reference)?;
        self.journal.push(Step::Trim(floor));
        Ok(())
    }
}

impl Made {
    /// Whether a crash at this call of the disk may leave an outcome that nobody knows.
    fn may_be_there(&self, call: u64) -> bool {
        match self.outcome {
            Outcome::Unknown | Outcome::Made(None) => true,
            Outcome::Nothing => self.known_at >= call,
            Outcome::Made(Some(_)) => false,
        }
    }
}

impl Calls {
    /// Sorts calls; for those whose outcome is not known it asks the store.
    fn of(store: &Store, told: Vec<Made>) -> Found<Self> {
        let mut calls = Self { by_actor: BTreeMap::new(), by_commit: BTreeMap::new() };
        for made in told {
            let call = &made.call;
            match &made.outcome {
                Outcome::Made(Some((commit, _))) => drop(calls.by_commit.insert(*commit, call.clone())),
                // Its outcome may be that of another call; only if it is nobody's, it is asked for.
                Outcome::Unknown | Outcome::Made(None) => {
                    if let Ok(Some((_, commit))) = call.outcome(store) {
                        calls.by_commit.entry(commit).or_insert_with(|| call.clone());
                    }
                }
                Outcome::Nothing => {}
            }
            calls.by_actor.insert(call.actor.clone(), made);
        }
        Ok(calls)
    }

    /// The calls of a session, of which some had no end when it crashed: what failed cleanly after that may be there.
    fn until_a_crash(told: &Told) -> Self {
        let mut calls = Self { by_actor: BTreeMap::new(), by_commit: BTreeMap::new() };
        for made in &told.calls {
            let mut made = made.clone();
            match made.outcome {
                Outcome::Made(Some((commit, _))) => drop(calls.by_commit.insert(commit, made.call.clone())),
                Outcome::Nothing => made.outcome = Outcome::Unknown,
                Outcome::Made(None) | Outcome::Unknown => {}
            }
            calls.by_actor.insert(made.call.actor.clone(), made);
        }
        calls
    }

    /// The call that made a commit.
    fn take(&mut self, number: u64, record: Option<&CommitRecord>) -> Found<Made> {
        let nobodys = || format!("commit {number} is nobody's: {record:?}");
        let actor = match record {
            Some(record) => record.info.actor.as_deref().ok_or_else(nobodys)?.to_owned(),
            None => self.by_commit.get(&number).ok_or_else(nobodys)?.actor.clone(),
        };
        self.by_actor.remove(&actor).ok_or_else(nobodys)
    }

    /// What was acknowledged before this call of the disk was found.
    fn must_be_there(&self, call: u64) -> Found<()> {
        let acknowledged = |made: &&Made| matches!(made.outcome, Outcome::Made(_)) && made.known_at < call;
        match self.by_actor.values().find(acknowledged) {
            Some(lost) => Err(format!("it was acknowledged, and is not there: {lost:?}")),
            None => Ok(()),
        }
    }
}

fn must_not_fail(error: keystead::Error) -> String {
    format!("the disk is well, and the store fails: {error:?}")
}

fn position(store: &Store) -> Found<u64> {
    Ok(store.position().map_err(must_not_fail)?.commit().number())
}

/// Up to where the history of a store was trimmed, which is not less far than was told.
fn floor_of(store: &Store, least: u64) -> Found<Commit> {
    let floor = store.history_floor().map_err(must_not_fail)?;
    match floor.number() < least {
        true => Err(format!("the history was trimmed to {least}, and now begins at {floor}")),
        false => Ok(floor),
    }
}

fn feed_of(store: &Store, after: u64) -> Found<BTreeMap<u64, CommitRecord>> {
    let mut feed = BTreeMap::new();
    let mut position = store.position_after(Commit::new(after));
    loop {
        let page = store.changes(Some(&position), Limit::MAX).map_err(must_not_fail)?;
        position = page.position;
        if page.commits.is_empty() {
            return Ok(feed);
        }
        feed.extend(page.commits.into_iter().map(|record| (record.info.commit.number(), record)));
    }
}

/// Each scope of a store, as text.
fn scopes_of(store: &Store) -> Found<Vec<String>> {
    let all = |number| store.read(&scope(number), |snap| Query::Everything.ask(snap)).map_err(must_not_fail);
    (0..SCOPES).map(all).collect()
}

fn must_be_clean(store: &Store) -> Found<()> {
    let report = store.verify().map_err(must_not_fail)?;
    match report.is_clean() && report.violations_not_kept == 0 {
        true => Ok(()),
        false => Err(format!("verify: {report:#?}")),
    }
}

//! What a store must hold: the same commits, made one after the other of a store in memory that never fails,
//! and everything that anybody was told must be true of it.
//!
//! That such a store does what the specification says, the model test shows (`tests/model.rs`). Here it says
//! what each commit must have done, record for record; what each query had to find at its commit; and why each
//! refusal was one.

use std::collections::BTreeMap;

use keystead::{Commit, CommitRecord, Limit, Result, Store};

use crate::call::{Call, Query, SCOPES, options, scope};
use crate::session::{Claim, Fact, Outcome, Told};

pub(crate) struct Oracle {
    reference: Store,
    /// The newest commit of the store, as far as it was looked at: there it stays.
    newest: u64,
}

/// A violation, in words; or that the store failed.
pub(crate) type Found<T> = std::result::Result<T, String>;

/// Calls of one session by what they left.
struct Calls {
    by_actor: BTreeMap<String, (Call, Outcome)>,
    /// Those that came to nothing but a stored outcome leave no entry in the feed.
    by_commit: BTreeMap<u64, Call>,
}

impl Oracle {
    pub(crate) fn new() -> Result<Self> {
        let reference = options().in_memory()?;
        let newest = reference.position()?.commit().number();
        Ok(Self { reference, newest })
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Compares a store with what was told before. What it holds is told then, too.
    pub(crate) fn settle(&mut self, store: &Store, told: Told) -> Found<()> {
        if let Some(complaint) = told.complaints.first() {
            return Err(complaint.clone());
        }
        let newest = store.position().map_err(must_not_fail)?.commit().number();
        let least = told.newest.max(self.newest);
        if newest < least {
            return Err(format!("commit {least} was told of, and {newest} is the newest that is left"));
        }
        if let Some(least) = told.trimmed {
            self.trim(store, least)?;
        }
        let feed = self.feed_of(store, self.newest)?;
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
        calls.must_be_there()?;
        self.compare(store)
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
            let (call, outcome) = calls.take(number, record)?;
            let done = call.make(&self.reference);
            let done = done.map_err(|error| format!("commit {number} is of {call:?}, which is {error:?}"))?;
            let last = self.reference.position().map_err(must_not_fail)?.commit().number();
            if last < number || !done.made_commit {
                return Err(format!("commit {number} is of {call:?}, which changes nothing there"));
            }
            if last > newest {
                return Err(format!("{call:?} is there in part: up to {newest} of {number} to {last}"));
            }
            let expected = self.feed_of(&self.reference, self.newest)?;
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

    fn feed_of(&self, store: &Store, after: u64) -> Found<BTreeMap<u64, CommitRecord>> {
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

    /// Everything that can be listed, looked up or checked.
    fn compare(&self, store: &Store) -> Found<()> {
        for number in 0..SCOPES {
            let all = |store: &Store| store.read(&scope(number), |snap| Query::Everything.ask(snap));
            let (found, expected) =
                (all(store).map_err(must_not_fail)?, all(&self.reference).map_err(must_not_fail)?);
            if found != expected {
                return Err(format!("scope {number} must be {expected}, and is {found}"));
            }
        }
        let report = store.verify().map_err(must_not_fail)?;
        if !report.is_clean() || report.violations_not_kept > 0 {
            return Err(format!("verify: {report:#?}"));
        }
        Ok(())
    }

    /// Trims the history as far as the store did: each step of it is a commit, which is in no feed.
    fn trim(&mut self, store: &Store, least: u64) -> Found<()> {
        let floor = store.history_floor().map_err(must_not_fail)?;
        if floor.number() < least {
            return Err(format!("the history was trimmed to {least}, and now begins at {floor}"));
        }
        self.reference.trim_history(floor).map_err(must_not_fail)?;
        self.newest = self.reference.position().map_err(must_not_fail)?.commit().number();
        Ok(())
    }
}

impl Calls {
    /// Sorts calls; for those whose outcome is not known it asks the store.
    fn of(store: &Store, told: Vec<(Call, Outcome)>) -> Found<Self> {
        let mut calls = Self { by_actor: BTreeMap::new(), by_commit: BTreeMap::new() };
        for (call, outcome) in told {
            match &outcome {
                Outcome::Made(Some((commit, _))) => drop(calls.by_commit.insert(*commit, call.clone())),
                // Its outcome may be that of another call; only if it is nobody's, it is asked for.
                Outcome::Unknown | Outcome::Made(None) => {
                    if let Ok(Some((_, commit))) = call.outcome(store) {
                        calls.by_commit.entry(commit).or_insert_with(|| call.clone());
                    }
                }
                Outcome::Nothing => {}
            }
            calls.by_actor.insert(call.actor.clone(), (call, outcome));
        }
        Ok(calls)
    }

    /// The call that made a commit.
    fn take(&mut self, number: u64, record: Option<&CommitRecord>) -> Found<(Call, Outcome)> {
        let nobodys = || format!("commit {number} is nobody's: {record:?}");
        let actor = match record {
            Some(record) => record.info.actor.as_deref().ok_or_else(nobodys)?.to_owned(),
            None => self.by_commit.get(&number).ok_or_else(nobodys)?.actor.clone(),
        };
        self.by_actor.remove(&actor).ok_or_else(nobodys)
    }

    /// What was acknowledged was found.
    fn must_be_there(&self) -> Found<()> {
        let acknowledged = |(_, outcome): &&(Call, Outcome)| matches!(outcome, Outcome::Made(_));
        match self.by_actor.values().find(acknowledged) {
            Some(lost) => Err(format!("it was acknowledged, and is not there: {lost:?}")),
            None => Ok(()),
        }
    }
}

fn must_not_fail(error: keystead::Error) -> String {
    format!("the disk is well, and the store fails: {error:?}")
}

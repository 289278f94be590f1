//! What a store on a [`Machine`](super::machine::Machine) is given, step by step, and what it must have after each.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::engine::embedded::{EmbeddedEngine, Follower};
use crate::engine::{Batch, Engine, Load, Log, ReadTransaction};
use crate::error::{Error, Result};
use crate::format::Row;
use crate::id::Commit;

/// Each row with its commit, and each entry of the store's own log.
pub(super) type State = (Vec<(Row, Vec<u8>, u64)>, Vec<(u64, Vec<u8>)>);

pub(super) const STEPS: u8 = 26;
/// The step that is a bulk load, of three commits.
pub(super) const LOAD: u8 = 14;
/// The step that is a commit too large for a segment.
pub(super) const LARGE: u8 = 20;

/// What each step writes: in the load, in each of its commits.
fn batch(step: u8) -> Batch {
    let length = if step == LARGE { 10_000 } else { 100 + usize::from(step) * 97 % 900 };
    let row = |number: u8| vec![b'r', b'a' + number % 7];
    Batch::from([
        (row(step), Some(vec![step; length])),
        (row(step + 2), None),
        (row(step + 4), Some(vec![step; 5])),
        (vec![b'r', b'z'], Some(vec![step])),
    ])
}

/// Takes a step; returns the commit that is the newest then.
pub(super) fn take(writer: &EmbeddedEngine, step: u8) -> Result<u64> {
    let transaction = writer.begin_write()?;
    if step != LOAD {
        let log = Log { append: Some(&[step]), trim: None };
        return Ok(transaction.commit(&batch(step), log)?.number());
    }
    let mut load = Load::after(transaction.commit_read());
    for part in 0..3 {
        for (row, value) in batch(step + part) {
            load.put(&row, value.as_deref());
        }
        load.end_commit(Some(vec![step + part]));
    }
    Ok(transaction.load(&load)?.number())
}

/// What is there after each step, by the newest commit.
pub(super) struct History(BTreeMap<u64, State>);

impl History {
    pub(super) fn new() -> Self {
        let (mut states, mut commit) = (BTreeMap::from([(0, State::default())]), 0);
        let mut rows: BTreeMap<Row, (Vec<u8>, u64)> = BTreeMap::new();
        let mut log = Vec::new();
        for step in 0..STEPS {
            for part in 0..if step == LOAD { 3 } else { 1 } {
                commit += 1;
                for (row, value) in batch(step + part) {
                    match value {
                        Some(value) => drop(rows.insert(row, (value, commit))),
                        None => drop(rows.remove(&row)),
                    }
                }
                log.push((commit, vec![step + part]));
            }
            let rows = rows.iter().map(|(row, (value, commit))| (row.clone(), value.clone(), *commit));
            states.insert(commit, (rows.collect(), log.clone()));
        }
        Self(states)
    }

    /// The newest commit after so many steps.
    pub(super) fn after(&self, steps: u8) -> u64 {
        *self.0.keys().nth(usize::from(steps)).expect("there are so many steps")
    }

    /// How many steps lead to this commit.
    pub(super) fn steps(&self, commit: u64) -> u8 {
        u8::try_from(self.0.range(..commit).count()).expect("there are few steps")
    }

    /// The newest commit that a reader shows, if all that it shows is what that left.
    pub(super) fn shown(&self, read: &dyn ReadTransaction) -> std::result::Result<u64, String> {
        let commit = read.commit().number();
        let found = state(read).map_err(|error| format!("commit {commit} can't be read: {error:?}"))?;
        match self.0.get(&commit) {
            Some(expected) if *expected == found => Ok(commit),
            Some(expected) => Err(format!("commit {commit} left {expected:?}, and {found:?} is shown")),
            None => Err(format!("commit {commit} is shown, which no step left")),
        }
    }

    /// The same of a read that a follower begins now.
    ///
    /// # Errors
    ///
    /// What that read, or its beginning, failed with.
    pub(super) fn shown_with(&self, follower: &Follower) -> Result<std::result::Result<u64, String>> {
        let read = follower.begin_read()?;
        state(&*read)?;
        Ok(self.shown(&*read))
    }

    /// The same of a follower; `None` if it could not tell in time, because what it looked at was in motion.
    pub(super) fn shown_by(&self, follower: Result<&Follower>) -> std::result::Result<Option<u64>, String> {
        match follower.and_then(Engine::begin_read) {
            Ok(read) => self.shown(&*read).map(Some),
            Err(Error::AlreadyOpen(_)) => Ok(None),
            Err(error) => Err(format!("{error:?}")),
        }
    }
}

fn state(read: &dyn ReadTransaction) -> Result<State> {
    let mut rows = Vec::new();
    for (row, stored) in read.scan((Bound::Included(b"r"), Bound::Excluded(b"s")), usize::MAX)? {
        let stored = stored?;
        rows.push((row, stored.bytes, stored.commit.number()));
    }
    let entries = read.log(Commit::default(), usize::MAX)?;
    let entries = entries.into_iter().map(|(commit, entry)| Ok((commit.number(), entry?)));
    Ok((rows, entries.collect::<Result<_>>()?))
}

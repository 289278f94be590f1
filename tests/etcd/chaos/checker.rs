//! The checker: whether what callers were answered and what the history of the store says can both be true.
//!
//! The history gives the order in which changes were made. Applied one after the other to the specification, each
//! must do what its caller was answered; what was acknowledged must be there once, what failed must not be there, what
//! is unknown may be there once. Each read must show what was there after the commit that it names, and no commit may
//! be older than what was acknowledged before its call began. What was refused must have been so at some moment of
//! the call. In the end all of it is given to the checker of linearizability, which knows of no history.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use keystead::{CommitRecord, Images};

use super::super::linearizability::checker::{self as search, Operation, Returned, Specification};
use super::super::linearizability::specification::{Alias, Answer, Call, Key, Name, Names};
use super::callers::{Called, Outcome};

/// How much longer than its deadline a call may take on a machine that is busy.
pub(crate) const LATE: Duration = Duration::from_millis(1000);

/// What was there when the callers began.
pub(crate) struct Initial {
    pub(crate) names: Names,
    pub(crate) commit: u64,
}

/// What the history says of a commit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    pub(crate) commit: u64,
    pub(crate) marker: String,
    /// What its changes left.
    keys: BTreeMap<Key, Name>,
    aliases: BTreeMap<Alias, Option<Key>>,
    /// Of each record.
    versions: Vec<u64>,
}

impl Applied {
    pub(crate) fn of(record: &CommitRecord) -> Self {
        let (mut keys, mut aliases, mut versions) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for change in &record.changes {
            match &change.images {
                Images::Key { after, .. } => {
                    let after = after.as_ref().expect("no key is purged");
                    keys.insert(Key::of(after.key_id), Name::of(&after.key_alias));
                    versions.push(after.version.number());
                }
                Images::Alias { before, after } => {
                    let alias = after.as_ref().or(before.as_ref()).expect("one of both");
                    aliases
                        .insert(Alias::of(&alias.alias), after.as_ref().map(|after| Key::of(after.key_id)));
                    versions.extend(after.as_ref().map(|after| after.version.number()));
                }
            }
        }
        let marker = record.info.actor.as_deref().unwrap_or_default().to_owned();
        Self { commit: record.info.commit.number(), marker, keys, aliases, versions }
    }
}

/// Everything that can't be true.
pub(crate) fn check(initial: &Initial, calls: &[Called], applied: &[Applied]) -> Vec<String> {
    let mut check = Check {
        by_marker: calls.iter().map(|call| (call.marker.as_str(), call)).collect(),
        commits: BTreeMap::new(),
        states: BTreeMap::from([(initial.commit, initial.names.clone())]),
        violations: Vec::new(),
    };
    let mut state = initial.names.clone();
    for applied in applied {
        check.apply(&mut state, applied);
    }
    check.acknowledged(calls);
    check.in_time(calls, initial.commit);
    if let Err(violation) = search::check(&initial.names, &operations(calls)) {
        check.violations.push(format!("not linearizable: {violation}"));
    }
    check.violations
}

/// For the search.
fn operations(calls: &[Called]) -> Vec<Operation<Call, Answer>> {
    let operation = |called: &Called| {
        let (answer, hint) = match &called.outcome {
            Outcome::Read { answer, commit } | Outcome::Written { answer, commit } => (Some(answer), *commit),
            Outcome::Unchanged { answer } => (Some(answer), 0),
            Outcome::Unknown => (None, 0),
            Outcome::Conflict | Outcome::Unavailable | Outcome::OutOfSpace | Outcome::Unexpected(_) => {
                return None;
            }
        };
        let returned = answer.map(|answer| Returned { at: called.returned, answer: answer.clone(), hint });
        Some(Operation { thread: called.caller, call: called.call.clone(), began: called.began, returned })
    };
    calls.iter().filter_map(operation).collect()
}

struct Check<'a> {
    by_marker: HashMap<&'a str, &'a Called>,
    /// In which commit each call was applied.
    commits: BTreeMap<&'a str, u64>,
    /// What was there after each commit.
    states: BTreeMap<u64, Names>,
    violations: Vec<String>,
}

impl<'a> Check<'a> {
    /// One commit of the history, upon those before it.
    fn apply(&mut self, state: &mut Names, applied: &Applied) {
        let (newest, _) = self.states.last_key_value().expect("the first");
        if applied.commit <= *newest {
            self.violations.push(format!("commit {} after {newest}", applied.commit));
        }
        if let Some(version) = applied.versions.iter().find(|version| **version != applied.commit) {
            self.violations.push(format!("version {version} in commit {}", applied.commit));
        }
        let Some((marker, call)) = self.by_marker.get_key_value(applied.marker.as_str()) else {
            self.violations.push(format!("nobody asked for {applied:?}"));
            return;
        };
        if let Some(first) = self.commits.insert(marker, applied.commit) {
            self.violations.push(format!("applied twice, in {first} and {}: {call:?}", applied.commit));
        }
        let answer = state.run(&call.call);
        match &call.outcome {
            Outcome::Written { answer: given, commit } if *given == answer && *commit == applied.commit => {}
            Outcome::Unknown if Names::changes(&call.call, &answer) => {}
            _ => self.violations.push(format!("commit {} would answer {answer:?}: {call:?}", applied.commit)),
        }
        let wrong_key = applied.keys.iter().find(|(key, name)| state.keys.get(key) != Some(name));
        let wrong_alias =
            applied.aliases.iter().find(|(alias, key)| state.aliases.get(alias) != key.as_ref());
        if wrong_key.is_some() || wrong_alias.is_some() {
            self.violations.push(format!("it left something else than {state:?}: {applied:?}"));
        }
        self.states.insert(applied.commit, state.clone());
    }

    fn acknowledged(&mut self, calls: &[Called]) {
        for call in calls {
            match &call.outcome {
                Outcome::Written { commit, .. } if self.commits.get(call.marker.as_str()) != Some(commit) => {
                    self.violations.push(format!("lost: {call:?}"));
                }
                Outcome::Unexpected(_) => {
                    self.violations.push(format!("an error that nothing explains: {call:?}"))
                }
                _ => {}
            }
        }
    }

    /// That each call took effect between its beginning and its return.
    fn in_time(&mut self, calls: &[Called], initial: u64) {
        let mut by_beginning: Vec<_> = calls.iter().collect();
        by_beginning.sort_by_key(|call| call.began);
        let mut by_return = by_beginning.clone();
        by_return.sort_by_key(|call| call.returned);
        let mut returned = by_return.into_iter().peekable();
        let mut acknowledged = initial;
        // The first commit of all calls from each on.
        let mut first_of_later = vec![u64::MAX; by_beginning.len() + 1];
        for (place, call) in by_beginning.iter().enumerate().rev() {
            let commit = self.commits.get(call.marker.as_str()).copied().unwrap_or(u64::MAX);
            first_of_later[place] = commit.min(first_of_later[place + 1]);
        }
        for call in &by_beginning {
            while let Some(earlier) = returned.next_if(|earlier| earlier.returned < call.began) {
                acknowledged = acknowledged.max(self.effect(earlier).unwrap_or_default());
            }
            match (&call.outcome, self.effect(call)) {
                (Outcome::Read { commit, .. }, _) if *commit < acknowledged => {
                    self.violations.push(format!("it shows what was before {acknowledged}: {call:?}"));
                }
                (Outcome::Read { answer, commit }, _) => {
                    let mut state = self.at(*commit).clone();
                    let there = state.run(&call.call);
                    if there != *answer {
                        self.violations.push(format!("there was {there:?}: {call:?}"));
                    }
                }
                (Outcome::Unchanged { answer }, _) => {
                    let first_after = by_beginning.partition_point(|other| other.began < call.returned);
                    let last = first_of_later[first_after];
                    if !self.was_so(call, answer, acknowledged, last) {
                        self.violations.push(format!("never so from {acknowledged} to {last}: {call:?}"));
                    }
                }
                (_, Some(commit)) if commit <= acknowledged => {
                    self.violations.push(format!("commit {commit} before {acknowledged}: {call:?}"));
                }
                _ => {}
            }
        }
    }

    /// The commit that a call read or made.
    fn effect(&self, call: &Called) -> Option<u64> {
        match call.outcome {
            Outcome::Read { commit, .. } => Some(commit),
            _ => self.commits.get(call.marker.as_str()).copied(),
        }
    }

    fn at(&self, commit: u64) -> &Names {
        self.states.range(..=commit).next_back().expect("callers began with a state").1
    }

    /// Whether a call that changed nothing would have been answered so at some moment.
    fn was_so(&self, call: &Called, answer: &Answer, from: u64, before: u64) -> bool {
        let first = self.states.range(..=from).next_back().map_or(0, |(commit, _)| *commit);
        self.states.range(first..before.max(first + 1)).any(|(_, state)| {
            let there = state.clone().run(&call.call);
            there == *answer && !Names::changes(&call.call, &there)
        })
    }
}

//! [`Judged`]: what a store answers to all names, compared with what the intact store said.

use std::collections::BTreeSet;

use keystead::{After, Error, Limit, Store};

use crate::mutations::{Damage, Kind};
use crate::stores::{Base, Image, NOTHING, Name, scope};

/// What may be, after a damage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// From which commit on all answers may be those of an earlier moment: where what says which commit is the newest is
    /// itself what was damaged, and what it leads to is whole, nothing can tell this from a crash before the next commit.
    pub(crate) earlier: Option<u64>,
    /// Names may be hidden: the checksums were made to fit.
    pub(crate) hostile: bool,
}

impl Rules {
    pub(crate) fn of(kind: Kind, damage: &Damage, image: &Image) -> Self {
        let newest = *image.commits.last_key_value().unwrap().0;
        let earlier = match damage.base {
            _ if damage.header || kind.is_of_log() => Some(0),
            // The newest commit of a killed process is taken back if it is not whole.
            Base::Killed => Some(newest - 1),
            _ => None,
        };
        Self { earlier, hostile: kind.is_hostile() }
    }

    fn allow(self, commit: u64) -> bool {
        self.earlier.is_some_and(|first| commit >= first)
    }
}

/// How a store answers.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) right: usize,
    /// Errors, by their names.
    pub(crate) errors: Vec<String>,
    /// Names that exist, and of which it says that they don't.
    pub(crate) hidden: Vec<String>,
    /// Names that it resolves to something else.
    pub(crate) wrong: Vec<String>,
    /// All that it answers is as it was after this commit.
    pub(crate) earlier: Option<u64>,
}

/// The name of an error.
pub(crate) fn word(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Errors that say that something is not there, or is there already, are answers. The others are what damage leads to.
pub(crate) fn is_answer(error: &Error) -> bool {
    !matches!(
        error,
        Error::Corrupted(_)
            | Error::LogMismatch(_)
            | Error::NotAStore(_)
            | Error::Unsupported { .. }
            | Error::Io(_)
            | Error::Unsound(_)
            | Error::BackupMismatch(_)
            | Error::CommitUnknown(_)
            | Error::Poisoned
            | Error::Unfinished
            | Error::HistoryTrimmed { .. }
            | Error::OptionsMismatch { .. }
    )
}

impl Judged {
    /// Asks for all names but these.
    pub(crate) fn of(store: &Store, image: &Image, skip: &BTreeSet<&Name>) -> Self {
        let mut judged = Self::default();
        let mut answers = Vec::new();
        for (number, name) in image.names.iter().enumerate().filter(|(_, name)| !skip.contains(name)) {
            match store.read(&scope(name.scope()), |snap| name.ask(snap)) {
                Ok(answer) => answers.push((number, answer)),
                Err(error) if is_answer(&error) => judged.wrong.push(format!("{name:?}: {error:?}")),
                Err(error) => judged.errors.push(word(&error)),
            }
        }
        let noted = |commit: &[u64], number: usize| commit.get(number).copied().unwrap_or(NOTHING);
        let fits =
            |commit: &[u64]| answers.iter().all(|(number, (answer, _))| noted(commit, *number) == *answer);
        let newest = image.newest();
        if !fits(newest) {
            judged.earlier =
                image.commits.iter().rev().find(|(_, commit)| fits(commit)).map(|(commit, _)| *commit);
        }
        for (number, (answer, text)) in &answers {
            if *answer == noted(newest, *number) {
                judged.right += 1;
            } else if judged.earlier.is_none() {
                let list = if *answer == NOTHING { &mut judged.hidden } else { &mut judged.wrong };
                let when = image.commits.iter().rev().find(|(_, commit)| noted(commit, *number) == *answer);
                let when =
                    when.map_or("it never was".to_owned(), |(commit, _)| format!("as after commit {commit}"));
                list.push(format!("{:?} is {text}, {when}", image.names[*number]));
            }
        }
        if judged.earlier.is_none() && skip.is_empty() {
            judged.look_at_lists(store, image);
        }
        judged
    }

    /// What is in no list is hidden.
    fn look_at_lists(&mut self, store: &Store, image: &Image) {
        for number in 0..3 {
            let there = image
                .names
                .iter()
                .zip(image.newest())
                .filter(|(name, answer)| name.scope() == number && **answer != NOTHING);
            let aliases = there.filter(|(name, _)| matches!(name, Name::Alias(..))).count();
            let mut listed = 0;
            let mut cursor = None;
            let ended = loop {
                let page = store.read(&scope(number), |snap| {
                    snap.aliases(cursor.as_ref().map_or(After::Start, After::Cursor), Limit::MAX)
                });
                match page {
                    Ok(page) => {
                        listed += page.items.len();
                        cursor = page.next;
                        if cursor.is_none() {
                            break true;
                        }
                    }
                    Err(error) => {
                        self.errors.push(word(&error));
                        break false;
                    }
                }
            };
            if ended && listed != aliases {
                self.hidden.push(format!("scope {number} lists {listed} aliases of {aliases}"));
            }
        }
    }

    /// In a word.
    pub(crate) fn outcome(&self) -> String {
        if !self.wrong.is_empty() {
            return "wrong".to_owned();
        }
        if !self.hidden.is_empty() {
            return "hidden".to_owned();
        }
        match (self.earlier, self.errors.first()) {
            (Some(_), Some(error)) => format!("earlier, {error}"),
            (Some(_), None) => "earlier".to_owned(),
            (None, Some(error)) => format!("detected: {error}"),
            (None, None) => "harmless".to_owned(),
        }
    }

    /// What must not be.
    pub(crate) fn faults(&self, rules: Rules) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(wrong) = self.wrong.first() {
            faults.push(format!("wrong answer: {wrong} ({} such)", self.wrong.len()));
        }
        if let Some(hidden) = self.hidden.first().filter(|_| !rules.hostile) {
            faults.push(format!("hidden: {hidden} ({} such)", self.hidden.len()));
        }
        if let Some(commit) = self.earlier.filter(|commit| !rules.allow(*commit)) {
            faults.push(format!("wrong answer: all names are as after commit {commit}"));
        }
        faults
    }
}

//! The recorder: asks a store, and notes when each call began and returned, and what it was answered.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keystead::{Error, KeyId, NewKey, Request, Result, Scope, Snapshot, Store, Timestamp, Transaction};

use super::checker::{Operation, Returned};
use super::specification::{Alias, Answer, Call, Key, Name, Refusal};

pub(crate) type History = Vec<Operation<Call, Answer>>;

/// What all threads did. Beginnings and returns are counted by one counter and not by a clock: a call that
/// returned before another began has the smaller number, on any processor.
#[derive(Default)]
pub(crate) struct Recorder {
    time: AtomicU64,
    history: Mutex<History>,
}

impl Recorder {
    /// Makes a call and notes it.
    ///
    /// # Errors
    ///
    /// What is no answer: `CommitUnknown`, which is noted as such, and what says that nothing was done.
    pub(crate) fn call(&self, store: &Store, thread: usize, call: &Call) -> Result<Answer> {
        let began = self.time.fetch_add(1, SeqCst);
        let outcome = ask(store, call);
        let at = self.time.fetch_add(1, SeqCst);
        let returned = match outcome {
            Ok((ref answer, hint)) => Some(Returned { at, answer: answer.clone(), hint }),
            Err(Error::CommitUnknown(_)) => None,
            Err(error) => return Err(error),
        };
        self.history.lock().unwrap().push(Operation { thread, call: call.clone(), began, returned });
        outcome.map(|(answer, _)| answer)
    }

    /// How many calls began and returned so far.
    pub(crate) fn now(&self) -> u64 {
        self.time.load(SeqCst)
    }

    pub(crate) fn history(&self) -> History {
        self.history.lock().unwrap().clone()
    }

    /// Adds what another thread was answered after all that.
    pub(crate) fn append(history: &mut History, call: Call, answer: Answer) {
        let thread = history.iter().map(|it| it.thread + 1).max().unwrap_or_default();
        let times = history.iter().map(|it| it.returned.as_ref().map_or(it.began, |returned| returned.at));
        let began = times.max().unwrap_or_default() + 1;
        let returned = Some(Returned { at: began + 1, answer, hint: 0 });
        history.push(Operation { thread, call, began, returned });
    }
}

pub(crate) fn scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

/// The answer to a call that nobody notes.
///
/// # Errors
///
/// What is no answer.
pub(crate) fn answer(store: &Store, call: &Call) -> Result<Answer> {
    ask(store, call).map(|(answer, _)| answer)
}

/// The answer to a call, and the number of its commit.
fn ask(store: &Store, call: &Call) -> Result<(Answer, u64)> {
    let outcome = if call.is_read() {
        store.read(&scope(), |snap| Ok((read(snap, call)?, snap.commit())))
    } else {
        let request = Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000));
        store.write(&request, |txn| write(txn, call)).map(|committed| (committed.value, committed.commit))
    };
    match outcome {
        Ok((answer, commit)) => Ok((answer, commit.number())),
        Err(error) => Ok((Answer::Refused(refusal(error)?), 0)),
    }
}

pub(crate) fn read(snap: &Snapshot<'_>, call: &Call) -> Result<Answer> {
    match call {
        Call::Resolve(alias) => {
            let key = snap.resolve(&alias.text())?;
            Ok(Answer::Found(Key::of(key.key_id), Name::of(&key.key_alias)))
        }
        Call::Find(name) => {
            let key = snap.find_by_key_alias(&name.text())?;
            Ok(Answer::Found(Key::of(key.key_id), Name::of(&key.key_alias)))
        }
        Call::Look(aliases, names) => {
            let aliases = aliases.iter().map(|alias| match snap.resolve(&alias.text()) {
                Ok(key) => Ok(Some(Key::of(key.key_id))),
                Err(Error::AliasNotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            });
            let names = names.iter().map(|name| match snap.find_by_key_alias(&name.text()) {
                Ok(key) => Ok(Some(Key::of(key.key_id))),
                Err(Error::KeyNotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            });
            Ok(Answer::Seen(aliases.collect::<Result<_>>()?, names.collect::<Result<_>>()?))
        }
        _ => panic!("{call:?} is no read"),
    }
}

pub(crate) fn write(txn: &mut Transaction<'_>, call: &Call) -> Result<Answer> {
    Ok(match call {
        Call::CreateKey(key, name, alias) => {
            let mut new = NewKey::new(name.text().as_str())?.id(key.id());
            new.aliases.extend(alias.map(Alias::text));
            txn.create_key(&new)?;
            Answer::Done
        }
        Call::CreateAlias(alias, key) => {
            txn.create_alias(&alias.text(), key.id())?;
            Answer::Done
        }
        Call::Associate(alias, key) => {
            let moved = txn.associate_alias(&alias.text(), key.id())?;
            Answer::MovedFrom(vec![Key::of(moved.former_key_id)])
        }
        Call::DeleteAliases(key, aliases) => {
            let aliases: Vec<_> = aliases.iter().copied().map(Alias::text).collect();
            txn.delete_aliases(key.id(), &aliases)?;
            Answer::Done
        }
        Call::Rename(key, name) => {
            let renamed = txn.rename_key_alias(key.id(), &name.text())?;
            Answer::RenamedFrom(vec![Name::of(&renamed.former_key_alias)])
        }
        Call::SwapAliases(one, other) => {
            let moved = txn.swap_aliases(&one.text(), &other.text())?;
            Answer::MovedFrom(moved.iter().map(|moved| Key::of(moved.former_key_id)).collect())
        }
        Call::SwapNames(one, other) => {
            let renamed = txn.swap_key_aliases(one.id(), other.id())?;
            Answer::RenamedFrom(renamed.iter().map(|renamed| Name::of(&renamed.former_key_alias)).collect())
        }
        Call::Together(calls) => {
            Answer::All(calls.iter().map(|call| write(txn, call)).collect::<Result<_>>()?)
        }
        Call::Resolve(_) | Call::Find(_) | Call::Look(..) => panic!("{call:?} is no write"),
    })
}

/// The refusals of the specification; anything else is no answer.
pub(crate) fn refusal(error: Error) -> Result<Refusal> {
    Ok(match error {
        Error::KeyNotFound { .. } => Refusal::KeyNotFound,
        Error::KeyIdExists(_) => Refusal::KeyIdExists,
        Error::KeyAliasExists(_) => Refusal::KeyAliasExists,
        Error::AliasNotFound { .. } => Refusal::AliasNotFound,
        Error::AliasExists(_) => Refusal::AliasExists,
        Error::AliasNotOnKey { .. } => Refusal::AliasNotOnKey,
        other => return Err(other),
    })
}

impl Key {
    pub(crate) fn id(self) -> KeyId {
        KeyId::from_bytes([self.0 + 1; 16])
    }

    pub(crate) fn of(id: KeyId) -> Self {
        Self(id.as_bytes()[0] - 1)
    }
}

impl Alias {
    pub(crate) fn text(self) -> keystead::Alias {
        format!("alias-{}", self.0).parse().unwrap()
    }

    pub(crate) fn of(alias: &keystead::Alias) -> Self {
        Self(alias.as_str().trim_start_matches("alias-").parse().unwrap())
    }
}

impl Name {
    pub(crate) fn text(self) -> keystead::KeyAlias {
        format!("name-{}", self.0).parse().unwrap()
    }

    pub(crate) fn of(name: &keystead::KeyAlias) -> Self {
        Self(name.as_str().strip_prefix("name-").unwrap().parse().unwrap())
    }
}

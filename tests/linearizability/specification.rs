//! The specification: keys with their names, and aliases on keys, one operation after the other.
//!
//! It is that of `docs/semantics.md` for keys that are neither default, frozen nor to be deleted. A quota would
//! couple all names of a project with each other, so none may be met.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::checker::Specification;

/// Keys, aliases and key aliases are numbers here: states are compared often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key(pub(crate) u8);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Alias(pub(crate) u8);
/// The key alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Name(pub(crate) u8);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    CreateKey(Key, Name, Option<Alias>),
    CreateAlias(Alias, Key),
    Associate(Alias, Key),
    DeleteAliases(Key, Vec<Alias>),
    Rename(Key, Name),
    SwapAliases(Alias, Alias),
    SwapNames(Key, Key),
    Resolve(Alias),
    Find(Name),
    /// Several look-ups at one moment.
    Look(Vec<Alias>, Vec<Name>),
    /// Several operations in one transaction: the first that is refused ends it, and nothing is done.
    Together(Vec<Call>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// The keys that the aliases were on.
    MovedFrom(Vec<Key>),
    /// The names that the keys had.
    RenamedFrom(Vec<Name>),
    Found(Key, Name),
    /// On which key each alias and each name is.
    Seen(Vec<Option<Key>>, Vec<Option<Key>>),
    All(Vec<Answer>),
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    KeyNotFound,
    KeyIdExists,
    KeyAliasExists,
    AliasNotFound,
    AliasExists,
    AliasNotOnKey,
}

/// Which name each key has, and which key each alias is on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Names {
    pub(crate) keys: BTreeMap<Key, Name>,
    pub(crate) aliases: BTreeMap<Alias, Key>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    Key(Key),
    Alias(Alias),
    Name(Name),
}

/// More states than this are not tried.
const STATES_MAX: usize = 5000;

impl Call {
    /// Whether it is asked in a snapshot.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Find(_) | Self::Look(..))
    }
}

impl Specification for Names {
    type Call = Call;
    type Answer = Answer;
    type Object = Object;

    fn run(&mut self, call: &Call) -> Answer {
        let before = self.clone();
        self.answer(call).unwrap_or_else(|refusal| {
            *self = before;
            Answer::Refused(refusal)
        })
    }

    fn changes(call: &Call, answer: &Answer) -> bool {
        match (call, answer) {
            (Call::Associate(_, to), Answer::MovedFrom(from)) => from != &[*to],
            (Call::Rename(_, to), Answer::RenamedFrom(from)) => from != &[*to],
            (_, Answer::MovedFrom(from)) => from[0] != from[1],
            (_, Answer::RenamedFrom(from)) => from[0] != from[1],
            (Call::Together(calls), Answer::All(answers)) => {
                calls.iter().zip(answers).any(|(call, answer)| Self::changes(call, answer))
            }
            (_, Answer::Done) => true,
            _ => false,
        }
    }

    fn objects(call: &Call) -> Vec<Object> {
        use Object as O;
        match call {
            Call::CreateKey(key, name, alias) => {
                [O::Key(*key), O::Name(*name)].into_iter().chain(alias.map(O::Alias)).collect()
            }
            Call::CreateAlias(alias, key) | Call::Associate(alias, key) => {
                vec![O::Alias(*alias), O::Key(*key)]
            }
            Call::DeleteAliases(key, aliases) => {
                [O::Key(*key)].into_iter().chain(aliases.iter().copied().map(O::Alias)).collect()
            }
            Call::Rename(key, name) => vec![O::Key(*key), O::Name(*name)],
            Call::SwapAliases(one, other) => vec![O::Alias(*one), O::Alias(*other)],
            Call::SwapNames(one, other) => vec![O::Key(*one), O::Key(*other)],
            Call::Resolve(alias) => vec![O::Alias(*alias)],
            Call::Find(name) => vec![O::Name(*name)],
            Call::Look(aliases, names) => {
                let aliases = aliases.iter().copied().map(O::Alias);
                aliases.chain(names.iter().copied().map(O::Name)).collect()
            }
            Call::Together(calls) => calls.iter().flat_map(Self::objects).collect(),
        }
    }

    fn bonds(&self) -> Vec<[Object; 2]> {
        let keys = self.keys.iter().map(|(key, name)| [Object::Key(*key), Object::Name(*name)]);
        let aliases = self.aliases.iter().map(|(alias, key)| [Object::Alias(*alias), Object::Key(*key)]);
        keys.chain(aliases).collect()
    }

    fn reachable<'a>(&self, calls: impl Iterator<Item = &'a Call>) -> Option<Vec<Self>> {
        let mut objects: BTreeSet<Object> = calls.flat_map(Self::objects).collect();
        // What is bound to them, and what is bound to that.
        for _ in 0..3 {
            let mut bonds = self.bonds();
            bonds.retain(|bond| bond.iter().any(|object| objects.contains(object)));
            objects.extend(bonds.into_iter().flatten());
        }
        let names: Vec<_> = objects.iter().filter_map(Object::name).collect();
        let (mut states, mut untouched) = (Vec::new(), self.clone());
        untouched.keys.retain(|key, _| !objects.contains(&Object::Key(*key)));
        untouched.aliases.retain(|alias, _| !objects.contains(&Object::Alias(*alias)));
        states.push(untouched);
        for key in objects.iter().filter_map(Object::key) {
            // No key is ever deleted.
            let missing = states.iter().filter(|_| !self.keys.contains_key(&key)).cloned();
            let named = states.iter().flat_map(|state| {
                let free = names.iter().filter(|name| !state.keys.values().any(|taken| taken == *name));
                free.map(|name| {
                    let mut state = state.clone();
                    state.keys.insert(key, *name);
                    state
                })
            });
            states = missing.chain(named).take(STATES_MAX + 1).collect();
        }
        for alias in objects.iter().filter_map(Object::alias) {
            let on_keys = states.iter().flat_map(|state| {
                state.keys.keys().filter(|key| objects.contains(&Object::Key(**key))).map(|key| {
                    let mut state = state.clone();
                    state.aliases.insert(alias, *key);
                    state
                })
            });
            states = states.iter().cloned().chain(on_keys).take(STATES_MAX + 1).collect();
        }
        (states.len() <= STATES_MAX).then_some(states)
    }
}

impl Object {
    fn key(&self) -> Option<Key> {
        if let Self::Key(key) = self { Some(*key) } else { None }
    }

    fn alias(&self) -> Option<Alias> {
        if let Self::Alias(alias) = self { Some(*alias) } else { None }
    }

    fn name(&self) -> Option<Name> {
        if let Self::Name(name) = self { Some(*name) } else { None }
    }
}

type Answered<T = Answer> = Result<T, Refusal>;

/// Each operation with its checks in the order of the contract.
impl Names {
    fn answer(&mut self, call: &Call) -> Answered {
        match call {
            Call::CreateKey(key, name, alias) => self.create_key(*key, *name, *alias),
            Call::CreateAlias(alias, key) => self.create_alias(*alias, *key),
            Call::Associate(alias, key) => {
                let former = self.key_of(*alias)?;
                self.name_of(*key)?;
                self.aliases.insert(*alias, *key);
                Ok(Answer::MovedFrom(vec![former]))
            }
            Call::DeleteAliases(key, aliases) => {
                self.name_of(*key)?;
                let on_key = |alias: &Alias| self.aliases.get(alias) == Some(key);
                if !aliases.iter().all(on_key) {
                    return Err(Refusal::AliasNotOnKey);
                }
                self.aliases.retain(|alias, _| !aliases.contains(alias));
                Ok(Answer::Done)
            }
            Call::Rename(key, name) => {
                let former = self.name_of(*key)?;
                if self.holder(*name).is_some_and(|holder| holder != *key) {
                    return Err(Refusal::KeyAliasExists);
                }
                self.keys.insert(*key, *name);
                Ok(Answer::RenamedFrom(vec![former]))
            }
            Call::SwapAliases(one, other) => {
                let keys = vec![self.key_of(*one)?, self.key_of(*other)?];
                self.aliases.extend([(*one, keys[1]), (*other, keys[0])]);
                Ok(Answer::MovedFrom(keys))
            }
            Call::SwapNames(one, other) => {
                let names = vec![self.name_of(*one)?, self.name_of(*other)?];
                self.keys.extend([(*one, names[1]), (*other, names[0])]);
                Ok(Answer::RenamedFrom(names))
            }
            Call::Resolve(alias) => {
                let key = self.key_of(*alias)?;
                Ok(Answer::Found(key, self.name_of(key)?))
            }
            Call::Find(name) => {
                let key = self.holder(*name).ok_or(Refusal::KeyNotFound)?;
                Ok(Answer::Found(key, *name))
            }
            Call::Look(aliases, names) => Ok(Answer::Seen(
                aliases.iter().map(|alias| self.aliases.get(alias).copied()).collect(),
                names.iter().map(|name| self.holder(*name)).collect(),
            )),
            Call::Together(calls) => {
                let answers: Answered<_> = calls.iter().map(|call| self.answer(call)).collect();
                answers.map(Answer::All)
            }
        }
    }

    fn create_key(&mut self, key: Key, name: Name, alias: Option<Alias>) -> Answered {
        if self.keys.contains_key(&key) {
            return Err(Refusal::KeyIdExists);
        }
        if self.holder(name).is_some() {
            return Err(Refusal::KeyAliasExists);
        }
        self.keys.insert(key, name);
        alias.map_or(Ok(Answer::Done), |alias| self.create_alias(alias, key))
    }

    fn create_alias(&mut self, alias: Alias, key: Key) -> Answered {
        self.name_of(key)?;
        if self.aliases.contains_key(&alias) {
            return Err(Refusal::AliasExists);
        }
        self.aliases.insert(alias, key);
        Ok(Answer::Done)
    }

    fn key_of(&self, alias: Alias) -> Answered<Key> {
        self.aliases.get(&alias).copied().ok_or(Refusal::AliasNotFound)
    }

    fn name_of(&self, key: Key) -> Answered<Name> {
        self.keys.get(&key).copied().ok_or(Refusal::KeyNotFound)
    }

    fn holder(&self, name: Name) -> Option<Key> {
        self.keys.iter().find(|(_, taken)| **taken == name).map(|(key, _)| *key)
    }
}

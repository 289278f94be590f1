//! The operations on names: renaming keys; creating, moving, swapping and deleting aliases.
//!
//! The order of the checks is part of the contract.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Rows, Transaction, read};
use crate::alias::{Alias, AliasRecord, InvalidAlias, KeyAlias};
use crate::change::{Images, Operation, Previous};
use crate::error::{Error, Result};
use crate::format::{
    RecordId, Space, corrupted, decode_claim, encode_alias, encode_alias_names, encode_claim,
};
use crate::id::{Commit, KeyId};
use crate::key::KeyRecord;
use crate::policy::AliasScope;
use crate::rules;

/// The most aliases that one call deletes.
const DELETED_AT_ONCE_MAX: usize = 50;

/// What renaming a key did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Renamed {
    /// The key, as it is now.
    pub key: Arc<KeyRecord>,
    /// The name it had before.
    pub former_key_alias: KeyAlias,
    /// The version it had before.
    pub former_version: Commit,
    /// Whether anything changed: not if the key had this name already.
    pub changed: bool,
}

/// What moving an alias did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Moved {
    /// The alias, as it is now.
    pub alias: Arc<AliasRecord>,
    /// The key that it named before.
    pub former_key_id: KeyId,
    /// The version it had before.
    pub former_version: Commit,
    /// Whether anything changed: not if the alias named this key already.
    pub changed: bool,
}

/// Keys' own names.
impl Transaction<'_> {
    /// Renames a key: in one commit the old name is freed and the new one taken.
    /// (update-key-alias)
    ///
    /// A key that has this name already is left as it is. A key pending deletion keeps its name until
    /// it is purged, so its name is taken.
    ///
    /// # Errors
    ///
    /// In this order: [`InvalidAlias`](Error::InvalidAlias) for a reserved name,
    /// [`KeyNotFound`](Error::KeyNotFound), [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`KeyAliasExists`](Error::KeyAliasExists).
    pub fn rename_key_alias(&mut self, key_id: KeyId, new: &KeyAlias) -> Result<Renamed> {
        self.operation(Operation::RenameKeyAlias, |txn| {
            if new.is_reserved() {
                return Err(InvalidAlias::Reserved.into());
            }
            let before = txn.key(key_id)?;
            rules::changeable(&[&before])?;
            if before.key_alias != *new {
                txn.key_alias_must_be_free(new)?;
            }
            let after = KeyRecord { key_alias: new.clone(), ..(*before).clone() };
            let key = txn.replace_key(&before, after)?;
            Ok(renamed(&before, key))
        })
    }

    /// Exchanges the names of two keys in one commit; the same key twice is left as it is.
    ///
    /// # Errors
    ///
    /// Those of [`rename_key_alias`](Self::rename_key_alias), each check made on both keys before
    /// the next.
    pub fn swap_key_aliases(&mut self, one: KeyId, other: KeyId) -> Result<[Renamed; 2]> {
        self.operation(Operation::SwapKeyAliases, |txn| {
            let (first, second) = (txn.key(one)?, txn.key(other)?);
            rules::changeable(&[&first, &second])?;
            if one == other {
                return Ok([renamed(&first, Arc::clone(&first)), renamed(&second, Arc::clone(&second))]);
            }
            let with_name = |key: &KeyRecord, of: &KeyRecord| KeyRecord {
                key_alias: of.key_alias.clone(),
                ..key.clone()
            };
            let keys = [
                txn.retire(&first, with_name(&first, &second))?,
                txn.retire(&second, with_name(&second, &first))?,
            ];
            [&first, &second]
                .into_iter()
                .zip(&keys)
                .try_for_each(|(before, key)| txn.install(before, key))?;
            let [one, other] = keys;
            Ok([renamed(&first, one), renamed(&second, other)])
        })
    }

    pub(super) fn key_alias_must_be_free(&self, key_alias: &KeyAlias) -> Result<()> {
        match read::key_id_of(self, key_alias)? {
            Some(_) => Err(Error::KeyAliasExists(key_alias.clone())),
            None => Ok(()),
        }
    }
}

fn renamed(before: &KeyRecord, key: Arc<KeyRecord>) -> Renamed {
    Renamed {
        changed: before.key_alias != key.key_alias,
        key,
        former_key_alias: before.key_alias.clone(),
        former_version: before.version,
    }
}

/// Aliases.
impl Transaction<'_> {
    /// Gives a key one more alias. (create-alias)
    ///
    /// # Errors
    ///
    /// In this order: [`KeyNotFound`](Error::KeyNotFound),
    /// [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`AliasExists`](Error::AliasExists), also if it is on this key or differs only by a leading
    /// `alias/`, [`QuotaExceeded`](Error::QuotaExceeded).
    pub fn create_alias(&mut self, alias: &Alias, key_id: KeyId) -> Result<Arc<AliasRecord>> {
        self.operation(Operation::CreateAlias, |txn| {
            let key = txn.key(key_id)?;
            rules::changeable(&[&key])?;
            txn.add_alias(alias, &key)
        })
    }

    /// Gives a key that may be changed one more alias.
    pub(super) fn add_alias(&mut self, alias: &Alias, key: &KeyRecord) -> Result<Arc<AliasRecord>> {
        self.alias_must_be_free(alias)?;
        let names = read::alias_names(self, key.key_id)?;
        rules::alias_quota(names.len(), &self.place.policy.quotas)?;
        let (previous, created_at) = self.rise(&RecordId::Alias(alias.urn_name().to_owned()))?;
        let record = Arc::new(AliasRecord {
            alias: alias.clone(),
            key_id: key.key_id,
            domain_id: key.domain_id.clone(),
            project_id: key.project_id.clone(),
            created_at,
            updated_at: created_at,
            version: self.staging.next_commit(),
        });
        self.link(&record, names)?;
        self.note(Images::Alias { before: None, after: Some(Arc::clone(&record)) }, previous)?;
        Ok(record)
    }

    /// Moves an alias to another key, in one commit. (associate-alias)
    ///
    /// The key that has it may be in any state, so that names can be moved away from a dying key; the
    /// target may be disabled. If the target has it already, nothing changes.
    ///
    /// # Errors
    ///
    /// In this order: [`AliasNotFound`](Error::AliasNotFound), [`KeyNotFound`](Error::KeyNotFound),
    /// [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`IncompatibleKey`](Error::IncompatibleKey), [`QuotaExceeded`](Error::QuotaExceeded).
    pub fn associate_alias(&mut self, alias: &Alias, target: KeyId) -> Result<Moved> {
        self.operation(Operation::AssociateAlias, |txn| {
            let before = txn.alias(alias)?;
            let to = txn.key(target)?;
            rules::changeable(&[&to])?;
            let from = txn.key_of_alias(&before)?;
            rules::compatible(txn.place.policy.compatibility, &from, &to)?;
            if before.key_id != target {
                let held = read::alias_names(txn, target)?.len();
                rules::alias_quota(held, &txn.place.policy.quotas)?;
            }
            let moved = txn.take_away(before, target)?;
            txn.put_there(&moved)?;
            Ok(moved)
        })
    }

    /// Exchanges the keys of two aliases in one commit; if both are on one key, nothing changes.
    ///
    /// # Errors
    ///
    /// In this order, each check made on both before the next:
    /// [`AliasNotFound`](Error::AliasNotFound), [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`IncompatibleKey`](Error::IncompatibleKey).
    pub fn swap_aliases(&mut self, one: &Alias, other: &Alias) -> Result<[Moved; 2]> {
        self.operation(Operation::SwapAliases, |txn| {
            let (first, second) = (txn.alias(one)?, txn.alias(other)?);
            let (first_key, second_key) = (txn.key_of_alias(&first)?, txn.key_of_alias(&second)?);
            rules::changeable(&[&first_key, &second_key])?;
            rules::compatible(txn.place.policy.compatibility, &first_key, &second_key)?;
            let moved = [txn.take_away(first, second_key.key_id)?, txn.take_away(second, first_key.key_id)?];
            moved.iter().try_for_each(|moved| txn.put_there(moved))?;
            Ok(moved)
        })
    }

    /// Takes 1 to 50 aliases from a key, all of them or none. The key may be in any state.
    /// (delete-alias)
    ///
    /// # Errors
    ///
    /// In this order: [`InvalidAliasList`](Error::InvalidAliasList),
    /// [`KeyNotFound`](Error::KeyNotFound), [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`AliasNotOnKey`](Error::AliasNotOnKey) for the first that is not there.
    pub fn delete_aliases(&mut self, key_id: KeyId, aliases: &[Alias]) -> Result<()> {
        self.operation(Operation::DeleteAliases, |txn| {
            let distinct: BTreeSet<_> = aliases.iter().collect();
            if distinct.len() != aliases.len() || !(1..=DELETED_AT_ONCE_MAX).contains(&aliases.len()) {
                return Err(Error::InvalidAliasList);
            }
            let key = txn.key(key_id)?;
            rules::not_default(&key)?;
            let held = read::alias_names(txn, key_id)?;
            match aliases.iter().find(|alias| !held.contains(alias)) {
                Some(alias) => Err(Error::AliasNotOnKey { alias: alias.clone(), key_id }),
                None => {
                    let aliases =
                        aliases.iter().map(|name| txn.alias_on(key_id, name)).collect::<Result<_>>()?;
                    txn.delete_linked(key_id, aliases)
                }
            }
        })
    }

    fn alias_must_be_free(&self, alias: &Alias) -> Result<()> {
        let taken = match self.place.policy.alias_scope {
            AliasScope::Project => read::alias_by_urn_name(self, alias.urn_name())?.is_some(),
            AliasScope::Domain => {
                let row = self.domain_space().claim(alias.urn_name());
                self.read(&row, |stored| decode_claim(&row, stored.bytes))?.is_some()
            }
        };
        if taken { Err(Error::AliasExists(alias.clone())) } else { Ok(()) }
    }

    pub(super) fn key_of_alias(&self, record: &AliasRecord) -> Result<Arc<KeyRecord>> {
        read::named_key(self, record.key_id, &self.place.space.alias(record.alias.urn_name()))
    }

    /// The first half of moving an alias: its key loses it. Between the halves others may be moved, so
    /// that two keys can exchange aliases. One that is on its target already stays as it is.
    pub(super) fn take_away(&mut self, before: Arc<AliasRecord>, target: KeyId) -> Result<Moved> {
        let (former_key_id, former_version) = (before.key_id, before.version);
        if former_key_id == target {
            return Ok(Moved { alias: before, former_key_id, former_version, changed: false });
        }
        let previous = Some(Previous::from(&*before));
        self.unlink(former_key_id, std::slice::from_ref(&before))?;
        let alias = Arc::new(AliasRecord {
            key_id: target,
            updated_at: self.change_time(previous),
            version: self.staging.next_commit(),
            ..(*before).clone()
        });
        let images = Images::Alias { before: Some(before), after: Some(Arc::clone(&alias)) };
        self.note(images, previous)?;
        Ok(Moved { alias, former_key_id, former_version, changed: true })
    }

    /// The second half: the target gets it.
    pub(super) fn put_there(&mut self, moved: &Moved) -> Result<()> {
        if !moved.changed {
            return Ok(());
        }
        let names = read::alias_names(self, moved.alias.key_id)?;
        self.link(&moved.alias, names)
    }

    /// The record of an alias that a key lists.
    pub(super) fn alias_on(&self, key_id: KeyId, name: &Alias) -> Result<Arc<AliasRecord>> {
        let found = read::find_alias(self, name)?.filter(|alias| alias.key_id == key_id);
        let row = self.place.space.alias(name.urn_name());
        let missing = || self.staging.fail(corrupted(&row, "the key lists this alias, which it has not"));
        found.map(Arc::new).ok_or_else(missing)
    }

    /// Deletes aliases of a key.
    pub(super) fn delete_linked(&mut self, key_id: KeyId, aliases: Vec<Arc<AliasRecord>>) -> Result<()> {
        self.unlink(key_id, &aliases)?;
        for alias in aliases {
            let previous = Previous::from(&*alias);
            self.bury(&RecordId::Alias(alias.alias.urn_name().to_owned()), previous)?;
            self.note(Images::Alias { before: Some(alias), after: None }, Some(previous))?;
        }
        Ok(())
    }
}

/// The only functions that write an alias's row, its claim, or the row of a key's aliases.
impl Transaction<'_> {
    /// Makes an alias name the key that its record says, which has these so far.
    pub(super) fn link(&mut self, record: &AliasRecord, mut names: Vec<Alias>) -> Result<()> {
        let urn_name = record.alias.urn_name();
        self.put(self.place.space.alias(urn_name), encode_alias(record))?;
        if self.place.policy.alias_scope == AliasScope::Domain {
            self.put(self.domain_space().claim(urn_name), encode_claim(&record.project_id))?;
        }
        if let Err(place) = names.binary_search(&record.alias) {
            names.insert(place, record.alias.clone());
        }
        self.put(self.place.space.aliases_of_key(record.key_id), encode_alias_names(&names))
    }

    /// Takes aliases from the key that has them.
    pub(super) fn unlink(&mut self, key_id: KeyId, aliases: &[Arc<AliasRecord>]) -> Result<()> {
        if aliases.is_empty() {
            return Ok(());
        }
        let mut names = read::alias_names(self, key_id)?;
        names.retain(|name| !aliases.iter().any(|alias| alias.alias == *name));
        for alias in aliases {
            let urn_name = alias.alias.urn_name();
            self.delete(self.place.space.alias(urn_name))?;
            if self.place.policy.alias_scope == AliasScope::Domain {
                self.delete(self.domain_space().claim(urn_name))?;
            }
        }
        let row = self.place.space.aliases_of_key(key_id);
        if names.is_empty() { self.delete(row) } else { self.put(row, encode_alias_names(&names)) }
    }

    fn domain_space(&self) -> Space {
        Space::of_domain(self.place.scope.domain())
    }
}

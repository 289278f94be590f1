//! Undoing a commit.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{floor, must_have_history};
use super::{Rows, Transaction, read};
use crate::alias::{Alias, KeyAlias};
use crate::change::{Images, Operation};
use crate::error::{Actual, Error, Result};
use crate::format::decode_log_entry;
use crate::id::{Commit, KeyId};
use crate::key::KeyRecord;
use crate::rules;

/// What a commit did to a record, from its first change to its last.
struct Way<T> {
    from: T,
    to: T,
}

impl<T: Clone> From<T> for Way<T> {
    fn from(from: T) -> Self {
        Self { to: from.clone(), from }
    }
}

/// Where the records are to go back to; what is there already has no way to go.
fn ways_back<K: Ord, T: PartialEq>(ways: BTreeMap<K, Way<T>>) -> BTreeMap<K, T> {
    let moved = ways.into_iter().filter(|(_, way)| way.from != way.to);
    moved.map(|(record, way)| (record, way.from)).collect()
}

/// Whether what is in the place of a record is what the commit made of it.
fn must_be_of(commit: Commit, actual: Option<Actual>, is_it: bool) -> Result<()> {
    match actual {
        Some(Actual { version, .. }) if is_it && version == commit => Ok(()),
        _ => Err(Error::PreconditionFailed { actual }),
    }
}

/// Undoing.
impl Transaction<'_> {
    /// Undoes a commit that only moved aliases and renamed keys: each alias returns to the key, each
    /// key to the name, that it had before. All at once, under the rules for moving and renaming.
    ///
    /// What the commit itself had brought back to where it was is left alone, and nothing of it is checked.
    /// Keys come first, by their ids, then aliases, in the [order of lists](Alias): so they are checked, and so
    /// the changes are told.
    ///
    /// # Errors
    ///
    /// In this order: [`HistoryDisabled`](Error::HistoryDisabled),
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`CommitNotFound`](Error::CommitNotFound) if the scope
    /// has no such commit or it changed no record, [`NotRevertible`](Error::NotRevertible),
    /// [`PreconditionFailed`](Error::PreconditionFailed) if one of the records is no longer what that
    /// commit made of it, for the first such record, with what is there in its place (in that of an alias also the
    /// one of the other spelling, `x` or `alias/x`), then those of [`rename_key_alias`](Self::rename_key_alias) and
    /// [`associate_alias`](Self::associate_alias).
    pub fn revert(&mut self, commit: Commit) -> Result<()> {
        self.operation(Operation::Revert, |txn| {
            must_have_history(txn)?;
            let floor = floor(txn)?;
            if commit <= floor.commit && commit != Commit::default() {
                return Err(Error::HistoryTrimmed { floor: floor.commit });
            }
            let bytes = txn.log_bytes(commit)?.ok_or(Error::CommitNotFound(commit))?;
            let entry = decode_log_entry(commit, &bytes).map_err(|error| txn.staging.fail(error))?;
            if entry.info.scope != *txn.place.scope {
                return Err(Error::CommitNotFound(commit));
            }
            if !entry.changes.iter().all(|change| change.operation.is_revertible()) {
                return Err(Error::NotRevertible(commit));
            }
            let (mut keys, mut aliases) = (BTreeMap::new(), BTreeMap::new());
            for change in &entry.changes {
                // The first change of a record in the commit knows what was before all of them, the last what
                // they came to.
                match &change.images {
                    Images::Key { before: Some(before), after: Some(after) } => {
                        let Way { to, .. } =
                            keys.entry(before.key_id).or_insert_with(|| Way::from(before.key_alias.clone()));
                        to.clone_from(&after.key_alias);
                    }
                    Images::Alias { before: Some(before), after: Some(after) } => {
                        let name = before.alias.clone();
                        aliases.entry(name).or_insert_with(|| Way::from(before.key_id)).to = after.key_id;
                    }
                    _ => return Err(Error::NotRevertible(commit)),
                }
            }
            let (keys, aliases) = (ways_back(keys), ways_back(aliases));
            for key_id in keys.keys() {
                let present = read::find_key(txn, *key_id)?;
                let actual = present.map(|key| Actual { target: *key_id, version: key.version });
                must_be_of(commit, actual, true)?;
            }
            for alias in aliases.keys() {
                // In the place of an alias there may be one of the other spelling.
                let present = read::alias_by_urn_name(txn, alias.urn_name())?;
                let is_it = present.as_ref().is_some_and(|present| present.alias == *alias);
                let actual = present.map(|alias| Actual { target: alias.key_id, version: alias.version });
                must_be_of(commit, actual, is_it)?;
            }
            txn.rename_all(keys)?;
            txn.associate_all(aliases)
        })
    }

    /// Renames keys at once; a name that one of them gives up is free for another.
    fn rename_all(&mut self, names: BTreeMap<KeyId, KeyAlias>) -> Result<()> {
        let keys = names.keys().map(|key_id| self.key(*key_id)).collect::<Result<Vec<_>>>()?;
        rules::changeable(&keys.iter().map(|key| &**key).collect::<Vec<_>>())?;
        let mut changes = Vec::new();
        for (before, (_, name)) in keys.into_iter().zip(&names) {
            match read::key_id_of(self, name)? {
                Some(holder) if !names.contains_key(&holder) => {
                    return Err(Error::KeyAliasExists(name.clone()));
                }
                _ => {}
            }
            let after = KeyRecord { key_alias: name.clone(), ..(*before).clone() };
            changes.push((before, after));
        }
        let mut renamed = Vec::new();
        for (before, after) in changes {
            let after = self.retire(&before, after)?;
            renamed.push((before, after));
        }
        renamed.iter().try_for_each(|(before, after)| self.install(before, after))
    }

    /// Moves aliases at once; what leaves a key makes room for what comes.
    fn associate_all(&mut self, targets: BTreeMap<Alias, KeyId>) -> Result<()> {
        let mut moves = Vec::new();
        for (alias, target) in &targets {
            let before = self.alias(alias)?;
            let to = self.key(*target)?;
            rules::changeable(&[&to])?;
            rules::compatible(self.place.policy.compatibility, &*self.key_of_alias(&before)?, &to)?;
            moves.push((before, *target));
        }
        for target in targets.values().collect::<BTreeSet<_>>() {
            let leaving = moves.iter().filter(|(before, _)| before.key_id == *target).count();
            let coming = moves.iter().filter(|(_, to)| to == target).count();
            let held = (read::alias_names(self, *target)?.len() + coming).saturating_sub(leaving);
            if coming > leaving {
                rules::alias_quota(held - 1, &self.place.policy.quotas)?;
            }
        }
        let mut moved = Vec::new();
        for (before, target) in moves {
            moved.push(self.take_away(before, target)?);
        }
        moved.iter().try_for_each(|moved| self.put_there(moved))
    }
}

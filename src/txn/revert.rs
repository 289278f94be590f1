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

/// Undoing.
impl Transaction<'_> {
    /// Undoes a commit that only moved aliases and renamed keys: each alias returns to the key, each
    /// key to the name, that it had before. All at once, under the rules for moving and renaming.
    ///
    /// # Errors
    ///
    /// In this order: [`HistoryDisabled`](Error::HistoryDisabled),
    /// [`HistoryTrimmed`](Error::HistoryTrimmed), [`CommitNotFound`](Error::CommitNotFound) if the scope
    /// has no such commit or it changed no record, [`NotRevertible`](Error::NotRevertible),
    /// [`PreconditionFailed`](Error::PreconditionFailed) if one of the records is no longer what that
    /// commit made of it, then those of [`rename_key_alias`](Self::rename_key_alias) and
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
                // The first change of a record in the commit knows what was before all of them.
                match &change.images {
                    Images::Key { before: Some(before), .. } => {
                        keys.entry(before.key_id).or_insert_with(|| before.key_alias.clone());
                    }
                    Images::Alias { before: Some(before), .. } => {
                        aliases.entry(before.alias.clone()).or_insert(before.key_id);
                    }
                    _ => return Err(Error::NotRevertible(commit)),
                }
            }
            for key_id in keys.keys() {
                txn.must_be_of(commit, read::find_key(txn, *key_id)?.map(|key| (*key_id, key.version)))?;
            }
            for alias in aliases.keys() {
                let present = read::find_alias(txn, alias)?;
                txn.must_be_of(commit, present.map(|alias| (alias.key_id, alias.version)))?;
            }
            txn.rename_all(keys)?;
            txn.associate_all(aliases)
        })
    }

    fn must_be_of(&self, commit: Commit, present: Option<(KeyId, Commit)>) -> Result<()> {
        let actual = present.map(|(target, version)| Actual { target, version });
        match actual {
            Some(Actual { version, .. }) if version == commit => Ok(()),
            _ => Err(Error::PreconditionFailed { actual }),
        }
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

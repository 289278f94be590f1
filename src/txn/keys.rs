//! The operations on keys: creating, describing, tagging, rotating, and everything that moves a key
//! from one state to another, up to its purge.

use std::sync::Arc;

use super::{Rows, Transaction, read};
use crate::change::{Images, Operation, Previous};
use crate::error::{Error, Result};
use crate::format::{Counts, RecordId, Table, corrupted, encode_counts, encode_key};
use crate::id::KeyId;
use crate::key::{Description, KeyRecord, NewKey, TagKey, Tags};
use crate::rules;
use crate::time::{PendingDays, RotationInterval, Timestamp};

/// Creating keys.
impl Transaction<'_> {
    /// Makes a key, with its aliases, or nothing at all. (create-key)
    ///
    /// # Errors
    ///
    /// In this order: [`InvalidAlias`](Error::InvalidAlias) for a reserved name,
    /// [`TooManyTags`](Error::TooManyTags), [`InvalidKeySpec`](Error::InvalidKeySpec),
    /// [`KeyIdExists`](Error::KeyIdExists), [`KeyAliasExists`](Error::KeyAliasExists),
    /// [`QuotaExceeded`](Error::QuotaExceeded), then those of
    /// [`create_alias`](Self::create_alias) for each alias.
    pub fn create_key(&mut self, new: &NewKey) -> Result<Arc<KeyRecord>> {
        self.operation(Operation::CreateKey, |txn| {
            let record = rules::create(new, txn.scope(), &txn.place.policy.quotas, txn.now)?;
            txn.must_be_free(&record)?;
            let counts = read::counts(txn)?;
            rules::key_quota(counts.keys, &txn.place.policy.quotas)?;
            let key = txn.add_key(record, counts)?;
            for alias in &new.aliases {
                txn.add_alias(alias, &key)?;
            }
            Ok(key)
        })
    }

    /// The default key of that name, made now if it is not there yet. For the platform; such a key
    /// counts against no quota and never changes. Make `new` by [`NewKey::default_of`].
    ///
    /// # Errors
    ///
    /// [`InvalidAlias`](Error::InvalidAlias) if the name does not end in `/default`,
    /// [`DefaultKeyImmutable`](Error::DefaultKeyImmutable) if it is to have aliases or external
    /// material, and those of [`create_key`](Self::create_key).
    pub fn ensure_default_key(&mut self, new: &NewKey) -> Result<Arc<KeyRecord>> {
        self.operation(Operation::EnsureDefaultKey, |txn| {
            let record = rules::create_default(new, txn.scope(), &txn.place.policy.quotas, txn.now)?;
            match txn.find_by_key_alias(&new.key_alias) {
                Err(Error::KeyNotFound { .. }) => {}
                found_or_failed => return found_or_failed,
            }
            txn.must_be_free(&record)?;
            let counts = read::counts(txn)?;
            txn.add_key(record, counts)
        })
    }

    fn must_be_free(&self, record: &KeyRecord) -> Result<()> {
        if read::find_key(self, record.key_id)?.is_some() {
            return Err(Error::KeyIdExists(record.key_id));
        }
        self.key_alias_must_be_free(&record.key_alias)
    }
}

/// Changing what a key says of itself.
impl Transaction<'_> {
    /// Gives a key another description. (update-key-description)
    ///
    /// # Errors
    ///
    /// As all changes of a key, in this order: [`KeyNotFound`](Error::KeyNotFound),
    /// [`DefaultKeyImmutable`](Error::DefaultKeyImmutable),
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen).
    pub fn update_description(&mut self, key_id: KeyId, description: &Description) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::UpdateDescription, key_id, |key, _| rules::describe(key, description))
    }

    /// Adds tags to a key, or changes the values of those it has.
    ///
    /// # Errors
    ///
    /// Those of [`update_description`](Self::update_description), then
    /// [`TooManyTags`](Error::TooManyTags).
    pub fn set_tags(&mut self, key_id: KeyId, tags: &Tags) -> Result<Arc<KeyRecord>> {
        let quotas = self.place.policy.quotas;
        self.change_key(Operation::SetTags, key_id, |key, _| rules::set_tags(key, tags, &quotas))
    }

    /// Takes tags from a key, all of them or none.
    ///
    /// # Errors
    ///
    /// Those of [`update_description`](Self::update_description), then
    /// [`DuplicateTag`](Error::DuplicateTag) for the first that is named a second time,
    /// [`TagNotFound`](Error::TagNotFound) for the first that it has not.
    pub fn remove_tags(&mut self, key_id: KeyId, tags: &[TagKey]) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::RemoveTags, key_id, |key, _| rules::remove_tags(key, tags))
    }

    /// Switches rotation on. (enable-key-rotation)
    ///
    /// # Errors
    ///
    /// Those of [`update_description`](Self::update_description), then
    /// [`KeyDisabled`](Error::KeyDisabled), [`ExternalKeyNotRotatable`](Error::ExternalKeyNotRotatable),
    /// [`AsymmetricNotRotatable`](Error::AsymmetricNotRotatable),
    /// [`RotationNotDisabled`](Error::RotationNotDisabled).
    pub fn enable_rotation(&mut self, key_id: KeyId, interval: RotationInterval) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::EnableRotation, key_id, |key, _| rules::enable_rotation(key, interval))
    }

    /// Switches rotation off. (disable-key-rotation)
    ///
    /// # Errors
    ///
    /// Those of [`enable_rotation`](Self::enable_rotation), with
    /// [`RotationNotEnabled`](Error::RotationNotEnabled) in the last place.
    pub fn disable_rotation(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::DisableRotation, key_id, |key, _| rules::disable_rotation(key))
    }

    /// Changes the interval of rotation. (update-key-rotation-interval)
    ///
    /// # Errors
    ///
    /// Those of [`disable_rotation`](Self::disable_rotation).
    pub fn set_rotation_interval(
        &mut self,
        key_id: KeyId,
        interval: RotationInterval,
    ) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::SetRotationInterval, key_id, |key, _| {
            rules::set_rotation_interval(key, interval)
        })
    }

    /// Notes that the platform rotated a key: `last_rotated_at` becomes the time of this change, which is
    /// that of the request, or the record's former `updated_at` if that is later.
    ///
    /// # Errors
    ///
    /// Those of [`disable_rotation`](Self::disable_rotation).
    pub fn record_rotation(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::RecordRotation, key_id, rules::record_rotation)
    }
}

/// Moving a key from state to state. Every one of these begins with
/// [`KeyNotFound`](Error::KeyNotFound) and [`DefaultKeyImmutable`](Error::DefaultKeyImmutable).
impl Transaction<'_> {
    /// Enables a disabled key. (enable-key)
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`KeyNotDisabled`](Error::KeyNotDisabled).
    pub fn enable(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::Enable, key_id, |key, _| rules::enable(key))
    }

    /// Disables an enabled key. (disable-key)
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`KeyNotEnabled`](Error::KeyNotEnabled).
    pub fn disable(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::Disable, key_id, |key, _| rules::disable(key))
    }

    /// Plans the deletion of a key, so many days of 24 hours after the request, or after the record's
    /// former `updated_at` if that is later. Until then it keeps its names. (schedule-key-deletion)
    ///
    /// # Errors
    ///
    /// [`KeyFrozen`](Error::KeyFrozen), [`AlreadyPendingDeletion`](Error::AlreadyPendingDeletion).
    pub fn schedule_deletion(&mut self, key_id: KeyId, days: PendingDays) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::ScheduleDeletion, key_id, |key, now| {
            rules::schedule_deletion(key, now, days)
        })
    }

    /// Cancels the planned deletion of a key, which is disabled then, or pending import if its
    /// material is not there or has expired at the time of the request. (cancel-key-deletion)
    ///
    /// # Errors
    ///
    /// [`KeyFrozen`](Error::KeyFrozen), [`NotPendingDeletion`](Error::NotPendingDeletion).
    pub fn cancel_deletion(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::CancelDeletion, key_id, rules::cancel_deletion)
    }

    /// Erases a key pending deletion with its aliases and every index row, if it is due at the time
    /// of the request. Returns whether it was; a key that is not due is left alone.
    ///
    /// # Errors
    ///
    /// [`KeyFrozen`](Error::KeyFrozen), [`NotPendingDeletion`](Error::NotPendingDeletion).
    pub fn purge(&mut self, key_id: KeyId) -> Result<bool> {
        self.operation(Operation::Purge, |txn| {
            let key = txn.key(key_id)?;
            let due = rules::is_due(&key, txn.now)?;
            if due {
                txn.erase_key(&key)?;
            }
            Ok(due)
        })
    }

    /// Stops a key, for the platform.
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen).
    pub fn freeze(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::Freeze, key_id, |key, _| rules::freeze(key))
    }

    /// Returns a frozen key to what it was, for the platform. A key that is not frozen stays as it is.
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion).
    pub fn unfreeze(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::Unfreeze, key_id, |key, _| rules::unfreeze(key))
    }

    /// Notes that the material of an external key was imported; the key is enabled then. If it expires,
    /// then after the time of the request. (import-key-material)
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`ExternalKeyRequired`](Error::ExternalKeyRequired), [`NotPendingImport`](Error::NotPendingImport),
    /// [`InvalidExpiry`](Error::InvalidExpiry).
    pub fn material_imported(
        &mut self,
        key_id: KeyId,
        expires_at: Option<Timestamp>,
    ) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::MaterialImported, key_id, |key, now| {
            rules::material_imported(key, now, expires_at)
        })
    }

    /// Notes that the material of an external key was deleted; the key is pending import then.
    /// (delete-imported-key-material)
    ///
    /// # Errors
    ///
    /// [`PendingDeletion`](Error::PendingDeletion), [`KeyFrozen`](Error::KeyFrozen),
    /// [`ExternalKeyRequired`](Error::ExternalKeyRequired),
    /// [`MaterialNotDeletable`](Error::MaterialNotDeletable).
    pub fn material_deleted(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::MaterialDeleted, key_id, |key, _| rules::material_deleted(key))
    }

    /// As [`material_deleted`](Self::material_deleted), if the material has expired at the time of
    /// the request; otherwise the key is left alone.
    ///
    /// # Errors
    ///
    /// Those of [`material_deleted`](Self::material_deleted).
    pub fn material_expired(&mut self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
        self.change_key(Operation::MaterialExpired, key_id, rules::material_expired)
    }
}

/// The only functions that write a key's row, its index rows, or the count of keys.
impl Transaction<'_> {
    fn change_key(
        &mut self,
        operation: Operation,
        key_id: KeyId,
        rule: impl FnOnce(&KeyRecord, Timestamp) -> Result<KeyRecord>,
    ) -> Result<Arc<KeyRecord>> {
        self.operation(operation, |txn| {
            let before = txn.key(key_id)?;
            let after = rule(&before, txn.now)?;
            txn.replace_key(&before, after)
        })
    }

    /// Writes what a key has become. A record that is as it was is not written.
    pub(super) fn replace_key(
        &mut self,
        before: &Arc<KeyRecord>,
        after: KeyRecord,
    ) -> Result<Arc<KeyRecord>> {
        let after = self.retire(before, after)?;
        self.install(before, &after)?;
        Ok(after)
    }

    /// The first half of replacing a record: its index rows that are no longer called for go. Between the
    /// halves others may be retired, so that two keys can exchange an index row.
    pub(super) fn retire(&mut self, before: &Arc<KeyRecord>, mut after: KeyRecord) -> Result<Arc<KeyRecord>> {
        if **before == after {
            return Ok(Arc::clone(before));
        }
        let previous = Some(Previous::from(&**before));
        after.updated_at = self.change_time(previous);
        after.version = self.staging.next_commit();
        let present = self.place.space.index_rows(&after);
        for index_row in self.place.space.index_rows(before) {
            if !present.contains(&index_row) {
                self.delete(index_row.0)?;
            }
        }
        let after = Arc::new(after);
        self.note(
            Images::Key { before: Some(Arc::clone(before)), after: Some(Arc::clone(&after)) },
            previous,
        )?;
        Ok(after)
    }

    /// The second half: the record, and its index rows that were not there.
    pub(super) fn install(&mut self, before: &Arc<KeyRecord>, after: &Arc<KeyRecord>) -> Result<()> {
        if before == after {
            return Ok(());
        }
        let former = self.place.space.index_rows(before);
        for index_row in self.place.space.index_rows(after) {
            if !former.contains(&index_row) {
                self.put(index_row.0, index_row.1)?;
            }
        }
        self.put(self.place.space.key(after.key_id), encode_key(after))
    }

    fn add_key(&mut self, mut record: KeyRecord, counts: Counts) -> Result<Arc<KeyRecord>> {
        let (previous, created_at) = self.rise(&RecordId::Key(record.key_id))?;
        (record.created_at, record.updated_at) = (created_at, created_at);
        record.version = self.staging.next_commit();
        self.put_new_key(&record, counts)?;
        let record = Arc::new(record);
        self.note(Images::Key { before: None, after: Some(Arc::clone(&record)) }, previous)?;
        Ok(record)
    }

    /// The rows of a key that was not there.
    pub(super) fn put_new_key(&mut self, record: &KeyRecord, counts: Counts) -> Result<()> {
        self.put(self.place.space.key(record.key_id), encode_key(record))?;
        for (row, value) in self.place.space.index_rows(record) {
            self.put(row, value)?;
        }
        let counts = match record.default {
            true => Counts { default_keys: counts.default_keys + 1, ..counts },
            false => Counts { keys: counts.keys + 1, ..counts },
        };
        self.put(self.place.space.counts(), encode_counts(counts))
    }

    /// Takes away a key if it is there, for the removal of its whole scope.
    pub(crate) fn remove(&mut self, key_id: KeyId) -> Result<()> {
        self.operation(Operation::RemoveScope, |txn| match read::find_key(txn, key_id)? {
            Some(key) => txn.erase_key(&key),
            None => Ok(()),
        })
    }

    /// Takes away a key, whatever it is, with its aliases and every index row.
    fn erase_key(&mut self, key: &KeyRecord) -> Result<()> {
        let names = read::alias_names(self, key.key_id)?;
        let aliases = names.iter().map(|name| self.alias_on(key.key_id, name)).collect::<Result<Vec<_>>>()?;
        self.delete_linked(key.key_id, aliases)?;
        self.delete_key_rows(key)?;
        let previous = Previous::from(key);
        self.bury(&RecordId::Key(key.key_id), previous)?;
        self.note(Images::Key { before: Some(Arc::new(key.clone())), after: None }, Some(previous))
    }

    /// The rows of a key that has no aliases any more.
    pub(super) fn delete_key_rows(&mut self, key: &KeyRecord) -> Result<()> {
        self.delete(self.place.space.key(key.key_id))?;
        for (row, _) in self.place.space.index_rows(key) {
            self.delete(row)?;
        }
        let counts = read::counts(self)?;
        let less = |count: u64| count.checked_sub(1).ok_or_else(|| self.counted_wrong());
        let counts = match key.default {
            true => Counts { default_keys: less(counts.default_keys)?, ..counts },
            false => Counts { keys: less(counts.keys)?, ..counts },
        };
        let row = self.place.space.counts();
        if counts == Counts::default() { self.delete(row) } else { self.put(row, encode_counts(counts)) }
    }

    fn counted_wrong(&self) -> Error {
        let row = self.place().space.table(Table::Counts);
        self.staging.fail(corrupted(&row, "the project has fewer keys than there are"))
    }
}

//! Carrying a change over from the log: the rows that the operation wrote, by the functions that write them.

use std::sync::Arc;

use super::{Place, Rows, Staging, Transaction, read};
use crate::alias::AliasRecord;
use crate::change::{Change, CommitInfo, Images};
use crate::engine::{Batch, RowSource};
use crate::error::{Error, Result};
use crate::format::{RecordId, Space, corrupted, log_place};
use crate::key::KeyRecord;
use crate::policy::Policy;

/// What a change wrote, on what is there before it. The commit of the change's info rebuilds it.
///
/// # Errors
///
/// `Corrupted` if what is there is not what was there before the change.
pub(crate) fn replay(
    rows: &dyn RowSource,
    policy: &Policy,
    info: &CommitInfo,
    change: &Change,
) -> Result<Batch> {
    let place = Place::new(&info.scope, policy);
    let mut txn = Transaction::new(Staging::new(rows, info.commit), place, info.time);
    let record = RecordId::of(&change.images);
    match &change.images {
        Images::Key { before, after } => txn.replay_key(change, &record, before, after)?,
        Images::Alias { before, after } => txn.replay_alias(change, &record, before, after)?,
    }
    Ok(txn.into_staging().finish()?.batch)
}

impl Transaction<'_> {
    fn replay_key(
        &mut self,
        change: &Change,
        record: &RecordId,
        before: &Option<Arc<KeyRecord>>,
        after: &Option<Arc<KeyRecord>>,
    ) -> Result<()> {
        let key = after.as_ref().or(before.as_ref()).expect("a change has an image, before or after");
        if read::find_key(self, key.key_id)?.as_ref() != before.as_deref() {
            return Err(self.does_not_fit());
        }
        match (before, after) {
            (Some(before), Some(after)) => {
                let present = self.place.space.index_rows(after);
                for (row, value) in self.place.space.index_rows(before) {
                    // Another key of the same commit may have taken it by now.
                    let is_ours = self.read(&row, |stored| Ok(stored.bytes == value))?.unwrap_or_default();
                    if is_ours
                        && !present.iter().any(|(called, its_value)| (called, its_value) == (&row, &value))
                    {
                        self.delete(row)?;
                    }
                }
                self.install(before, after)
            }
            (None, _) => {
                self.remove_tombstone(record)?;
                let counts = read::counts(self)?;
                self.put_new_key(key, counts)
            }
            (Some(before), None) => {
                self.delete_key_rows(before)?;
                self.put_tombstone(record, change.time)
            }
        }
    }

    fn replay_alias(
        &mut self,
        change: &Change,
        record: &RecordId,
        before: &Option<Arc<AliasRecord>>,
        after: &Option<Arc<AliasRecord>>,
    ) -> Result<()> {
        let alias = after.as_ref().or(before.as_ref()).expect("a change has an image, before or after");
        if read::alias_by_urn_name(self, alias.alias.urn_name())?.as_ref() != before.as_deref() {
            return Err(self.does_not_fit());
        }
        if let Some(before) = before {
            self.unlink(before.key_id, std::slice::from_ref(before))?;
        } else {
            self.remove_tombstone(record)?;
        }
        match after {
            Some(after) => {
                let names = read::alias_names(self, after.key_id)?;
                self.link(after, names)
            }
            None => self.put_tombstone(record, change.time),
        }
    }

    /// The tombstone may have been trimmed before the record was created again.
    fn remove_tombstone(&mut self, record: &RecordId) -> Result<()> {
        let row = Space::tombstone(self.place.scope, record);
        if self.read(&row, |_| Ok(()))?.is_some() { self.delete(row) } else { Ok(()) }
    }

    fn does_not_fit(&self) -> Error {
        let place = log_place(self.staging.next_commit());
        corrupted(&place, "a change is not of what was there before it")
    }
}

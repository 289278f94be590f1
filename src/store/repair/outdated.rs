//! Records of which the file has a later state, in pages of a commit that is left out.

use std::collections::BTreeMap;

use super::missing::Name;
use super::{Repairing, row_of};
use crate::engine::{Draft, NewerCommit, Places, Salvage};
use crate::error::Result;
use crate::format::{Address, RecordId, Row, ScopedTable, Stored, decode_log_entry, read_address};
use crate::id::Commit;

impl Repairing<'_> {
    /// Looks for later states of records, if the newest commit is left out. Where that is known to have been committed,
    /// what is read of these records is stale: it is left out, and not taken from the history either. Otherwise it may
    /// be what a process was writing when it ended, of which nobody was told, so it is only reported.
    pub(super) fn leave_out_outdated(&mut self, salvage: &Salvage<'_>, places: &Places) -> Result<()> {
        let left_out = salvage.left_out();
        if left_out == NewerCommit::No {
            return Ok(());
        }
        let mut later = BTreeMap::<Name, Commit>::new();
        salvage.each_later(places, self.seen, &mut |row, stored| {
            for name in records_in(&row, &stored) {
                let newest = later.entry(name).or_default();
                *newest = stored.commit.max(*newest);
            }
            Ok(())
        })?;
        for (name, commit) in later {
            let row = row_of(&name.0, &name.1);
            let is_there = self.building.get(&row)?.is_some();
            if left_out == NewerCommit::Perhaps || !is_there {
                let what = format!(
                    "it is in the file as of commit {commit} too, in a page to which nothing leads: what is here, or \
                     that it is not here, may be as of an earlier change"
                );
                self.may_be_missing(&row, what);
            } else {
                let what = format!(
                    "it was read as of an earlier change, and commit {commit}, of which nothing else is left, changed \
                     it: left out"
                );
                self.lost_record(&row, what);
                self.building.put(row, self.commit, None)?;
            }
            if left_out == NewerCommit::Committed {
                self.outdated.insert(name);
            }
        }
        Ok(())
    }
}

/// The records that a row or an entry of the changelog is about.
fn records_in(row: &Row, stored: &Stored) -> Vec<Name> {
    if *row == Draft::log_row(stored.commit) {
        let Ok(entry) = decode_log_entry(stored.commit, &stored.bytes) else { return Vec::new() };
        let name = |record| (entry.info.scope.clone(), record);
        return entry
            .changes
            .iter()
            .filter_map(|change| RecordId::try_of(&change.images))
            .map(name)
            .collect();
    }
    match read_address(row) {
        Some(Address::Tombstone { scope, record }) => vec![(scope, record)],
        Some(Address::Scoped { scope, table: ScopedTable::Key(key_id) }) => {
            vec![(scope, RecordId::Key(key_id))]
        }
        Some(Address::Scoped { scope, table: ScopedTable::Alias { urn_name } }) => {
            vec![(scope, RecordId::Alias(urn_name))]
        }
        _ => Vec::new(),
    }
}

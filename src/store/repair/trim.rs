//! Trimming the history to where it is whole.

use std::ops::Bound;

use super::super::building::{ENTRIES_AT_ONCE, ROWS_AT_ONCE, Walk};
use super::Repairing;
use crate::engine::ReadTransaction;
use crate::error::Result;
use crate::format::{
    Address, Floor, Row, ScopedTable, Space, Stored, decode_alias, decode_key, decode_log_entry,
    decode_tombstone, encode_floor, read_address,
};
use crate::id::Commit;
use crate::time::Timestamp;

impl Repairing<'_> {
    pub(super) fn trim(&mut self) -> Result<()> {
        if !self.fixed.history {
            return Ok(());
        }
        let written = self.building.written()?;
        let commit = self.floor.commit.max(self.history_lost).max(self.left_out_up_to);
        if commit == self.floor.commit && !self.floor_is_lost {
            return Ok(());
        }
        let time = self.latest_up_to(&*written, commit)?;
        let (row, floor) = (Space::of_store().floor(), Floor { commit, time });
        self.building.put(row, self.commit, Some(encode_floor(floor)))?;
        let mut shared = Walk::of_domains(&*written);
        while let Some((row, stored)) = shared.next()? {
            let tombstone = matches!(read_address(&row), Some(Address::Tombstone { .. }));
            if tombstone && stored.commit <= commit {
                self.building.put(row, self.commit, None)?;
            }
        }
        self.building.trim(commit)
    }

    /// The latest time of a change up to a commit: what is left of it names the time of each that matters.
    fn latest_up_to(&self, written: &dyn ReadTransaction, floor: Commit) -> Result<Timestamp> {
        let mut latest = self.floor.time;
        let mut from = Bound::Unbounded;
        let mut last: Row;
        loop {
            let chunk = written.scan((from, Bound::Unbounded), ROWS_AT_ONCE)?;
            let Some((row, _)) = chunk.last() else { break };
            last = row.clone();
            for (row, stored) in chunk {
                let stored = stored?;
                if stored.commit <= floor {
                    latest = latest.max(changed_at(&row, &stored)?);
                }
            }
            from = Bound::Excluded(&last);
        }
        let mut after = Commit::default();
        loop {
            let chunk = written.log(after, ENTRIES_AT_ONCE)?;
            let Some((last, _)) = chunk.last() else { return Ok(latest) };
            after = *last;
            for (commit, bytes) in chunk {
                for change in decode_log_entry(commit, &bytes?)?.changes {
                    let own = (commit <= floor).then_some(change.time);
                    let previous = change.previous.filter(|previous| previous.commit <= floor);
                    let times = own.into_iter().chain(previous.map(|previous| previous.time));
                    latest = times.fold(latest, Timestamp::max);
                }
            }
        }
    }
}

/// When the record of a row changed last; the beginning of time for a row of no record.
fn changed_at(row: &Row, stored: &Stored) -> Result<Timestamp> {
    Ok(match read_address(row) {
        Some(Address::Tombstone { .. }) => decode_tombstone(row, &stored.bytes)?,
        Some(Address::Scoped { scope, table: ScopedTable::Key(key_id) }) => {
            decode_key(row, &scope, key_id, stored)?.updated_at
        }
        Some(Address::Scoped { scope, table: ScopedTable::Alias { urn_name } }) => {
            decode_alias(row, &scope, &urn_name, stored)?.updated_at
        }
        _ => Timestamp::default(),
    })
}

//! Taking records from the history that have no row any more; and the evidence that the history is not whole,
//! or that what it tells last is not what was there last.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::super::building::{ENTRIES_AT_ONCE, ROWS_AT_ONCE};
use super::{Repairing, row_of};
use crate::alias::AliasRecord;
use crate::change::{Change, Images};
use crate::engine::{Draft, ReadTransaction};
use crate::error::Result;
use crate::format::{
    Address, EncodedChange, RecordId, Row, ScopedTable, Space, Stored, decode_alias, decode_alias_names,
    decode_claim, decode_key_id, decode_log_entry, decode_outcome, decode_restored, encode_tombstone,
    read_address,
};
use crate::id::{Commit, KeyId, Scope};
use crate::key::KeyRecord;
use crate::policy::AliasScope;

/// A record, of all scopes.
pub(super) type Name = (Scope, RecordId);

/// Records that have no row.
type MissingRecords = BTreeMap<Name, Missing>;

/// The newest change in the history of a record that has no row.
struct Missing {
    commit: Commit,
    change: Change,
}

impl Repairing<'_> {
    pub(super) fn take_from_history(&mut self) -> Result<()> {
        if self.fixed.history {
            let mut missing = MissingRecords::new();
            let written = self.building.written()?;
            self.find_missing(&*written, &mut missing)?;
            let contradicted = self.look_for_evidence(&*written, &missing)?;
            for (name, found) in missing {
                self.take(name, found, &contradicted)?;
            }
        }
        for (row, scope, record) in std::mem::take(&mut self.damaged) {
            let there = [row_of(&scope, &record), Space::tombstone(&scope, &record)];
            let is_there = self.building.get(&there[0])?.is_some() || self.building.get(&there[1])?.is_some();
            if !is_there && !self.lost_records.contains(&there[0]) {
                self.lost_record(&row, "damaged: nothing that is left tells what it was");
            }
        }
        Ok(())
    }

    /// Writes what the history tells of a record, if that is certain.
    fn take(&mut self, name: Name, found: Missing, contradicted: &BTreeSet<Name>) -> Result<()> {
        let Missing { commit, change } = found;
        let row = row_of(&name.0, &name.1);
        if contradicted.contains(&name) {
            let what =
                format!("its row is missing, and what commit {commit} made of it contradicts other rows");
            self.lost_record(&row, what);
            return Ok(());
        }
        if self.outdated.contains(&name) {
            let what =
                format!("its row is missing, and it changed after commit {commit}, the last in its history");
            self.lost_record(&row, what);
            self.left_out_up_to = self.left_out_up_to.max(commit);
            return Ok(());
        }
        // In an entry that is lost it may have changed once more.
        if commit <= self.history_lost {
            let what = "its row is missing, and what the history tells may not be its last change";
            self.lost_record(&row, what);
            return Ok(());
        }
        let time = change.time;
        match EncodedChange::new(change).into_after() {
            Some(bytes) => {
                self.repaired(&row, format!("its row was missing: taken from commit {commit}"));
                self.building.put(row, commit, Some(bytes))
            }
            None => {
                let row = Space::tombstone(&name.0, &name.1);
                self.repaired(&row, format!("it was missing: taken from commit {commit}"));
                self.building.put(row, commit, Some(encode_tombstone(time)))
            }
        }
    }

    /// Finds records that have neither a row nor a tombstone, and links to entries that are not there.
    fn find_missing(&mut self, written: &dyn ReadTransaction, missing: &mut MissingRecords) -> Result<()> {
        let mut after = Commit::default();
        loop {
            let chunk = written.log(after, ENTRIES_AT_ONCE)?;
            let Some((last, _)) = chunk.last() else { return Ok(()) };
            after = *last;
            for (commit, bytes) in chunk {
                let entry = decode_log_entry(commit, &bytes?)?;
                for change in entry.changes {
                    let name = (entry.info.scope.clone(), RecordId::of(&change.images));
                    let row = row_of(&name.0, &name.1);
                    if let Some(previous) = change.previous {
                        self.must_be_in_log(&row, previous.commit.min(commit))?;
                    }
                    let found = written.get(&[&row, &Space::tombstone(&name.0, &name.1)])?;
                    if found.iter().all(Option::is_none) {
                        missing.insert(name, Missing { commit, change });
                    }
                }
            }
        }
    }

    /// Notes that the history is not whole, if a commit that changed records is not in it.
    fn must_be_in_log(&mut self, row: &[u8], commit: Commit) -> Result<()> {
        let known = self.floor.commit.max(self.history_lost);
        if commit > known && self.building.get(&Draft::log_row(commit))?.is_none() {
            self.lost(
                row,
                format!("its change in commit {commit} is missing: the history up to there is lost"),
            );
            self.history_lost = commit;
        }
        Ok(())
    }

    /// Looks in all rows for commits that are not in the log, and returns the records of which rows tell
    /// something else than the history does. Its changes up to these are of no use then.
    fn look_for_evidence(
        &mut self,
        written: &dyn ReadTransaction,
        missing: &MissingRecords,
    ) -> Result<BTreeSet<Name>> {
        let mut contradicted = BTreeSet::new();
        let mut from = Bound::Unbounded;
        let mut last: Row;
        loop {
            let chunk = written.scan((from, Bound::Unbounded), ROWS_AT_ONCE)?;
            let Some((row, _)) = chunk.last() else { break };
            last = row.clone();
            for (row, stored) in chunk {
                let stored = stored?;
                let Some(address) = read_address(&row) else { continue };
                if let Address::Restored { first } = address {
                    self.must_have_skipped(written, &row, &stored, first)?;
                }
                if is_of_change(&row, &address, &stored)? && !self.beginnings.contains(&stored.commit) {
                    self.must_be_in_log(&row, stored.commit)?;
                }
                contradicted.extend(contradicted_by(&row, &address, &stored, missing)?);
            }
            from = Bound::Excluded(&last);
        }
        for (name, found) in missing {
            if self.place_is_taken(&name.0, &found.change)? {
                contradicted.insert(name.clone());
            }
        }
        let commits = contradicted.iter().map(|name| missing[name].commit);
        self.history_lost = commits.fold(self.history_lost, Commit::max);
        Ok(contradicted)
    }

    /// Leaves out what says of a restore that it skipped commits which are there.
    fn must_have_skipped(
        &mut self,
        written: &dyn ReadTransaction,
        row: &Row,
        stored: &Stored,
        first: Commit,
    ) -> Result<()> {
        let next = written.log(decode_restored(row, &stored.bytes)?, 1)?;
        if next.first().is_some_and(|(commit, _)| *commit < first) {
            self.lost(row, "it says of commits that they were lost which are there: left out");
            self.building.put(row.clone(), self.commit, None)?;
        }
        Ok(())
    }

    /// Whether, by what is left, a record can't be there as the history tells: its name is another key's, its
    /// key does not list it, another project has it.
    fn place_is_taken(&self, scope: &Scope, change: &Change) -> Result<bool> {
        let space = Space::of_scope(scope);
        match &change.images {
            Images::Key { after: Some(key), .. } => {
                let row = space.key_alias(&key.key_alias);
                let named = self.building.get(&row)?;
                let named = named.map(|stored| decode_key_id(&row, &stored.bytes)).transpose()?;
                Ok(named.is_some_and(|named| named != key.key_id))
            }
            Images::Alias { after: Some(alias), .. } => {
                let row = space.aliases_of_key(alias.key_id);
                let names = self.building.get(&row)?;
                let names = names.map(|stored| decode_alias_names(&row, &stored.bytes)).transpose()?;
                if names.is_some_and(|names| !names.contains(&alias.alias)) {
                    return Ok(true);
                }
                if self.fixed.alias_scope == AliasScope::Project {
                    return Ok(false);
                }
                let row = Space::of_domain(scope.domain()).claim(alias.alias.urn_name());
                let owner = self.building.get(&row)?;
                let owner = owner.map(|stored| decode_claim(&row, &stored.bytes)).transpose()?;
                Ok(owner.is_some_and(|owner| owner != *scope.project()))
            }
            _ => Ok(false),
        }
    }
}

/// Whether the commit that wrote a row must have an entry in the log: it changed a record.
fn is_of_change(row: &Row, address: &Address, stored: &Stored) -> Result<bool> {
    Ok(match address {
        Address::Fixed | Address::Floor | Address::Restored { .. } | Address::Unfinished => false,
        Address::Claim { .. } | Address::Tombstone { .. } => true,
        Address::Scoped { table, .. } => match table {
            ScopedTable::Outcome(_) => decode_outcome(row, &stored.bytes)?.changed,
            // Its outcome tells it.
            ScopedTable::OutcomeTime(..) => false,
            _ => true,
        },
    })
}

/// The missing records that a row names otherwise than the history does.
fn contradicted_by(
    row: &Row,
    address: &Address,
    stored: &Stored,
    missing: &MissingRecords,
) -> Result<Vec<Name>> {
    let of_one = |found: Option<Name>| Ok(found.into_iter().collect());
    let (scope, table) = match address {
        Address::Claim { domain, urn_name } => {
            let scope = Scope::from_ids(domain.clone(), decode_claim(row, &stored.bytes)?);
            return of_one(contradicted_alias(missing, &scope, urn_name, |_| true));
        }
        Address::Scoped { scope, table } => (scope, table),
        _ => return Ok(Vec::new()),
    };
    let space = Space::of_scope(scope);
    let calls_for = |key: &KeyRecord| {
        space.index_rows(key).iter().any(|(called, value)| called == row && *value == stored.bytes)
    };
    match table {
        ScopedTable::KeyAlias(_) => {
            let key_id = decode_key_id(row, &stored.bytes)?;
            of_one(contradicted_key(missing, scope, key_id, calls_for))
        }
        ScopedTable::Tag(key_id) | ScopedTable::Due(key_id) | ScopedTable::Expiry(key_id) => {
            of_one(contradicted_key(missing, scope, *key_id, calls_for))
        }
        ScopedTable::Alias { urn_name } => {
            let alias = decode_alias(row, scope, urn_name, stored)?;
            of_one(contradicted_key(missing, scope, alias.key_id, |_| true))
        }
        ScopedTable::AliasesOfKey(key_id) => {
            let names = decode_alias_names(row, &stored.bytes)?;
            let of_key = contradicted_key(missing, scope, *key_id, |_| true);
            let of_aliases = names.iter().filter_map(|name| {
                contradicted_alias(missing, scope, name.urn_name(), |alias| {
                    alias.key_id == *key_id && alias.alias == *name
                })
            });
            Ok(of_key.into_iter().chain(of_aliases).collect())
        }
        ScopedTable::Key(_)
        | ScopedTable::Counts
        | ScopedTable::Outcome(_)
        | ScopedTable::OutcomeTime(..) => Ok(Vec::new()),
    }
}

/// A missing key that is named by a row, if by the history it was deleted, or does not fit the row.
fn contradicted_key(
    missing: &MissingRecords,
    scope: &Scope,
    key_id: KeyId,
    fits: impl Fn(&KeyRecord) -> bool,
) -> Option<Name> {
    let name = (scope.clone(), RecordId::Key(key_id));
    let found = missing.get(&name)?;
    let fits = matches!(&found.change.images, Images::Key { after: Some(key), .. } if fits(key));
    (!fits).then_some(name)
}

/// The same for an alias.
fn contradicted_alias(
    missing: &MissingRecords,
    scope: &Scope,
    urn_name: &str,
    fits: impl Fn(&AliasRecord) -> bool,
) -> Option<Name> {
    let name = (scope.clone(), RecordId::Alias(urn_name.to_owned()));
    let found = missing.get(&name)?;
    let fits = matches!(&found.change.images, Images::Alias { after: Some(alias), .. } if fits(alias));
    (!fits).then_some(name)
}

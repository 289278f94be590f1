//! Comparing rows with those that they follow from: each is rebuilt, or left out, if it is not as it must be.

use std::ops::Bound;

use super::super::building::ROWS_AT_ONCE;
use super::{Repairing, row_of};
use crate::alias::AliasRecord;
use crate::error::Result;
use crate::format::{
    Address, Counts, RecordId, Row, ScopedTable, Space, Stored, Table, decode_alias, decode_alias_names,
    decode_claim, decode_counts, decode_key, decode_key_id, decode_outcome, encode_alias_names, encode_claim,
    encode_counts, encode_nothing, read_address,
};
use crate::id::{Commit, DomainId, KeyId, Scope};
use crate::key::KeyRecord;
use crate::policy::{AliasScope, Quotas};
use crate::progress;
use crate::time::Timestamp;

/// Comparing rows with those that they follow from.
impl Repairing<'_> {
    pub(super) fn walk(&mut self) -> Result<()> {
        let written = self.building.written()?;
        progress::begin("putting in order", written.length()?);
        let mut from = Bound::Unbounded;
        let mut last: Row;
        loop {
            let chunk = written.scan((from, Bound::Unbounded), ROWS_AT_ONCE)?;
            let Some((row, _)) = chunk.last() else { break };
            last = row.clone();
            progress::add(chunk.len() as u64);
            for (row, stored) in chunk {
                self.row(&row, &stored?)?;
            }
            from = Bound::Excluded(&last);
        }
        self.end_scope()
    }

    fn row(&mut self, row: &Row, stored: &Stored) -> Result<()> {
        match read_address(row) {
            Some(Address::Claim { domain, urn_name }) => self.claim(row, stored, domain, &urn_name),
            Some(Address::Tombstone { scope, record }) => self.tombstone(row, stored, &scope, &record),
            Some(Address::Scoped { scope, table }) => {
                if self.scope.as_ref() != Some(&scope) {
                    self.end_scope()?;
                    self.scope = Some(scope.clone());
                }
                let space = Space::of_scope(&scope);
                match table {
                    ScopedTable::Key(key_id) => self.key(&space, decode_key(row, &scope, key_id, stored)?),
                    ScopedTable::Alias { urn_name } => {
                        self.alias(&scope, &space, decode_alias(row, &scope, &urn_name, stored)?)
                    }
                    ScopedTable::AliasesOfKey(key_id) => self.aliases_of_key(row, &scope, &space, key_id),
                    ScopedTable::KeyAlias(_) => {
                        let named = self.building.get(row)?;
                        let named = named.map(|stored| decode_key_id(row, &stored.bytes)).transpose()?;
                        named.map_or(Ok(()), |key_id| self.index_row(row, &scope, &space, key_id))
                    }
                    ScopedTable::Tag(key_id) | ScopedTable::Due(key_id) | ScopedTable::Expiry(key_id) => {
                        self.index_row(row, &scope, &space, key_id)
                    }
                    ScopedTable::Outcome(request_id) => {
                        let outcome = decode_outcome(row, &stored.bytes)?;
                        let time = space.outcome_time(Timestamp::from_millis(outcome.time), &request_id);
                        self.must_be(time, encode_nothing(), stored.commit)
                    }
                    ScopedTable::OutcomeTime(time, request_id) => {
                        let outcome_row = space.outcome(&request_id);
                        let outcome = self.building.get(&outcome_row)?;
                        let outcome = outcome.map(|stored| decode_outcome(&outcome_row, &stored.bytes));
                        match outcome.transpose()? {
                            Some(outcome) if outcome.time == time.as_millis() => Ok(()),
                            Some(_) => self.leave_out(row, "the outcome is not of this time: left out"),
                            None => {
                                let what =
                                    "it is missing: if the request comes again, it is carried out again";
                                self.lost_record(&outcome_row, what);
                                self.leave_out_as_lost(row, "no outcome is of this time: left out")
                            }
                        }
                    }
                    ScopedTable::Counts => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Writes a row that follows from others, if it is not there as it must be.
    fn must_be(&mut self, row: Row, value: Vec<u8>, commit: Commit) -> Result<()> {
        match self.building.get(&row)? {
            Some(stored) if stored.bytes == value => Ok(()),
            _ => {
                self.repaired(&row, "rebuilt");
                self.building.put(row, commit, Some(value))
            }
        }
    }

    fn leave_out(&mut self, row: &Row, what: &str) -> Result<()> {
        self.repaired(row, what);
        self.building.put(row.clone(), self.commit, None)
    }

    fn leave_out_as_lost(&mut self, row: &Row, what: &str) -> Result<()> {
        self.lost(row, what);
        self.building.put(row.clone(), self.commit, None)
    }

    /// Leaves out a row that names a record which is not there. That one is lost, unless it is known that it
    /// was deleted.
    fn leave_out_with(&mut self, row: &Row, scope: &Scope, record: &RecordId) -> Result<()> {
        if self.note_missing(scope, record)? {
            self.leave_out_as_lost(row, "it names what is lost: left out")
        } else {
            self.leave_out(row, "it names what was deleted: left out")
        }
    }

    /// Reports a record that is named by others and not there, and returns whether it is lost.
    fn note_missing(&mut self, scope: &Scope, record: &RecordId) -> Result<bool> {
        let was_deleted = self.building.get(&Space::tombstone(scope, record))?.is_some();
        if !was_deleted {
            self.lost_record(&row_of(scope, record), "it is missing, and other rows name it");
        }
        Ok(!was_deleted)
    }

    fn find_key(&self, scope: &Scope, space: &Space, key_id: KeyId) -> Result<Option<KeyRecord>> {
        let row = space.key(key_id);
        self.building.get(&row)?.map(|stored| decode_key(&row, scope, key_id, &stored)).transpose()
    }

    fn find_alias(&self, scope: &Scope, space: &Space, urn_name: &str) -> Result<Option<AliasRecord>> {
        let row = space.alias(urn_name);
        self.building.get(&row)?.map(|stored| decode_alias(&row, scope, urn_name, &stored)).transpose()
    }

    fn key(&mut self, space: &Space, key: KeyRecord) -> Result<()> {
        match key.default {
            true => self.counted.default_keys += 1,
            false => self.counted.keys += 1,
        }
        let scope = self.scope.clone().expect("the scope of the row was entered");
        for (row, value) in space.index_rows(&key) {
            let other = self.building.get(&row)?.filter(|stored| stored.bytes != value);
            let other = other.and_then(|stored| decode_key_id(&row, &stored.bytes).ok());
            let other = other.map(|other| self.find_key(&scope, space, other)).transpose()?.flatten();
            // Two keys of one name: nothing tells whose it is, and the new store will not verify.
            if !other.is_some_and(|other| space.index_rows(&other).iter().any(|(theirs, _)| *theirs == row)) {
                self.must_be(row, value, self.commit)?;
            }
        }
        Ok(())
    }

    fn index_row(&mut self, row: &Row, scope: &Scope, space: &Space, key_id: KeyId) -> Result<()> {
        let Some(stored) = self.building.get(row)? else { return Ok(()) };
        let Some(key) = self.find_key(scope, space, key_id)? else {
            return self.leave_out_with(row, scope, &RecordId::Key(key_id));
        };
        let called_for =
            space.index_rows(&key).iter().any(|(called, value)| called == row && *value == stored.bytes);
        if called_for { Ok(()) } else { self.leave_out(row, "no key calls for this index row: left out") }
    }

    fn alias(&mut self, scope: &Scope, space: &Space, alias: AliasRecord) -> Result<()> {
        let (row, claim) = (space.alias(alias.alias.urn_name()), claim_row(scope, &alias));
        if self.find_key(scope, space, alias.key_id)?.is_none() {
            self.note_missing(scope, &RecordId::Key(alias.key_id))?;
            self.lost_record(&row, format!("it names the key {}, which is lost: left out", alias.key_id));
            // Its changes belong to no record any more.
            if self.fixed.history && alias.version > self.floor.commit {
                self.history_lost = self.history_lost.max(alias.version);
            }
            let owner = self.building.get(&claim)?.map(|stored| decode_claim(&claim, &stored.bytes));
            if owner.transpose()?.is_some_and(|owner| owner == *scope.project()) {
                self.building.put(claim, self.commit, None)?;
            }
            return self.building.put(row, self.commit, None);
        }
        let names_row = space.aliases_of_key(alias.key_id);
        let names = self.building.get(&names_row)?;
        let names = names.map(|stored| decode_alias_names(&names_row, &stored.bytes)).transpose()?;
        let mut names = names.unwrap_or_default();
        if let Err(place) = names.binary_search(&alias.alias)
            && names.len() < Quotas::ALIASES_PER_KEY_MAX
        {
            names.insert(place, alias.alias.clone());
            self.must_be(names_row, encode_alias_names(&names), self.commit)?;
        }
        if self.fixed.alias_scope == AliasScope::Project {
            return Ok(());
        }
        let owner = self.building.get(&claim)?;
        let owner = owner.map(|stored| decode_claim(&claim, &stored.bytes)).transpose()?;
        let theirs = owner.filter(|owner| owner != scope.project()).map(|owner| {
            Space::of_scope(&Scope::from_ids(scope.domain().clone(), owner)).alias(alias.alias.urn_name())
        });
        // Two projects with one alias: nothing tells whose it is, and the new store will not verify.
        match theirs.map(|theirs| self.building.get(&theirs)).transpose()?.flatten() {
            Some(_) => Ok(()),
            None => self.must_be(claim, encode_claim(scope.project()), self.commit),
        }
    }

    fn aliases_of_key(&mut self, row: &Row, scope: &Scope, space: &Space, key_id: KeyId) -> Result<()> {
        let Some(stored) = self.building.get(row)? else { return Ok(()) };
        let listed = decode_alias_names(row, &stored.bytes)?;
        let mut names = Vec::new();
        for name in &listed {
            match self.find_alias(scope, space, name.urn_name())? {
                Some(alias) if alias.key_id == key_id && alias.alias == *name => names.push(name.clone()),
                Some(_) => {
                    self.repaired(
                        row,
                        format!("it names the alias {name}, which is not on the key: left out"),
                    );
                }
                None => {
                    self.note_missing(scope, &RecordId::Alias(name.urn_name().to_owned()))?;
                }
            }
        }
        if self.find_key(scope, space, key_id)?.is_none() {
            return self.leave_out_with(row, scope, &RecordId::Key(key_id));
        }
        if names.is_empty() {
            return self.leave_out(row, "the key has no aliases: left out");
        }
        if names == listed {
            Ok(())
        } else {
            self.must_be(row.clone(), encode_alias_names(&names), self.commit)
        }
    }

    fn claim(&mut self, row: &Row, stored: &Stored, domain: DomainId, urn_name: &str) -> Result<()> {
        if self.fixed.alias_scope == AliasScope::Project {
            return self
                .leave_out(row, "a store whose aliases are unique in a project has no claims: left out");
        }
        let scope = Scope::from_ids(domain, decode_claim(row, &stored.bytes)?);
        let alias = RecordId::Alias(urn_name.to_owned());
        match self.building.get(&row_of(&scope, &alias))? {
            Some(_) => Ok(()),
            None => self.leave_out_with(row, &scope, &alias),
        }
    }

    fn tombstone(&mut self, row: &Row, stored: &Stored, scope: &Scope, record: &RecordId) -> Result<()> {
        if !self.fixed.history || self.building.get(&row_of(scope, record))?.is_some() {
            return self.leave_out(row, "a tombstone of a record that is there: left out");
        }
        if stored.commit <= self.floor.commit {
            return self.leave_out(row, "a tombstone of a deletion that was trimmed: left out");
        }
        Ok(())
    }

    fn end_scope(&mut self) -> Result<()> {
        let counted = std::mem::take(&mut self.counted);
        let Some(scope) = self.scope.take() else { return Ok(()) };
        let space = Space::of_scope(&scope);
        let row = space.counts();
        let noted = self.building.get(&row)?;
        if let Some(noted) = noted.map(|stored| decode_counts(&row, &stored.bytes)).transpose()? {
            let known =
                self.lost_records.range(space.table(Table::Key)..space.after_table(Table::Key)).count();
            let there = counted.keys + counted.default_keys;
            let noted = noted.keys.saturating_add(noted.default_keys);
            if noted > there + known as u64 {
                self.lost(&row, format!("{noted} keys were counted, {there} are there"));
            }
        }
        if counted != Counts::default() {
            return self.must_be(row, encode_counts(counted), self.commit);
        }
        match self.building.get(&row)? {
            Some(_) => self.leave_out(&row, "the scope has no keys: left out"),
            None => Ok(()),
        }
    }
}

fn claim_row(scope: &Scope, alias: &AliasRecord) -> Row {
    Space::of_domain(scope.domain()).claim(alias.alias.urn_name())
}

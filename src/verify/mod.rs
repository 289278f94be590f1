//! [`verify`]: walks every row of a store and checks every invariant of its content.
//!
//! One walk over all rows of one snapshot, in the order of their addresses. For each row, the rows
//! that it calls for are looked up, and the row itself must be called for by a record. So both
//! directions of each index are seen, and nothing has to be remembered but the counts of one scope.
//! What is looked up often is kept decoded, up to a limit.

mod decoded;
mod history;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::alias::AliasRecord;
use crate::change::{CommitRecord, Previous};
use crate::engine::ReadTransaction;
use crate::error::{Error, Result};
use crate::format::{
    Address, Counts, RecordId, Row, ScopedTable, Space, Stored, decode_alias, decode_alias_names,
    decode_claim, decode_counts, decode_fixed, decode_key_id, decode_key_unchecked, decode_nothing,
    decode_tag_value, encode_alias, encode_alias_names, encode_claim, encode_counts, encode_fixed,
    encode_key, encode_key_id, encode_nothing, encode_tag_value, read_address, show,
};
use crate::id::{Commit, DomainId, KeyId, Scope};
use crate::key::KeyRecord;
use crate::policy::{AliasScope, Policy, Quotas};
use crate::progress;
use crate::txn::floor_of;
use decoded::Decoded;
use history::Image;

/// How many rows are read at once.
const CHUNK: usize = 500;

/// What a [verification](crate::Store::verify) found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Scopes that hold anything.
    pub scopes: u64,
    /// Keys.
    pub keys: u64,
    /// Aliases.
    pub aliases: u64,
    /// Changes in the history.
    pub changes: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Rows of all kinds, those of the history not counted.
    pub rows: u64,
    /// What is wrong, at most [`VIOLATIONS_MAX`](Self::VIOLATIONS_MAX), in the order of the rows.
    pub violations: Vec<Violation>,
    /// How many more violations there are than those kept.
    pub violations_not_kept: u64,
}

impl Report {
    /// How many violations are kept; the rest is counted.
    pub const VIOLATIONS_MAX: usize = 1000;

    /// Whether every invariant holds.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// # Errors
    ///
    /// `Unsound` if an invariant does not hold.
    pub(crate) fn must_be_clean(&self) -> Result<()> {
        let in_words =
            |found: &Violation| format!("invariant {}: {} {:?}", found.invariant, found.what, found.rows);
        let findings: Box<[String]> = self.violations.iter().map(in_words).collect();
        if findings.is_empty() { Ok(()) } else { Err(Error::Unsound(findings)) }
    }
}

/// One thing that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Violation {
    /// The number of the invariant in `docs/semantics.md` that does not hold.
    pub invariant: u8,
    /// The addresses of the rows concerned, as `docs/format.md` draws them; what is not ASCII text is
    /// escaped.
    pub rows: Vec<String>,
    /// What is wrong, in words.
    pub what: String,
}

/// Walks one snapshot of a store.
pub(crate) fn verify(rows: &dyn ReadTransaction, policy: &Policy) -> Result<Report> {
    let mut walk = Walk {
        rows,
        policy,
        report: Report::default(),
        scope: None,
        counted: Counts::default(),
        floor: Commit::default(),
        chained: 0,
        chained_told: 0,
        keys: Decoded::default(),
        entries: Decoded::default(),
    };
    match floor_of(rows) {
        Ok(floor) => walk.floor = floor.commit,
        // The walk reports it when it comes to the row.
        Err(Error::Corrupted(_) | Error::Unsupported { .. }) => {}
        Err(error) => return Err(error),
    }
    let length = rows.length()?;
    // No more than there can be entries.
    walk.chained_told = rows.commit().number().saturating_sub(walk.floor.number()).min(length.unwrap_or(0));
    progress::begin("verifying", length);
    let fixed = Space::of_store().fixed();
    if walk.look_up(&fixed)?.is_missing() {
        walk.violation(12, &[&fixed], "what was fixed at creation is missing");
    }
    let mut from = Bound::Unbounded;
    let mut last: Row;
    loop {
        let chunk = match rows.scan((from, Bound::Unbounded), CHUNK) {
            Err(Error::Corrupted(what)) => {
                walk.violation(12, &[], format!("the rows from here on can't be read: {what}"));
                break;
            }
            chunk => chunk?,
        };
        let Some((row, _)) = chunk.last() else { break };
        last = row.clone();
        for (row, stored) in chunk {
            walk.row(&row, stored)?;
        }
        from = Bound::Excluded(&last);
    }
    walk.end_scope();
    match rows.audit() {
        Err(Error::Corrupted(what)) => {
            walk.violation(12, &[], format!("rows may be hidden: {what}"));
        }
        audited => audited?,
    }
    walk.log()?;
    progress::at(length.unwrap_or(walk.report.rows));
    Ok(walk.report)
}

struct Walk<'a> {
    rows: &'a dyn ReadTransaction,
    policy: &'a Policy,
    report: Report,
    /// The scope whose rows are being walked, and the keys seen in it.
    scope: Option<(Scope, Space)>,
    counted: Counts,
    /// Up to where the history was trimmed.
    floor: Commit,
    /// How many changes were met on the chains of records and tombstones.
    chained: u64,
    /// Up to how many of them are told as progress: one for each entry, as far as these are known.
    chained_told: u64,
    /// The keys of the scope that were looked up: each of their rows in an index asks for one.
    keys: Decoded<KeyId, LookedUp>,
    /// Entries of the log: each of their changes is asked for, and to decode an entry for each would take the square of
    /// their number.
    entries: Decoded<Commit, CommitRecord>,
}

/// A key that was looked up.
struct LookedUp {
    record: KeyRecord,
    /// The rows of indexes that it calls for, once they were asked for.
    index_rows: OnceCell<Vec<(Row, Vec<u8>)>>,
}

/// What a look-up of a record found.
enum Found<T> {
    There(T),
    Missing,
    /// It is there but damaged: the walk reports that when it comes to it.
    Damaged,
}

impl<T> Found<T> {
    fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

impl Walk<'_> {
    fn violation(&mut self, invariant: u8, rows: &[&[u8]], what: impl Into<String>) {
        if self.report.violations.len() == Report::VIOLATIONS_MAX {
            self.report.violations_not_kept += 1;
            return;
        }
        let rows = rows.iter().map(|row| show(row)).collect();
        self.report.violations.push(Violation { invariant, rows, what: what.into() });
    }

    /// Takes what was read, or reports that it can't be.
    fn readable<T>(&mut self, row: &[u8], read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(error @ (Error::Corrupted(_) | Error::Unsupported { .. })) => {
                self.violation(12, &[row], error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn tell_progress(&self) {
        progress::at(self.report.rows + self.chained.min(self.chained_told));
    }

    fn row(&mut self, row: &[u8], stored: Result<Stored>) -> Result<()> {
        self.report.rows += 1;
        self.tell_progress();
        let address = read_address(row);
        if let Some(Address::Scoped { scope, .. }) = &address {
            self.enter_scope(scope);
        }
        let Some(stored) = self.readable(row, stored)? else { return Ok(()) };
        if stored.commit > self.rows.commit() {
            self.violation(9, &[row], format!("it is of commit {}, which is to come", stored.commit));
        }
        match address {
            None => self.violation(12, &[row], "no row has such an address"),
            Some(Address::Fixed) => {
                let fixed = decode_fixed(row, &stored.bytes).map(|fixed| (encode_fixed(&fixed), ()));
                self.decoded(row, &stored, fixed)?;
            }
            // Who opened the store before the copy began may verify it meanwhile.
            Some(Address::Unfinished) => {
                let nothing = decode_nothing(row, &stored.bytes).map(|()| (encode_nothing(), ()));
                self.decoded(row, &stored, nothing)?;
            }
            Some(Address::Floor) => self.floor(row, &stored)?,
            Some(Address::Restored { first }) => self.restored(row, &stored, first)?,
            Some(Address::Tombstone { scope, record }) => self.tombstone(row, &stored, &scope, &record)?,
            Some(Address::Claim { domain, urn_name }) => self.claim(row, &stored, domain, &urn_name)?,
            Some(Address::Scoped { scope, table }) => {
                let space = Space::of_scope(&scope);
                self.scoped(row, &stored, &scope, &space, table)?;
            }
        }
        Ok(())
    }

    fn scoped(
        &mut self,
        row: &[u8],
        stored: &Stored,
        scope: &Scope,
        space: &Space,
        table: ScopedTable,
    ) -> Result<()> {
        let bytes = &stored.bytes;
        match table {
            ScopedTable::Key(key_id) => {
                let key = decode_key_unchecked(row, scope, key_id, stored).map(|key| (encode_key(&key), key));
                match self.decoded(row, stored, key)? {
                    Some(key) => self.key(row, scope, space, key),
                    None => Ok(()),
                }
            }
            ScopedTable::Alias { urn_name } => {
                let alias =
                    decode_alias(row, scope, &urn_name, stored).map(|alias| (encode_alias(&alias), alias));
                match self.decoded(row, stored, alias)? {
                    Some(alias) => self.alias(row, scope, space, alias),
                    None => Ok(()),
                }
            }
            ScopedTable::AliasesOfKey(key_id) => self.aliases_of_key(row, stored, scope, space, key_id),
            ScopedTable::KeyAlias(_) => {
                let key_id = decode_key_id(row, bytes).map(|key_id| (encode_key_id(key_id), key_id));
                match self.decoded(row, stored, key_id)? {
                    Some(key_id) => self.index_row(3, row, bytes, scope, space, key_id),
                    None => Ok(()),
                }
            }
            ScopedTable::Tag(key_id) => {
                let tag = decode_tag_value(row, bytes).map(|value| (encode_tag_value(&value), ()));
                self.decoded(row, stored, tag)?;
                self.index_row(8, row, bytes, scope, space, key_id)
            }
            ScopedTable::Due(key_id) | ScopedTable::Expiry(key_id) => {
                let nothing = decode_nothing(row, bytes).map(|()| (encode_nothing(), ()));
                self.decoded(row, stored, nothing)?;
                self.index_row(8, row, bytes, scope, space, key_id)
            }
            ScopedTable::Outcome(request_id) => self.outcome(row, stored, space, &request_id),
            ScopedTable::OutcomeTime(time, request_id) => {
                let nothing = decode_nothing(row, bytes).map(|()| (encode_nothing(), ()));
                self.decoded(row, stored, nothing)?;
                self.outcome_time(row, space, time, &request_id)
            }
            ScopedTable::Counts => {
                let counts = decode_counts(row, bytes).map(|counts| (encode_counts(counts), counts));
                if let Some(counts) = self.decoded(row, stored, counts)? {
                    self.counts(row, counts);
                }
                Ok(())
            }
        }
    }

    /// Takes what was decoded, if it encodes to the same bytes again.
    fn decoded<T>(&mut self, row: &[u8], stored: &Stored, read: Result<(Vec<u8>, T)>) -> Result<Option<T>> {
        let Some((encoded, value)) = self.readable(row, read)? else { return Ok(None) };
        if encoded != stored.bytes {
            self.violation(12, &[row], "the value does not encode to itself");
        }
        Ok(Some(value))
    }

    fn key(&mut self, row: &[u8], scope: &Scope, space: &Space, key: KeyRecord) -> Result<()> {
        self.report.keys += 1;
        match key.default {
            true => self.counted.default_keys += 1,
            false => self.counted.keys += 1,
        }
        if let Some((invariant, words)) = key.inconsistency() {
            self.violation(invariant, &[row], words);
        }
        if key.tags.len() > Quotas::TAGS_PER_KEY_MAX {
            self.violation(2, &[row], "the key has more tags than any quota allows");
        }
        for (index, (index_row, value)) in space.index_rows(&key).into_iter().enumerate() {
            // The first is the key alias.
            let invariant = if index == 0 { 3 } else { 8 };
            match self.look_up(&index_row)? {
                Found::There(stored) if stored.bytes != value => {
                    self.violation(invariant, &[row, &index_row], "the index names another key or value");
                }
                Found::Missing => {
                    self.violation(invariant, &[row, &index_row], "the key's index row is missing");
                }
                _ => {}
            }
        }
        let head = Previous::from(&key);
        let record = RecordId::Key(key.key_id);
        self.chain(row, scope, &record, head, Some(Image::Key(Arc::new(key))))
    }

    /// A row of an index must be one that the record of its key calls for.
    fn index_row(
        &mut self,
        invariant: u8,
        row: &[u8],
        value: &[u8],
        scope: &Scope,
        space: &Space,
        key_id: KeyId,
    ) -> Result<()> {
        let key_row = space.key(key_id);
        match self.look_up_key(scope, space, key_id)? {
            Found::There(key) => {
                let called_for = key.index_rows.get_or_init(|| space.index_rows(&key.record));
                if !called_for.iter().any(|(called, its_value)| called == row && its_value == value) {
                    self.violation(invariant, &[row, &key_row], "the key does not call for this index row");
                }
            }
            Found::Missing => self.violation(6, &[row, &key_row], "the index names a key that is not there"),
            Found::Damaged => {}
        }
        Ok(())
    }

    fn alias(&mut self, row: &[u8], scope: &Scope, space: &Space, alias: AliasRecord) -> Result<()> {
        self.report.aliases += 1;
        let key_row = space.key(alias.key_id);
        match self.look_up_key(scope, space, alias.key_id)? {
            Found::Missing => self.violation(1, &[row, &key_row], "the alias names a key that is not there"),
            Found::There(key) if key.record.default => {
                self.violation(5, &[row, &key_row], "the alias names a default key");
            }
            _ => {}
        }
        let names_row = space.aliases_of_key(alias.key_id);
        let names = self.look_up_as(&names_row, |stored| decode_alias_names(&names_row, &stored.bytes))?;
        let listed = match names {
            Found::There(names) => names.contains(&alias.alias),
            Found::Missing => false,
            Found::Damaged => true,
        };
        if !listed {
            self.violation(2, &[row, &names_row], "the key does not list the alias");
        }
        if self.policy.alias_scope == AliasScope::Domain {
            let claim_row = Space::of_domain(scope.domain()).claim(alias.alias.urn_name());
            let owner = self.look_up_as(&claim_row, |stored| decode_claim(&claim_row, &stored.bytes))?;
            let ours = match owner {
                Found::There(project) => project == *scope.project(),
                Found::Missing => false,
                Found::Damaged => true,
            };
            if !ours {
                self.violation(1, &[row, &claim_row], "the domain does not know the alias as this project's");
            }
        }
        let head = Previous::from(&alias);
        let record = RecordId::Alias(alias.alias.urn_name().to_owned());
        self.chain(row, scope, &record, head, Some(Image::Alias(Arc::new(alias))))
    }

    fn aliases_of_key(
        &mut self,
        row: &[u8],
        stored: &Stored,
        scope: &Scope,
        space: &Space,
        key_id: KeyId,
    ) -> Result<()> {
        let names = decode_alias_names(row, &stored.bytes).map(|names| (encode_alias_names(&names), names));
        let Some(names) = self.decoded(row, stored, names)? else { return Ok(()) };
        if self.look_up_key(scope, space, key_id)?.is_missing() {
            self.violation(6, &[row, &space.key(key_id)], "aliases of a key that is not there");
        }
        let distinct = names.iter().map(|name| name.urn_name()).collect::<BTreeSet<_>>().len();
        if distinct != names.len() || names.len() > Quotas::ALIASES_PER_KEY_MAX {
            self.violation(2, &[row], "the key lists a name twice, or more than any quota allows");
        }
        for name in &names {
            let alias_row = space.alias(name.urn_name());
            let alias = self
                .look_up_as(&alias_row, |stored| decode_alias(&alias_row, scope, name.urn_name(), stored))?;
            let linked = match alias {
                Found::There(alias) => alias.key_id == key_id && alias.alias == *name,
                Found::Missing => false,
                Found::Damaged => true,
            };
            if !linked {
                self.violation(
                    2,
                    &[row, &alias_row],
                    format!("the alias {name} is not on the key that lists it"),
                );
            }
        }
        Ok(())
    }

    fn claim(&mut self, row: &[u8], stored: &Stored, domain: DomainId, urn_name: &str) -> Result<()> {
        let owner = decode_claim(row, &stored.bytes).map(|project| (encode_claim(&project), project));
        let Some(project) = self.decoded(row, stored, owner)? else { return Ok(()) };
        let alias_row = Space::of_scope(&Scope::from_ids(domain, project)).alias(urn_name);
        if self.policy.alias_scope == AliasScope::Project {
            self.violation(1, &[row], "a store whose aliases are unique in a project has no claims");
        } else if self.look_up(&alias_row)?.is_missing() {
            self.violation(1, &[row, &alias_row], "the domain knows an alias that is not there");
        }
        Ok(())
    }

    fn counts(&mut self, row: &[u8], counts: Counts) {
        if counts != self.counted || counts == Counts::default() {
            let what = format!("{counts:?} are noted, {:?} are there", self.counted);
            self.violation(8, &[row], what);
        }
        self.counted = Counts::default();
    }

    fn enter_scope(&mut self, scope: &Scope) {
        if self.scope.as_ref().is_none_or(|(present, _)| present != scope) {
            self.end_scope();
            self.report.scopes += 1;
            self.keys.clear();
            self.scope = Some((scope.clone(), Space::of_scope(scope)));
        }
    }

    /// The row of the counts is the last of a scope: keys still counted then are noted nowhere.
    fn end_scope(&mut self) {
        let counted = std::mem::take(&mut self.counted);
        if let Some((_, space)) = self.scope.take()
            && counted != Counts::default()
        {
            self.violation(8, &[&space.counts()], format!("nothing is noted, {counted:?} are there"));
        }
    }

    fn look_up(&self, row: &[u8]) -> Result<Found<Stored>> {
        self.look_up_as(row, |stored| Ok(stored.clone()))
    }

    /// Looks up a key of the scope whose rows are being walked.
    fn look_up_key(&mut self, scope: &Scope, space: &Space, key_id: KeyId) -> Result<Found<Rc<LookedUp>>> {
        if let Some(key) = self.keys.get(&key_id) {
            return Ok(Found::There(key));
        }
        let row = space.key(key_id);
        let found = self.look_up_as(&row, |stored| {
            let record = decode_key_unchecked(&row, scope, key_id, stored)?;
            Ok((LookedUp { record, index_rows: OnceCell::new() }, stored.bytes.len()))
        })?;
        Ok(match found {
            Found::There((key, bytes)) => Found::There(self.keys.keep(key_id, key, bytes)),
            Found::Missing => Found::Missing,
            Found::Damaged => Found::Damaged,
        })
    }

    fn look_up_as<T>(&self, row: &[u8], read: impl FnOnce(&Stored) -> Result<T>) -> Result<Found<T>> {
        let found = self.rows.get(&[row]).and_then(|mut found| match found.pop().flatten() {
            Some(stored) => read(&stored).map(Some),
            None => Ok(None),
        });
        match found {
            Ok(Some(value)) => Ok(Found::There(value)),
            Ok(None) => Ok(Found::Missing),
            Err(Error::Corrupted(_) | Error::Unsupported { .. }) => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }
}

//! [`repair`]: a sound store from what is left of a damaged one. See `docs/backup.md`.
//!
//! Rows are what they were or are left out: first every row and every entry of the log that can be read
//! and is in its place is copied. Then keys, aliases and tombstones that are missing are taken from the
//! history, where it tells for sure (`missing`). Then every row that follows from others is compared with
//! these, and written anew, or left out. Last, the history is trimmed to where it is whole.

mod missing;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backup::now;
use super::building::{Building, ENTRIES_AT_ONCE, ROWS_AT_ONCE, Walk};
use super::incarnation::first_of_another_incarnation;
use super::{Options, Store};
use crate::alias::AliasRecord;
use crate::change::Position;
use crate::engine::ReadTransaction;
use crate::error::{Error, Result};
use crate::format::{
    Address, Counts, Fixed, Floor, RecordId, Row, ScopedTable, Space, Stored, Table, after_space_of,
    decode_alias, decode_alias_names, decode_claim, decode_counts, decode_fixed, decode_floor, decode_key,
    decode_key_id, decode_log_entry, decode_nothing, decode_outcome, decode_restored, decode_tag_value,
    decode_tombstone, encode_alias, encode_alias_names, encode_claim, encode_counts, encode_fixed,
    encode_floor, encode_key, encode_key_id, encode_log_entry, encode_nothing, encode_outcome,
    encode_restored, encode_tag_value, encode_tombstone, log_place, read_address, show, split_space,
};
use crate::id::{Commit, DomainId, KeyId, Scope};
use crate::key::KeyRecord;
use crate::policy::{AliasScope, Policy, Quotas};
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::time::Timestamp;

/// What a [repair](repair()) did, and what it could not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was written anew or left out, without any loss.
    pub repaired: Vec<Finding>,
    /// What is lost, and what was left out for that.
    pub lost: Vec<Finding>,
    /// How many findings there are besides: each list has at most [`FINDINGS_MAX`](Self::FINDINGS_MAX).
    pub not_kept: u64,
    /// Behind the first commit of the new store, in its own incarnation.
    pub position: Position,
    /// Rows of all kinds, those of the history not counted.
    pub rows: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl RepairReport {
    /// How many findings of each kind are kept; the rest is counted.
    pub const FINDINGS_MAX: usize = 10_000;
}

/// One thing that a [repair](repair()) met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The address of the row, as `docs/format.md` draws it; what is not ASCII text is escaped.
    pub row: String,
    /// What was done, in words.
    pub what: String,
}

/// Makes a store of all that is sound in a damaged one, in a new file; the damaged one is only read.
///
/// What follows for sure from what is left is written anew: every index, the names that each key has, the
/// counts; and from the history a key, an alias or a tombstone whose row is damaged. Rows that nothing calls
/// for are left out. What can't be had back is lost, and the report names it: a key of which no history is
/// left, and the aliases that named it, which are left out; an alias; the outcome of a request; and the
/// history up to the newest entry that is damaged. The new store is another incarnation, as a
/// [restored](crate::Restore) one. It is verified before the file gets its name; all that is said of
/// files at [`Store::backup`] holds here too.
///
/// A backup has all, so restore one if there is one; then compare it with what a repair saves.
///
/// # Errors
///
/// [`Unsound`](Error::Unsound) if the damage leaves more than one way to go on, as where two keys have the
/// same name: nothing is guessed, and the findings are those of [`verify`](Store::verify).
/// [`Corrupted`](Error::Corrupted), [`NotAStore`](Error::NotAStore) if the file can't be opened at all, or the
/// row of what was fixed at creation is damaged. [`Io`](Error::Io) also for a block that the disk can't read:
/// make an image of the file first, with zeros in its place. [`AlreadyOpen`](Error::AlreadyOpen),
/// [`RecoveryNeeded`](Error::RecoveryNeeded), [`LogMismatch`](Error::LogMismatch),
/// [`FileExists`](Error::FileExists), [`Unsupported`](Error::Unsupported).
pub fn repair(damaged: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<RepairReport> {
    let damaged = damaged.as_ref();
    let repair = || repair_store(&Options::new().open_read_only(damaged)?, path.as_ref(), Timestamp::now());
    telemetry::told(Call::Repair, Place::default(), repair, |report| Summary {
        commit: Some(report.position.commit()),
        rows: Some(report.rows),
        bytes: Some(report.bytes),
        troubles: Some((report.repaired.len() + report.lost.len()) as u64 + report.not_kept),
        ..Summary::default()
    })
}

/// As [`repair`](repair()), of a store that is open, at this time.
pub(crate) fn repair_store(store: &Store, path: &Path, at: Timestamp) -> Result<RepairReport> {
    let started = now();
    let rows = store.inner.engine.begin_read()?;
    let mut repairing = Repairing::new(store, rows.commit(), path)?;
    progress::begin("reading what is left", rows.length().unwrap_or_default());
    repairing.audit(&*rows)?;
    repairing.salvage_rows(&*rows)?;
    repairing.salvage_log(&*rows)?;
    drop(rows);
    repairing.begin(at)?;
    progress::begin("looking into the history", None);
    repairing.take_from_history()?;
    repairing.walk()?;
    repairing.trim()?;
    let Repairing { mut building, fixed, seen, commit, repaired, lost, not_kept, .. } = repairing;
    let fixed = fixed.ok_or_else(|| Error::Corrupted("what was fixed at creation is lost".into()))?;
    let incarnation = building.begin_anew(fixed, seen, commit)?;
    let position = Position { incarnation, commit };
    let built = building.finish()?;
    let (rows, bytes) = (built.report.rows, built.bytes);
    Ok(RepairReport { repaired, lost, not_kept, position, rows, bytes, took: started.elapsed() })
}

struct Repairing<'a> {
    building: Building<'a>,
    policy: Policy,
    fixed: Option<Fixed>,
    /// The newest commit that anything is of.
    seen: Commit,
    /// The commit that writes what is repaired.
    commit: Commit,
    floor: Floor,
    floor_is_lost: bool,
    /// Up to here the history is not whole.
    history_lost: Commit,
    /// Commits that begin an incarnation: what they write has no entry in the log.
    beginnings: BTreeSet<Commit>,
    /// Rows of records that can't be read.
    damaged: Vec<(Row, Scope, RecordId)>,
    /// Rows of records that were reported as lost, so that each is named once.
    lost_records: BTreeSet<Row>,
    /// The scope that is walked, and its keys.
    scope: Option<Scope>,
    counted: Counts,
    repaired: Vec<Finding>,
    lost: Vec<Finding>,
    not_kept: u64,
}

/// Reading what can be read.
impl<'a> Repairing<'a> {
    fn new(store: &Store, newest: Commit, path: &'a Path) -> Result<Self> {
        Ok(Self {
            building: Building::create(path)?,
            policy: store.inner.policy.clone(),
            fixed: None,
            seen: newest,
            commit: Commit::default(),
            floor: Floor::default(),
            floor_is_lost: false,
            history_lost: Commit::default(),
            beginnings: BTreeSet::new(),
            damaged: Vec::new(),
            lost_records: BTreeSet::new(),
            scope: None,
            counted: Counts::default(),
            repaired: Vec::new(),
            lost: Vec::new(),
            not_kept: 0,
        })
    }

    fn repaired(&mut self, row: &[u8], what: impl Into<String>) {
        if self.repaired.len() == RepairReport::FINDINGS_MAX {
            self.not_kept += 1;
        } else {
            self.repaired.push(Finding { row: show(row), what: what.into() });
        }
    }

    fn lost(&mut self, row: &[u8], what: impl Into<String>) {
        if self.lost.len() == RepairReport::FINDINGS_MAX {
            self.not_kept += 1;
        } else {
            self.lost.push(Finding { row: show(row), what: what.into() });
        }
    }

    /// A record is lost. Of what names it, there may be more than one row.
    fn lost_record(&mut self, row: &Row, what: impl Into<String>) {
        if self.lost_records.contains(row) {
            return;
        }
        self.lost(row, what);
        if self.lost_records.len() < RepairReport::FINDINGS_MAX {
            self.lost_records.insert(row.clone());
        }
    }

    /// Damage in what the engine keeps for itself may hide the rows of whole scopes. No row tells that.
    fn audit(&mut self, rows: &dyn ReadTransaction) -> Result<()> {
        match rows.audit() {
            Err(Error::Corrupted(what)) => {
                self.lost(&[], format!("all rows of a scope may be hidden: {what}"));
                Ok(())
            }
            audited => audited,
        }
    }

    fn salvage_rows(&mut self, rows: &dyn ReadTransaction) -> Result<()> {
        let mut from = Bound::Unbounded;
        let mut last: Row;
        let mut at_once = ROWS_AT_ONCE;
        loop {
            let next = match rows.scan((from, Bound::Unbounded), at_once) {
                // The rows before the one that can't be read can, one by one.
                Err(Error::Corrupted(_)) if at_once > 1 => {
                    at_once = 1;
                    continue;
                }
                Err(Error::Corrupted(what)) => {
                    let place = match from {
                        Bound::Included(row) | Bound::Excluded(row) => row.to_vec(),
                        Bound::Unbounded => Row::new(),
                    };
                    self.lost(&place, format!("the rows from here on can't be read: {what}"));
                    let Some(behind) = self.behind(rows, &place)? else { return Ok(()) };
                    last = behind;
                    from = Bound::Included(&last);
                    at_once = ROWS_AT_ONCE;
                    continue;
                }
                found => found?,
            };
            let Some((row, _)) = next.last() else { return Ok(()) };
            last = row.clone();
            progress::add(next.len() as u64);
            for (row, stored) in next {
                self.salvage(row, stored)?;
            }
            from = Bound::Excluded(&last);
        }
    }

    /// Where reading may go on behind rows that can't be read: at the next table, or in the next space.
    fn behind(&self, rows: &dyn ReadTransaction, place: &Row) -> Result<Option<Row>> {
        let of_store = Space::of_store().start();
        let mut tables_of = split_space(place).map_or(of_store.clone(), |(space, _)| space.to_vec());
        let mut next = after_space_of(if place.is_empty() { &of_store } else { place });
        loop {
            let tables = Table::ALL.into_iter().map(|table| [&tables_of[..], &[table as u8]].concat());
            for candidate in tables.chain(next.clone()).filter(|candidate| candidate > place) {
                match rows.scan((Bound::Included(&candidate), Bound::Unbounded), 1) {
                    Err(Error::Corrupted(_)) => {}
                    found => return found.map(|_| Some(candidate)),
                }
            }
            // So the beginning of what comes next can't be read either.
            let Some(space) = next.map(|next| rows.next_space(&next)).transpose()?.flatten() else {
                return Ok(None);
            };
            next = after_space_of(&space);
            tables_of = space;
        }
    }

    fn salvage(&mut self, row: Row, stored: Result<Stored>) -> Result<()> {
        let address = read_address(&row);
        let stored = stored.and_then(|stored| {
            address.as_ref().map_or(Ok(()), |address| must_be_sound(&row, address, &stored))?;
            Ok(stored)
        });
        let (address, stored) = match (address, stored) {
            (Some(address), Ok(stored)) => (address, stored),
            (Some(address), Err(Error::Corrupted(_))) => {
                self.note_damaged(&row, address);
                return Ok(());
            }
            // It lay elsewhere, or is all that is seen of a scope.
            (None, Err(Error::Corrupted(what))) => {
                self.lost(&row, format!("damaged, and nothing tells what it was: {what}"));
                return Ok(());
            }
            (None, Ok(_)) => {
                self.repaired(&row, "no row has such an address: left out");
                return Ok(());
            }
            (_, Err(error)) => return Err(error),
        };
        self.seen = self.seen.max(stored.commit);
        match address {
            Address::Fixed => {
                self.fixed = Some(decode_fixed(&row, &stored.bytes)?);
                self.beginnings.insert(stored.commit);
            }
            Address::Floor if !self.policy.history => {
                self.repaired(&row, "a store without history has none: left out");
                return Ok(());
            }
            Address::Floor => self.floor = decode_floor(&row, &stored.bytes)?,
            Address::Restored { first } => {
                self.beginnings.insert(first);
            }
            _ => {}
        }
        self.building.put(row, stored.commit, Some(stored.bytes))
    }

    fn note_damaged(&mut self, row: &Row, address: Address) {
        match address {
            Address::Fixed => {}
            Address::Floor => {
                self.floor_is_lost = true;
                self.repaired(row, "damaged: it is written anew from where the history begins");
            }
            Address::Restored { first } => {
                self.beginnings.insert(first);
                self.lost(row, "damaged: which commits were lost is not told any more");
            }
            Address::Unfinished => {
                self.lost(row, "damaged: the store was to be copied into, and may not be whole")
            }
            Address::Tombstone { scope, record } => self.damaged.push((row.clone(), scope, record)),
            Address::Scoped { scope, table: ScopedTable::Key(key_id) } => {
                self.damaged.push((row.clone(), scope, RecordId::Key(key_id)));
            }
            Address::Scoped { scope, table: ScopedTable::Alias { urn_name } } => {
                self.damaged.push((row.clone(), scope, RecordId::Alias(urn_name)));
            }
            Address::Scoped { table: ScopedTable::Outcome(_), .. } => {
                self.lost_record(row, "damaged: if the request comes again, it is carried out again");
            }
            Address::Scoped { .. } | Address::Claim { .. } => {
                self.repaired(row, "damaged: left out, and written anew if it is called for");
            }
        }
    }

    fn salvage_log(&mut self, rows: &dyn ReadTransaction) -> Result<()> {
        let mut after = Commit::default();
        loop {
            let chunk = match rows.log(after, ENTRIES_AT_ONCE) {
                Err(Error::Corrupted(what)) => {
                    let what = format!("the history from here on can't be read: {what}");
                    self.lost(&log_place(after), what);
                    self.history_lost = rows.commit().max(self.seen);
                    return Ok(());
                }
                chunk => chunk?,
            };
            let Some((last, _)) = chunk.last() else { return Ok(()) };
            after = *last;
            progress::add(chunk.len() as u64);
            for (commit, bytes) in chunk {
                if commit > rows.commit() && matches!(bytes, Err(Error::Corrupted(_))) {
                    // Whose it is will be missing elsewhere.
                    self.lost(&log_place(commit), "damaged, at a place of no commit: left out");
                    continue;
                }
                self.salvage_entry(commit, bytes)?;
            }
        }
    }

    fn salvage_entry(&mut self, commit: Commit, bytes: Result<Vec<u8>>) -> Result<()> {
        let place = log_place(commit);
        if commit <= self.floor.commit || !self.policy.history {
            self.repaired(&place, "no entry can be there: left out");
            return Ok(());
        }
        let sound = bytes.and_then(|bytes| {
            let entry = decode_log_entry(commit, &bytes)?;
            if encode_log_entry(&entry) == bytes { Ok(bytes) } else { Err(not_itself()) }
        });
        match sound {
            Ok(bytes) => {
                self.seen = self.seen.max(commit);
                self.building.put_entry(commit, bytes)
            }
            Err(Error::Corrupted(_)) => {
                self.lost(&place, "damaged: the history up to here is lost");
                self.history_lost = self.history_lost.max(commit);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// All that is left was read.
    fn begin(&mut self, at: Timestamp) -> Result<()> {
        self.commit = first_of_another_incarnation(self.seen, at)?;
        self.building.set_newest(self.seen);
        if self.floor_is_lost {
            let first = self.building.written()?.log(Commit::default(), 1)?;
            let first = first.first().map(|(first, _)| Commit::new(first.number().saturating_sub(1)));
            self.floor.commit = first.unwrap_or(self.seen);
        }
        Ok(())
    }
}

/// Whether a value is one that belongs to its address, by itself.
fn must_be_sound(row: &[u8], address: &Address, stored: &Stored) -> Result<()> {
    let bytes = &stored.bytes;
    let again = match address {
        Address::Fixed => encode_fixed(&decode_fixed(row, bytes)?),
        Address::Floor => match decode_floor(row, bytes)? {
            floor if floor.commit < stored.commit => encode_floor(floor),
            _ => return Err(Error::Corrupted("more was trimmed than there was".into())),
        },
        Address::Restored { first } => match decode_restored(row, bytes)? {
            last if last < *first && stored.commit == *first => encode_restored(last),
            _ => return Err(Error::Corrupted("a restore is noted that can't have been".into())),
        },
        Address::Unfinished => {
            decode_nothing(row, bytes)?;
            encode_nothing()
        }
        Address::Claim { .. } => encode_claim(&decode_claim(row, bytes)?),
        Address::Tombstone { .. } => encode_tombstone(decode_tombstone(row, bytes)?),
        Address::Scoped { scope, table } => match table {
            ScopedTable::Key(key_id) => encode_key(&decode_key(row, scope, *key_id, stored)?),
            ScopedTable::KeyAlias(_) => encode_key_id(decode_key_id(row, bytes)?),
            ScopedTable::Alias { urn_name } => encode_alias(&decode_alias(row, scope, urn_name, stored)?),
            ScopedTable::AliasesOfKey(_) => encode_alias_names(&decode_alias_names(row, bytes)?),
            ScopedTable::Tag(_) => encode_tag_value(&decode_tag_value(row, bytes)?),
            ScopedTable::Due(_) | ScopedTable::Expiry(_) | ScopedTable::OutcomeTime(..) => {
                decode_nothing(row, bytes)?;
                encode_nothing()
            }
            ScopedTable::Counts => encode_counts(decode_counts(row, bytes)?),
            ScopedTable::Outcome(_) => encode_outcome(&decode_outcome(row, bytes)?),
        },
    };
    if again == *bytes { Ok(()) } else { Err(not_itself()) }
}

fn not_itself() -> Error {
    Error::Corrupted("the value does not encode to itself".into())
}

fn row_of(scope: &Scope, record: &RecordId) -> Row {
    let space = Space::of_scope(scope);
    match record {
        RecordId::Key(key_id) => space.key(*key_id),
        RecordId::Alias(urn_name) => space.alias(urn_name),
    }
}

/// Comparing rows with those that they follow from.
impl Repairing<'_> {
    fn walk(&mut self) -> Result<()> {
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
                self.repaired(&row, "written anew");
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
            if self.policy.history && alias.version > self.floor.commit {
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
        if self.policy.alias_scope == AliasScope::Project {
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
        if self.policy.alias_scope == AliasScope::Project {
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
        if !self.policy.history || self.building.get(&row_of(scope, record))?.is_some() {
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

/// Trimming the history to where it is whole.
impl Repairing<'_> {
    fn trim(&mut self) -> Result<()> {
        if !self.policy.history {
            return Ok(());
        }
        let written = self.building.written()?;
        let commit = self.floor.commit.max(self.history_lost);
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

//! Reading what can be read: rows and entries of the changelog, in pages that fit their checksums.

use super::RepairReport;
use super::Repairing;
use super::wal::Wal;
use crate::engine::{DamagedPage, Draft, Instead, LogState, Places, Salvage, Salvaged};
use crate::error::{Error, Result};
use crate::format::{
    Address, Fixed, RecordId, Row, ScopedTable, Space, Stored, decode_alias, decode_alias_names,
    decode_claim, decode_counts, decode_fixed, decode_floor, decode_key, decode_key_id, decode_log_entry,
    decode_nothing, decode_outcome, decode_restored, decode_tag_value, decode_tombstone, encode_alias,
    encode_alias_names, encode_claim, encode_counts, encode_fixed, encode_floor, encode_key, encode_key_id,
    encode_log_entry, encode_nothing, encode_outcome, encode_restored, encode_tag_value, encode_tombstone,
    log_place, read_address,
};
use crate::id::Commit;
use crate::progress;

/// What must be known of a table file before its rows are read.
#[derive(Default)]
pub(super) struct Looked {
    /// The newest commit in it, and what it says of its write-ahead log; `None` if that can't be read.
    pub(super) newest: Option<(Commit, LogState)>,
    /// The newest commit of any row in it.
    pub(super) newest_row: Commit,
    /// The newest commit of any row that was in a page which does not fit: so far it went once.
    pub(super) newest_doubtful: Commit,
    pub(super) fixed: Option<Fixed>,
    /// Whether that was in a page that does not fit its checksum, or is taken from another state of the file.
    pub(super) fixed_is_doubtful: bool,
    pub(super) is_unfinished: bool,
    /// Whether there is anything besides what a file has before it is a store.
    pub(super) has_something: bool,
    /// How many pages do not fit.
    pub(super) damaged_pages: u64,
    /// How many of them hide rows.
    pub(super) hidden_pages: u64,
}

impl Looked {
    /// Looks through all pages.
    pub(super) fn at(salvage: &Salvage<'_>) -> Result<Self> {
        let (mut looked, mut doubtful) = (Self::default(), None);
        salvage.each(&mut |salvaged| {
            looked.has_something |= !matches!(salvaged, Salvaged::Newest(Ok(_)));
            match salvaged {
                Salvaged::Newest(newest) => looked.newest = newest.ok(),
                Salvaged::Damaged(page, _) => {
                    looked.damaged_pages += u64::from(!matches!(page.instead, Some(Instead::Healed(_))));
                    looked.hidden_pages += u64::from(page.places.is_some());
                }
                Salvaged::Entry(commit, Ok(_)) => looked.newest_row = looked.newest_row.max(commit),
                Salvaged::Row(row, Ok(stored)) => {
                    match read_address(&row) {
                        Some(Address::Fixed) => looked.fixed = Some(decode_fixed(&row, &stored.bytes)?),
                        Some(Address::Unfinished) => looked.is_unfinished = true,
                        Some(_) => {}
                        None => return Ok(()),
                    }
                    looked.newest_row = looked.newest_row.max(stored.commit);
                }
                Salvaged::Doubtful(row, stored) => {
                    looked.newest_doubtful = looked.newest_doubtful.max(stored.commit);
                    if let Some(Address::Fixed) = read_address(&row) {
                        doubtful = decode_fixed(&row, &stored.bytes).ok();
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        looked.fixed_is_doubtful = looked.fixed.is_none();
        looked.fixed = looked.fixed.or(doubtful);
        Ok(looked)
    }

    /// What was fixed at creation.
    ///
    /// # Errors
    ///
    /// `Corrupted` if it is lost, `NoStore` if nothing was ever written.
    pub(super) fn fixed(&self) -> Result<Fixed> {
        match &self.fixed {
            Some(fixed) => Ok(fixed.clone()),
            None if self.has_something => Err(Error::Corrupted("what was fixed at creation is lost".into())),
            None => Err(Error::NoStore("this place: it was never begun".into())),
        }
    }
}

impl Repairing<'_> {
    /// Reads what the table file has, and lays what is newer in the write-ahead log over it.
    pub(super) fn salvage(&mut self, salvage: &Salvage<'_>, wal: Wal) -> Result<Places> {
        let newest = self.looked.newest.map_or(wal.newest, |(newest, _)| newest.max(wal.newest));
        self.seen = newest.max(self.looked.newest_row);
        self.newer = wal.rows;
        let floor = Space::of_store().floor();
        if let Some((commit, Some(bytes))) = self.newer.remove(&floor) {
            // First of all: entries below it are left out.
            self.salvage_row(floor, Ok(Stored { commit, bytes }))?;
        }
        let places = salvage.each(&mut |salvaged| self.salvaged(salvaged))?;
        self.audit(&places);
        for (row, (commit, value)) in std::mem::take(&mut self.newer) {
            let Some(bytes) = value else { continue };
            progress::add(1);
            if self.is_of_changelog(&row) {
                self.salvage_entry(commit, Ok(bytes))?;
            } else {
                self.salvage_row(row, Ok(Stored { commit, bytes }))?;
            }
        }
        if self.looked.fixed_is_doubtful && self.building.get(&Space::of_store().fixed())?.is_none() {
            let row = Space::of_store().fixed();
            self.repaired(
                &row,
                "it was in a page that does not fit its checksum; it is never changed, so it is kept",
            );
        }
        Ok(places)
    }

    fn is_of_changelog(&self, row: &Row) -> bool {
        row.first() == Draft::log_row(Commit::default()).first()
    }

    /// Damage in what the engine keeps for itself may hide the rows of whole scopes. No row tells that.
    fn audit(&mut self, places: &Places) {
        let floor = places.of(&Space::of_store().floor());
        let covered = |place: Option<Row>| {
            self.pages_not_kept > 0
                || self.pages.iter().any(|page| place.as_ref().is_none_or(|place| page.covers(place)))
        };
        if self.fixed.history && !self.floor_is_there && covered(floor) {
            self.floor_is_lost = true;
        }
        // Of a page that does not fit this was said already.
        if let Err(Error::Corrupted(what)) = places.audit()
            && !covered(Some(vec![0]))
        {
            self.lost(&[], format!("all rows of a scope may be hidden: {what}"));
        }
    }

    fn salvaged(&mut self, salvaged: Salvaged) -> Result<()> {
        progress::add(1);
        match salvaged {
            Salvaged::Newest(Ok(_)) => Ok(()),
            Salvaged::Newest(Err(error)) => {
                self.may_be_missing(&[], format!("which commit was the newest can't be read: {error}"));
                Ok(())
            }
            Salvaged::Row(row, stored) => {
                // The newer has its say, and whatever is damaged is in no way newer.
                match self.newer.get(&row) {
                    Some((newer, _)) if stored.as_ref().is_ok_and(|stored| stored.commit > *newer) => {
                        self.newer.remove(&row);
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
                self.salvage_row(row, stored)
            }
            Salvaged::Entry(commit, entry) => {
                if self.newer.contains_key(&Draft::log_row(commit)) {
                    return Ok(());
                }
                if commit > self.seen && matches!(entry, Err(Error::Corrupted(_))) {
                    // Whose it is will be missing elsewhere.
                    self.lost(&log_place(commit), "damaged, at a place of no commit: left out");
                    return Ok(());
                }
                self.salvage_entry(commit, entry)
            }
            Salvaged::Stray(error) => {
                let what = error.to_string();
                if self.strays.len() < RepairReport::FINDINGS_MAX && self.strays.insert(what.clone()) {
                    self.lost(&[], what);
                }
                Ok(())
            }
            Salvaged::Damaged(page, between) => {
                self.damaged_page(page, &between);
                Ok(())
            }
            Salvaged::Doubtful(row, _) => {
                if self.doubtful.len() < RepairReport::FINDINGS_MAX {
                    self.doubtful.insert(row);
                }
                Ok(())
            }
        }
    }

    /// Reports the bits of the first page that were healed.
    pub(super) fn note_healed_slots(&mut self, salvage: &Salvage<'_>) {
        self.healed_pages += u64::from(!salvage.healed_slots().is_empty());
        salvage.healed_slots().iter().for_each(|bit| self.note_healed(*bit));
    }

    fn note_healed(&mut self, bit: u64) {
        let (byte, bit) = (bit / 8, bit % 8);
        let what = format!(
            "bit {bit} of byte {byte} of the file was flipped: without that the page fits its checksum, and is complete"
        );
        self.repaired(&[], what);
    }

    fn damaged_page(&mut self, page: DamagedPage, between: &str) {
        if let Some(Instead::Healed(bit)) = page.instead {
            self.healed_pages += 1;
            self.note_healed(bit);
            return;
        }
        self.damaged_pages += 1;
        let at = format!(
            "the page at byte {} of the file is damaged, or of an earlier moment: {}",
            page.offset, page.why
        );
        if let Some(Instead::FoundAt(found)) = page.instead {
            self.repaired(&[], format!("{at}. A write went astray: the right one was found at byte {found}"));
            return;
        }
        if page.places.is_none() {
            self.may_be_missing(
                &[],
                format!(
                    "{at}. It is of the lists of free pages, which the new file has no need of; but a first page of an \
                     earlier moment leads to such pages too, and then the commits since are missing"
                ),
            );
            return;
        }
        self.may_be_missing(&[], format!("{at}. Rows {between} are left out"));
        if self.fixed.history {
            // As far as entries could be in there, they may be missing.
            let up_to =
                page.changelog_up_to().map(|up_to| up_to.map_or(self.seen, Commit::new).min(self.seen));
            self.history_lost = self.history_lost.max(up_to.unwrap_or_default());
        }
        match self.pages.len() {
            RepairReport::FINDINGS_MAX => self.pages_not_kept += 1,
            _ => self.pages.push(page),
        }
    }

    /// Names the records that were in damaged pages and are not in the new store.
    pub(super) fn name_doubtful(&mut self) -> Result<()> {
        for row in std::mem::take(&mut self.doubtful) {
            let Some(Address::Scoped { scope, table }) = read_address(&row) else { continue };
            let record = match table {
                ScopedTable::Key(key_id) => RecordId::Key(key_id),
                ScopedTable::Alias { urn_name } => RecordId::Alias(urn_name),
                ScopedTable::Outcome(_) => {
                    if self.building.get(&row)?.is_none() {
                        let what =
                            "it was in a damaged page: if the request comes again, it is carried out again";
                        self.may_be_missing(&row, what);
                    }
                    continue;
                }
                _ => continue,
            };
            let is_known = self.building.get(&row)?.is_some()
                || self.building.get(&Space::tombstone(&scope, &record))?.is_some()
                || self.lost_records.contains(&row);
            if !is_known {
                let what = "it was in a damaged page, and may have been of an earlier moment: left out";
                self.may_be_missing(&row, what);
            }
        }
        Ok(())
    }

    fn salvage_row(&mut self, row: Row, stored: Result<Stored>) -> Result<()> {
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
                self.fixed = decode_fixed(&row, &stored.bytes)?;
                self.beginnings.insert(stored.commit);
            }
            Address::Floor if !self.fixed.history => {
                self.repaired(&row, "a store without history has none: left out");
                return Ok(());
            }
            Address::Floor => {
                self.floor = decode_floor(&row, &stored.bytes)?;
                self.floor_is_there = true;
            }
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
                self.repaired(row, "damaged: rebuilt from where the history begins");
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
                self.repaired(row, "damaged: left out, and rebuilt if other rows call for it");
            }
        }
    }
    fn salvage_entry(&mut self, commit: Commit, bytes: Result<Vec<u8>>) -> Result<()> {
        let place = log_place(commit);
        if commit <= self.floor.commit || !self.fixed.history {
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

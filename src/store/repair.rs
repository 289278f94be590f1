//! [`repair`]: a sound store from what is left of a damaged one. See `docs/backup.md`.
//!
//! Rows are what they were or are left out. The pages of the file are read without the engine (`salvage`): every row
//! and every entry of the log that is in a page which fits its checksum, and is in its place, is copied. A write-ahead
//! log that lies beside the file is laid over them (`wal`). Records of which the file has a later state are left out
//! (`outdated`). Then keys, aliases and tombstones that are missing are taken from the history, where it tells for sure
//! (`missing`). Then every row that follows from others is compared with these, and rebuilt, or left out (`derive`). Last,
//! the history is trimmed to where it is whole (`trim`).

mod derive;
mod missing;
mod outdated;
mod report;
mod salvage;
mod trim;
mod wal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use report::{Finding, RepairReport, WalUse};

use super::backup::now;
use super::building::Building;
use super::files::{Damaged, open_for_repair};
use super::incarnation::first_of_another_incarnation;
use crate::change::Position;
use crate::engine::{DamagedPage, Salvage};
use crate::error::{Error, Result};
use crate::format::{Counts, Fixed, Floor, RecordId, Row, Space, show};
use crate::id::{Commit, Scope};
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::time::Timestamp;
use salvage::Looked;
use wal::{NewerRow, ReadWal, read_wal};

/// Makes a store of all that is sound in a damaged one, in a new file; the damaged one is only read.
///
/// A row is sound if the page that it lies in fits the checksum that its parent page has of it, and the row fits its
/// own. A page that does not fit may be of an earlier moment, whatever is in it: none of its rows is kept, unless the page
/// fits when one bit is flipped back. A write-ahead log beside the file is used, whatever the file says of it, as far as it
/// is sound and belongs to the store.
///
/// What follows for sure from what is left is rebuilt: every index, the names that each key has, the
/// counts; and from the history a key, an alias or a tombstone whose row is damaged. Rows that nothing calls
/// for are left out. What can't be had back is lost, and the report names it: a key of which no history is
/// left, and the aliases that named it, which are left out; an alias; the outcome of a request; and the
/// history up to the newest entry that is damaged. What may be missing without a trace is reported too: look whether the
/// report is [complete](RepairReport::complete). The new store is another incarnation, as a
/// [restored](crate::Restore) one. It is verified before the file gets its name; all that is said of
/// files at [`Store::backup`](crate::Store::backup) holds here too.
///
/// A backup has all, so restore one if there is one; then compare it with what a repair saves.
///
/// # Errors
///
/// [`Unsound`](Error::Unsound) if the damage leaves more than one way to go on, as where two keys have the
/// same name: nothing is guessed, and the findings are those of [`verify`](crate::Store::verify).
/// [`Corrupted`](Error::Corrupted), [`NotAStore`](Error::NotAStore) if the first page of the file leads to no rows and no
/// complete state of a store is in the file without it, or the row of what was fixed at creation is damaged.
/// [`Io`](Error::Io) also for a block that the disk can't read: make an image of the file first, with zeros in its place. [`AlreadyOpen`](Error::AlreadyOpen) if somebody has the
/// store open to write; [`NoStore`](Error::NoStore), [`FileExists`](Error::FileExists),
/// [`Unfinished`](Error::Unfinished), [`Unsupported`](Error::Unsupported).
pub fn repair(damaged: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<RepairReport> {
    let (damaged, path) = (damaged.as_ref(), path.as_ref());
    let repair = || repair_files(open_for_repair(damaged)?, path, Timestamp::now());
    telemetry::told(Call::Repair, Place::default(), repair, |report| Summary {
        commit: Some(report.position.commit()),
        rows: Some(report.rows),
        bytes: Some(report.bytes),
        troubles: Some(
            (report.repaired.len() + report.lost.len() + report.may_be_missing.len()) as u64
                + report.not_kept,
        ),
        ..Summary::default()
    })
}

/// As [`repair`](repair()), at this time.
fn repair_files(damaged: Damaged, path: &Path, at: Timestamp) -> Result<RepairReport> {
    let started = now();
    let Damaged { table, log, log_path } = damaged;
    let salvage = Salvage::of(&*table)?;
    progress::begin("reading what is left", None);
    let mut found = Found { looked: Looked::at(&salvage)?, salvage };
    let (other, seen) = found.other()?;
    let known = [Some(&found), other.as_ref()].into_iter().flatten().find_map(|found| found.looked.wal_id());
    let log = read_wal(log, known, found.looked.newest_commit());
    let mut given_up = None;
    match other {
        Some(other) if other.reaches(&log, found.looked.newest_known()) => {
            given_up = Some(found.looked.damaged_pages + found.salvage.given_up());
            found = other;
        }
        Some(other) if found.looked.fixed.is_none() => found.looked.fixed = other.looked.fixed,
        _ => {}
    }
    let Found { salvage, looked } = found;
    if looked.is_unfinished {
        return Err(Error::Unfinished);
    }
    let mut repairing = Repairing::new(looked, path)?;
    if let Some(pages) = given_up {
        repairing.note_search(pages);
    }
    repairing.damaged_pages += salvage.given_up();
    salvage.doubts().iter().for_each(|doubt| repairing.may_be_missing(&[], &**doubt));
    repairing.note_healed_slots(&salvage);
    let wal = repairing.choose_wal(&salvage, log, &log_path)?;
    repairing.doubt_newest(seen, wal.newest);
    let places = repairing.salvage(&salvage, wal)?;
    repairing.begin(at)?;
    repairing.leave_out_outdated(&salvage, &places)?;
    progress::begin("looking into the history", None);
    repairing.take_from_history()?;
    repairing.walk()?;
    repairing.trim()?;
    repairing.name_doubtful()?;
    let Repairing { mut building, fixed, seen, commit, .. } = repairing;
    let Repairing { repaired, lost, may_be_missing, not_kept, damaged_pages, healed_pages, wal, .. } =
        repairing;
    let incarnation = building.begin_anew(fixed, seen, commit)?;
    let position = Position { incarnation, commit };
    let built = building.finish()?;
    let (rows, bytes) = (built.report.rows, built.bytes);
    let took = started.elapsed();
    Ok(RepairReport {
        repaired,
        lost,
        may_be_missing,
        not_kept,
        damaged_pages,
        healed_pages,
        wal,
        position,
        rows,
        bytes,
        took,
    })
}

/// A state of the table file, and what is in it.
struct Found<'a> {
    salvage: Salvage<'a>,
    looked: Looked,
}

impl<'a> Found<'a> {
    /// Another complete state of the file, if this one is not complete, or older: the first page may be of an earlier
    /// moment, and fits itself then. And the newest commit of which a page is in the file.
    fn other(&self) -> Result<(Option<Self>, Commit)> {
        let (other, seen) = self.salvage.search()?;
        let looked = |salvage| Looked::at(&salvage).map(|looked| Self { looked, salvage });
        let other = match other.map(looked) {
            Some(Err(error @ Error::Io(_))) => return Err(error),
            // What it says can't be read, so it is of no use.
            other => other.and_then(Result::ok),
        };
        let newest = |found: &Self| found.looked.newest.map(|(commit, _)| commit);
        // What was fixed at creation has a number that nobody guesses, so no text of a tenant makes a state of this store.
        let fixed = self.looked.fixed.as_ref();
        let is_of_store = |other: &Self| fixed.is_none() || other.looked.fixed.as_ref() == fixed;
        let is_better = |other: &Self| self.looked.hidden_pages > 0 || newest(other) > newest(self);
        Ok((other.filter(|other| is_of_store(other) && is_better(other)), seen))
    }

    /// Whether it has, with what the write-ahead log goes on to, all up to a commit.
    fn reaches(&self, log: &ReadWal, commit: Commit) -> bool {
        let Some((newest, _)) = self.looked.newest else { return false };
        let goes_on = match log {
            Ok(Some(log)) if self.looked.wal_id() == Some(log.id) => log.goes_on_from(newest),
            _ => None,
        };
        goes_on.unwrap_or(newest) >= commit
    }
}

struct Repairing<'a> {
    building: Building<'a>,
    looked: Looked,
    /// What was fixed at creation.
    fixed: Fixed,
    /// What the write-ahead log has that is newer than the table file: rows, deleted ones without a value.
    newer: BTreeMap<Row, NewerRow>,
    /// The newest commit that anything is of.
    seen: Commit,
    /// The commit that writes what is repaired.
    commit: Commit,
    floor: Floor,
    floor_is_there: bool,
    floor_is_lost: bool,
    /// Up to here the history is not whole.
    history_lost: Commit,
    /// Up to here the history has changes of records that are left out, so it is trimmed.
    left_out_up_to: Commit,
    /// Records that changed in a commit that is left out.
    outdated: BTreeSet<missing::Name>,
    /// Commits that begin an incarnation: what they write has no entry in the log.
    beginnings: BTreeSet<Commit>,
    /// Rows of records that can't be read.
    damaged: Vec<(Row, Scope, RecordId)>,
    /// Rows of records that were reported as lost, so that each is named once.
    lost_records: BTreeSet<Row>,
    /// Pages that don't fit and may have had rows, and how many there are besides.
    pages: Vec<DamagedPage>,
    pages_not_kept: u64,
    /// Rows that were in such pages.
    doubtful: BTreeSet<Row>,
    /// What was said of rows at places where none can be, so that it is said once.
    strays: BTreeSet<String>,
    /// The scope that is walked, and its keys.
    scope: Option<Scope>,
    counted: Counts,
    repaired: Vec<Finding>,
    lost: Vec<Finding>,
    may_be_missing: Vec<Finding>,
    not_kept: u64,
    damaged_pages: u64,
    healed_pages: u64,
    wal: WalUse,
}

impl<'a> Repairing<'a> {
    fn new(looked: Looked, path: &'a Path) -> Result<Self> {
        Ok(Self {
            building: Building::create(path)?,
            fixed: looked.fixed()?,
            looked,
            newer: BTreeMap::new(),
            seen: Commit::default(),
            commit: Commit::default(),
            floor: Floor::default(),
            floor_is_there: false,
            floor_is_lost: false,
            history_lost: Commit::default(),
            left_out_up_to: Commit::default(),
            outdated: BTreeSet::new(),
            beginnings: BTreeSet::new(),
            damaged: Vec::new(),
            lost_records: BTreeSet::new(),
            pages: Vec::new(),
            pages_not_kept: 0,
            doubtful: BTreeSet::new(),
            strays: BTreeSet::new(),
            scope: None,
            counted: Counts::default(),
            repaired: Vec::new(),
            lost: Vec::new(),
            may_be_missing: Vec::new(),
            not_kept: 0,
            damaged_pages: 0,
            healed_pages: 0,
            wal: WalUse::None,
        })
    }

    /// What the first page leads to is given up for another state of the file.
    fn note_search(&mut self, damaged_pages: u64) {
        self.damaged_pages += damaged_pages;
        let newest = self.looked.newest.map(|(newest, _)| newest).unwrap_or_default();
        let why = match damaged_pages {
            0 => "the first page of the file is of an earlier moment, or the process ended while it wrote a commit".to_owned(),
            pages => format!("{pages} pages to which the first page of the file leads are damaged, or of another moment"),
        };
        let what = format!(
            "{why}: the state after commit {newest} was found in the file without it, complete and at least as new as \
             anything else in it, and is used. What was committed later may be missing, unless the write-ahead log has it"
        );
        self.may_be_missing(&[], what);
    }

    /// Pages of a state that is newer than what is read, with the write-ahead log, tell that there was one.
    fn doubt_newest(&mut self, seen: Commit, wal: Commit) {
        let newest = self.looked.newest.map_or(wal, |(newest, _)| newest.max(wal));
        if seen > newest {
            let what = format!(
                "a page of a later state, as of commit {seen}, is in the file too, but no such state is complete: a \
                 process that ended while it wrote that commit leaves it so, and nobody was told that it was done; a \
                 stale first page looks the same. The state after commit {newest} is used"
            );
            self.may_be_missing(&[], what);
        }
    }

    fn repaired(&mut self, row: &[u8], what: impl Into<String>) {
        note(&mut self.repaired, &mut self.not_kept, row, what.into());
    }

    fn lost(&mut self, row: &[u8], what: impl Into<String>) {
        note(&mut self.lost, &mut self.not_kept, row, what.into());
    }

    fn may_be_missing(&mut self, row: &[u8], what: impl Into<String>) {
        note(&mut self.may_be_missing, &mut self.not_kept, row, what.into());
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

fn note(findings: &mut Vec<Finding>, not_kept: &mut u64, row: &[u8], what: String) {
    match findings.len() {
        RepairReport::FINDINGS_MAX => *not_kept += 1,
        _ => findings.push(Finding { row: show(row), what }),
    }
}

fn row_of(scope: &Scope, record: &RecordId) -> Row {
    let space = Space::of_scope(scope);
    match record {
        RecordId::Key(key_id) => space.key(*key_id),
        RecordId::Alias(urn_name) => space.alias(urn_name),
    }
}

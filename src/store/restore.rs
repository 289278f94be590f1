//! [`Restore`]: a store from a backup, and from what changed since.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Options;
use super::backup::{now, open_changes};
use super::building::{Building, Walk};
use super::incarnation::first_of_another_incarnation;
use crate::change::Position;
use crate::engine::Draft;
use crate::error::{Error, Result};
use crate::format::changes::{Begin, LastEntry, Piece};
use crate::format::{
    Address, Floor, Row, ScopedTable, Space, Stored, corrupted, decode_fixed, decode_log_entry,
    decode_outcome, encode_floor, encode_nothing, read_address,
};
use crate::id::Commit;
use crate::policy::Policy;
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::time::Timestamp;
use crate::txn::replay;

/// A store that is to be made from a [backup](crate::Store::backup), and from
/// [backups of changes](crate::Store::backup_changes) since.
#[derive(Debug, Clone)]
#[must_use = "nothing is restored until it is told into which file"]
pub struct Restore {
    base: PathBuf,
    changes: Vec<PathBuf>,
    up_to: Option<Commit>,
}

/// A store that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Restored {
    /// The commit of the former store as it was after which this one is.
    pub commit: Commit,
    /// Behind the first commit of this store, in its own incarnation.
    pub position: Position,
    /// Rows of all kinds, those of the history not counted.
    pub rows: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Restore {
    /// From a whole copy.
    pub fn of(backup: impl Into<PathBuf>) -> Self {
        Self { base: backup.into(), changes: Vec::new(), up_to: None }
    }

    /// Then the changes in this file, which must go on where the file before ends, or earlier. To be called
    /// for each, in their order.
    pub fn changes(mut self, backup: impl Into<PathBuf>) -> Self {
        self.changes.push(backup.into());
        self
    }

    /// As the store was after this commit; if nothing is said, after the last that there is.
    ///
    /// Keys, aliases and their history are then as they were. Between the commits of two backups there are
    /// exceptions for what is not in the history. An outcome of a request that may be repeated is there if
    /// the backup before or the one after has it: one that was made and forgotten in between is missing, one
    /// that was forgotten in between is there. And history that was trimmed before the later backup is not
    /// there, even if it was trimmed only after this commit.
    pub fn up_to(mut self, commit: Commit) -> Self {
        self.up_to = Some(commit);
        self
    }

    /// Makes the store, in a new file. It is verified before it gets its name; all that is said of files at
    /// [`Store::backup`](crate::Store::backup) holds here too. The files of the backup are only read.
    ///
    /// The store is another incarnation: a [`Position`] of the former one is
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore). The number of its first commit is the time by
    /// the clock, 2,048 for each millisecond since 1970: the former one can't have reached it, nor can a store
    /// that was restored from the same backup before. So no commit and no version is ever given a second time;
    /// one that was lost is [`CommitNotFound`](Error::CommitNotFound), and no precondition that names it holds.
    ///
    /// # Errors
    ///
    /// [`FileExists`](Error::FileExists); [`BackupMismatch`](Error::BackupMismatch) if the files don't belong
    /// together, or some in between are missing; [`CommitNotFound`](Error::CommitNotFound) for a commit before
    /// or behind all of them; [`Corrupted`](Error::Corrupted), [`Unsound`](Error::Unsound),
    /// [`Unsupported`](Error::Unsupported), [`Io`](Error::Io).
    pub fn into_file(&self, path: impl AsRef<Path>) -> Result<Restored> {
        let restore = || self.restore_at(path.as_ref(), Timestamp::now());
        telemetry::told(Call::Restore, Place::default(), restore, |restored| Summary {
            commit: Some(restored.commit),
            rows: Some(restored.rows),
            bytes: Some(restored.bytes),
            ..Summary::default()
        })
    }

    /// As [`into_file`](Self::into_file), at this time.
    pub(crate) fn restore_at(&self, path: &Path, at: Timestamp) -> Result<Restored> {
        let started = now();
        let base = Options::new().open_read_only(&self.base)?;
        let rows = base.inner.engine.begin_read()?;
        let chain = self.chain(rows.commit(), base.inner.incarnation)?;
        let seen = chain.last().map_or(rows.commit(), |(_, begin)| begin.to);
        let up_to = self.up_to.unwrap_or(seen);
        if up_to < rows.commit() || up_to > seen {
            return Err(Error::CommitNotFound(up_to));
        }
        let row = Space::of_store().fixed();
        let stored = rows.get(&[&row])?.pop().flatten();
        let fixed = decode_fixed(&row, &stored.ok_or_else(|| corrupted(&row, "it is missing"))?.bytes)?;

        let first = first_of_another_incarnation(seen, at)?;
        let mut building = Building::create(path)?;
        building.copy(&*rows)?;
        let mut replaying =
            Replaying { policy: &base.inner.policy, last: rows.commit(), up_to, building: &mut building };
        drop(rows);
        let mut floor = None;
        for (path, begin) in &chain {
            // Of what lies behind, nothing is taken: neither an outcome nor up to where history was trimmed then.
            if replaying.last >= up_to {
                break;
            }
            replaying.carry_over(path, begin)?;
            floor = begin.floor;
        }
        if let Some((trimmed_by, floor)) = floor {
            replaying.trim(trimmed_by, floor, first)?;
        }
        let incarnation = building.begin_anew(fixed, up_to, first)?;
        let position = Position { incarnation, commit: first };
        let built = building.finish()?;
        let (rows, bytes) = (built.report.rows, built.bytes);
        Ok(Restored { commit: up_to, position, rows, bytes, took: started.elapsed() })
    }

    /// What the files of changes say that they are, if they go on one where the other ends.
    fn chain(&self, base: Commit, incarnation: [u8; 16]) -> Result<Vec<(&Path, Begin)>> {
        let mut reached = base;
        let mut chain = Vec::new();
        for path in &self.changes {
            let begin = open_changes(path)?.begin();
            let mismatch = |what: &str| {
                let (path, Begin { since, to, .. }) = (path.display(), begin);
                let what = format!("{path} has the changes from {since} to {to}: {what}");
                Err(Error::BackupMismatch(what.into()))
            };
            if begin.incarnation != incarnation {
                return mismatch("they are of another store");
            }
            if begin.since > reached {
                return mismatch(&format!("those from {reached} on are missing"));
            }
            if begin.to < reached {
                return mismatch(&format!("the files before go on to {reached}"));
            }
            reached = begin.to;
            chain.push((path.as_path(), begin));
        }
        Ok(chain)
    }
}

/// The changes that are carried over into a store.
struct Replaying<'a, 'b> {
    building: &'a mut Building<'b>,
    policy: &'a Policy,
    /// The newest commit that was carried over, or is in the copy.
    last: Commit,
    up_to: Commit,
}

impl Replaying<'_, '_> {
    fn carry_over(&mut self, path: &Path, begin: &Begin) -> Result<()> {
        let mut reader = open_changes(path)?;
        if reader.begin() != *begin {
            return Err(Error::BackupMismatch("a file was exchanged while it was read".into()));
        }
        if let Some(LastEntry { commit, digest }) = begin.last {
            let there = self.building.get(&Draft::log_row(commit))?;
            if there.is_none_or(|there| LastEntry::of(commit, &there.bytes).digest != digest) {
                return Err(another_history(commit));
            }
        }
        let mut next = None;
        progress::begin(
            "carrying over changes",
            Some(begin.to.number().saturating_sub(begin.since.number())),
        );
        while let Some(piece) = reader.next()? {
            progress::add(1);
            match piece {
                Piece::Entry { commit, bytes } => self.entry(commit, bytes)?,
                Piece::Outcome { row, commit, bytes } => {
                    next = Some((row, commit, bytes));
                    break;
                }
            }
        }
        let written = self.building.written()?;
        let mut present = Walk::outcomes(&*written);
        // What was there before and is named no more was forgotten: by its end, maybe not by `up_to`.
        let whole = begin.to <= self.up_to;
        let mut at = present.next()?;
        while let Some((row, commit, bytes)) = next {
            while let Some((before, stored)) = at.take_if(|(before, _)| *before < row) {
                if whole {
                    self.forget(&before, &stored)?;
                }
                at = present.next()?;
            }
            let former = at.take_if(|(present, _)| *present == row);
            if former.is_some() {
                at = present.next()?;
            }
            self.outcome(row, commit, bytes, former.map(|(_, stored)| stored))?;
            next = match reader.next()? {
                Some(Piece::Outcome { row, commit, bytes }) => Some((row, commit, bytes)),
                Some(Piece::Entry { .. }) => unreachable!("the reader refuses an entry behind an outcome"),
                None => None,
            };
        }
        while let Some((before, stored)) = at {
            if whole {
                self.forget(&before, &stored)?;
            }
            at = present.next()?;
        }
        self.last = begin.to.min(self.up_to);
        self.building.set_newest(self.last);
        Ok(())
    }

    fn entry(&mut self, commit: Commit, bytes: Vec<u8>) -> Result<()> {
        if commit > self.up_to {
            return Ok(());
        }
        if commit <= self.last {
            // The file before told it too.
            let there = self.building.get(&Draft::log_row(commit))?;
            let is_same = there.is_some_and(|there| there.bytes == bytes);
            return if is_same { Ok(()) } else { Err(another_history(commit)) };
        }
        let entry = decode_log_entry(commit, &bytes)?;
        for change in &entry.changes {
            let batch = replay(&*self.building, self.policy, &entry.info, change)?;
            self.building.put_batch(commit, batch)?;
        }
        self.building.put_entry(commit, bytes)
    }

    fn outcome(
        &mut self,
        row: Row,
        commit: Commit,
        bytes: Option<Vec<u8>>,
        former: Option<Stored>,
    ) -> Result<()> {
        if commit > self.up_to {
            return Ok(());
        }
        if former.as_ref().is_some_and(|former| former.commit == commit) {
            return Ok(());
        }
        let missing = || corrupted(&row, "the backup before has not the outcome that it must have");
        let bytes = bytes.ok_or_else(missing)?;
        if let Some(former) = former {
            self.forget(&row, &former)?;
        }
        let time = outcome_time(&row, &bytes)?;
        self.building.put(time, commit, Some(encode_nothing()))?;
        self.building.put(row, commit, Some(bytes))
    }

    fn forget(&mut self, row: &Row, stored: &Stored) -> Result<()> {
        self.building.put(outcome_time(row, &stored.bytes)?, self.last, None)?;
        self.building.put(row.clone(), self.last, None)
    }

    /// Trims the history as it was trimmed when the last file was made, by that commit or, if that is one
    /// to come, by the restored store's first.
    fn trim(&mut self, trimmed_by: Commit, floor: Floor, first: Commit) -> Result<()> {
        let row = Space::of_store().floor();
        let commit = if trimmed_by <= self.up_to { trimmed_by } else { first };
        self.building.put(row, commit, Some(encode_floor(floor)))?;
        let written = self.building.written()?;
        let mut shared = Walk::of_domains(&*written);
        while let Some((row, stored)) = shared.next()? {
            let tombstone = matches!(read_address(&row), Some(Address::Tombstone { .. }));
            if tombstone && stored.commit <= floor.commit {
                self.building.put(row, self.last, None)?;
            }
        }
        self.building.trim(floor.commit)
    }
}

/// The files go on from two stores that were one once, as if a copy had been opened for writing.
fn another_history(commit: Commit) -> Error {
    Error::BackupMismatch(format!("what commit {commit} changed is not the same in all files").into())
}

/// The row that says when an outcome is to be forgotten.
fn outcome_time(row: &Row, bytes: &[u8]) -> Result<Row> {
    let outcome = decode_outcome(row, bytes)?;
    match read_address(row) {
        Some(Address::Scoped { scope, table: ScopedTable::Outcome(request_id) }) => {
            Ok(Space::of_scope(&scope).outcome_time(Timestamp::from_millis(outcome.time), &request_id))
        }
        _ => Err(corrupted(row, "it is no address of an outcome")),
    }
}

//! What a transaction has read and is about to write, before any of it reaches the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::TransactionLimits;
use crate::change::Change;
use crate::engine::{Batch, RowSource};
use crate::error::{Error, Result};
use crate::format::{EncodedChange, ROW_MAX, Row, Stored, VALUE_MAX, Value, decode_outcome};
use crate::id::Commit;

/// What a change takes in the log besides its images, at most.
const CHANGE_BYTES: usize = 320;

/// The rows that a transaction read and those that it is to write.
pub(crate) struct Staging<'a> {
    source: &'a dyn RowSource,
    next_commit: Commit,
    kind: Kind,
    read: RefCell<BTreeMap<Row, Option<Stored>>>,
    entries: RefCell<BTreeMap<Commit, Option<Vec<u8>>>>,
    staged: Batch,
    /// What each write of the present operation replaced, to undo it.
    undo: Vec<(Row, Option<Option<Vec<u8>>>)>,
    /// An engine error that an operation met. It is the outcome, whatever the closure returns.
    failure: RefCell<Option<Error>>,
    /// What the operations did.
    changes: Vec<EncodedChange>,
    /// The bytes of what is staged, and of what the changes take in the log.
    bytes: usize,
}

/// What a transaction did when its closure had ended.
pub(crate) struct Staged {
    /// The rows to be written.
    pub(crate) batch: Batch,
    /// What they change.
    pub(crate) changes: Vec<EncodedChange>,
    pub(crate) reads: Reads,
}

impl Staged {
    /// That a run which knew the number of the commit, and not what stands for it, staged the same.
    pub(crate) fn must_be_same(&self, commit: Commit, again: &Self) -> Result<()> {
        if !self.batch.keys().eq(again.batch.keys()) {
            return Err(ran_differently());
        }
        let outcome = |row: &Row, value: &Option<Vec<u8>>| decode_outcome(row, value.as_deref()?).ok();
        for ((row, first), again) in self.batch.iter().zip(again.batch.values()) {
            if first == again {
                continue;
            }
            // Of all that is written, an outcome alone has the number in it.
            let (Some(first), Some(again)) = (outcome(row, first), outcome(row, again)) else {
                return Err(ran_differently());
            };
            if first.with_number(commit) != again {
                let what =
                    "with another number of its commit it is another value, not only in its decimal digits";
                return Err(Error::InvalidOutcome(what.into()));
            }
        }
        Ok(())
    }
}

/// All that a transaction read, so that the same can be run once more without the engine: when the number
/// of its commit is known.
pub(crate) struct Reads {
    rows: BTreeMap<Row, Option<Stored>>,
    entries: BTreeMap<Commit, Option<Vec<u8>>>,
    commit_read: Commit,
}

impl Reads {
    /// The commit that was read.
    pub(crate) fn commit_read(&self) -> Commit {
        self.commit_read
    }

    /// What was read, for another run.
    pub(crate) fn again(&self) -> impl RowSource {
        Again(self)
    }
}

struct Again<'a>(&'a Reads);

/// That a closure does not do the same each time.
pub(crate) fn ran_differently() -> Error {
    Error::abort("the closure did something else when it was run again")
}

impl RowSource for Again<'_> {
    fn commit_read(&self) -> Commit {
        self.0.commit_read
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        let found = rows.iter().map(|row| self.0.rows.get(*row).cloned());
        found.collect::<Option<_>>().ok_or_else(ran_differently)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        let found = self.0.rows.get(row).ok_or_else(ran_differently)?;
        found.iter().for_each(|stored| see(stored.into()));
        Ok(())
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.0.entries.get(&commit).cloned().ok_or_else(ran_differently)
    }
}

/// What a transaction is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A write of several operations. Any of them may be refused.
    Write,
    /// An import: it is one operation, on a source that has most rows in memory.
    Import,
}

/// The point to which an operation that is refused returns.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    undo: usize,
    changes: usize,
}

impl<'a> Staging<'a> {
    /// For operations upon these rows, whose commit will have this number.
    pub(crate) fn new(source: &'a dyn RowSource, next_commit: Commit) -> Self {
        Self::on(source, next_commit, Kind::Write)
    }

    /// For one operation of an import. If it is refused, nothing is rolled back: all of this is dropped.
    pub(super) fn of_import(source: &'a dyn RowSource, next_commit: Commit) -> Self {
        Self::on(source, next_commit, Kind::Import)
    }

    fn on(source: &'a dyn RowSource, next_commit: Commit, kind: Kind) -> Self {
        Self {
            source,
            next_commit,
            kind,
            read: RefCell::default(),
            entries: RefCell::default(),
            staged: Batch::new(),
            undo: Vec::new(),
            failure: RefCell::default(),
            changes: Vec::new(),
            bytes: 0,
        }
    }

    /// The number of the commit that is read.
    pub(super) fn commit_read(&self) -> Commit {
        self.source.commit_read()
    }

    /// The number that the commit will have.
    pub(super) fn next_commit(&self) -> Commit {
        self.next_commit
    }

    /// The bytes of what is staged, and of what the changes take in the log, at most.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is to be written, or the engine's error that was met on the way.
    pub(crate) fn finish(self) -> Result<Staged> {
        let commit_read = self.commit_read();
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => {
                let reads =
                    Reads { rows: self.read.into_inner(), entries: self.entries.into_inner(), commit_read };
                Ok(Staged { batch: self.staged, changes: self.changes, reads })
            }
        }
    }

    /// Whether nothing is staged.
    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// The entry of a commit in the changelog, if there is one.
    pub(super) fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        let entry = self.source.changelog_entry(commit).map_err(|error| self.fail(error))?;
        self.entries.borrow_mut().insert(commit, entry.clone());
        Ok(entry)
    }

    /// Notes what an operation did.
    pub(super) fn note(&mut self, change: Change) -> Result<()> {
        let change = EncodedChange::new(change);
        self.bytes += CHANGE_BYTES + change.bytes();
        self.changes.push(change);
        self.check_bytes()
    }

    fn check_bytes(&self) -> Result<()> {
        if self.bytes > TransactionLimits::BYTES_WRITTEN_MAX {
            return Err(too_large("bytes written", TransactionLimits::BYTES_WRITTEN_MAX));
        }
        Ok(())
    }

    /// As the transaction sees them: staged rows first, then those read before, then the engine's.
    pub(super) fn rows(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        let mut read = self.read.borrow_mut();
        let mut missing: Vec<&[u8]> = rows
            .iter()
            .copied()
            .filter(|row| !self.staged.contains_key(*row) && !read.contains_key(*row))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if read.len() + missing.len() > TransactionLimits::ROWS_READ_MAX {
            return Err(too_large("rows read", TransactionLimits::ROWS_READ_MAX));
        }
        if !missing.is_empty() {
            let found = self.source.get(&missing).map_err(|error| self.fail(error))?;
            read.extend(missing.iter().map(|row| row.to_vec()).zip(found));
        }
        let commit = self.next_commit;
        Ok(rows
            .iter()
            .map(|row| match self.staged.get(*row) {
                Some(value) => value.clone().map(|bytes| Stored { bytes, commit }),
                None => read.get(*row).cloned().flatten(),
            })
            .collect())
    }

    /// Shows the row at this address, if there is one.
    pub(super) fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        if let Some(staged) = self.staged.get(row) {
            let commit = self.next_commit;
            staged.iter().for_each(|bytes| see(Value { bytes, commit }));
            return Ok(());
        }
        if self.kind == Kind::Import {
            // It is in memory already, and no key reads as many rows as a transaction may.
            return self.source.with_row(row, see).map_err(|error| self.fail(error));
        }
        let mut read = self.read.borrow_mut();
        if !read.contains_key(row) {
            if read.len() == TransactionLimits::ROWS_READ_MAX {
                return Err(too_large("rows read", TransactionLimits::ROWS_READ_MAX));
            }
            let mut found = None;
            let looked = self.source.with_row(row, &mut |value| found = Some(value.to_stored()));
            looked.map_err(|error| self.fail(error))?;
            read.insert(row.to_vec(), found);
        }
        read.get(row).into_iter().flatten().for_each(|stored| see(stored.into()));
        Ok(())
    }

    /// Marks the transaction with an error of the engine.
    pub(super) fn fail(&self, error: Error) -> Error {
        if error.is_of_engine() {
            self.failure.borrow_mut().get_or_insert_with(|| error.clone());
        }
        error
    }

    /// Stages one row: a value, or `None` to delete it.
    pub(super) fn write(&mut self, row: Row, value: Option<Vec<u8>>) -> Result<()> {
        if row.len() > ROW_MAX {
            return Err(too_large("bytes in the address of a row", ROW_MAX));
        }
        if value.as_ref().is_some_and(|value| value.len() > VALUE_MAX) {
            return Err(too_large("bytes in a row", VALUE_MAX));
        }
        self.bytes += bytes_of(&row, &value);
        if self.kind == Kind::Import {
            let length = row.len();
            let former = self.staged.insert(row, value);
            self.bytes -= former.map_or(0, |former| length + former.map_or(0, |former| former.len()));
        } else {
            let former = self.staged.insert(row.clone(), value);
            self.bytes -= former.as_ref().map_or(0, |former| bytes_of(&row, former));
            self.undo.push((row, former));
        }
        if self.staged.len() > TransactionLimits::ROWS_WRITTEN_MAX {
            return Err(too_large("rows written", TransactionLimits::ROWS_WRITTEN_MAX));
        }
        self.check_bytes()
    }

    /// Where the transaction is now.
    pub(super) fn mark(&self) -> Mark {
        Mark { undo: self.undo.len(), changes: self.changes.len() }
    }

    /// Whether anything was staged since the mark.
    pub(super) fn changed_since(&self, mark: &Mark) -> bool {
        self.undo.len() > mark.undo
    }

    /// Ends an operation that succeeded and is no part of another.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Drops what was staged since the mark. What was read stays read.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        let dropped = self.changes.drain(mark.changes..);
        self.bytes -= dropped.map(|change| CHANGE_BYTES + change.bytes()).sum::<usize>();
        for (row, former) in self.undo.drain(mark.undo..).rev() {
            self.bytes += former.as_ref().map_or(0, |former| bytes_of(&row, former));
            let dropped = match former {
                Some(value) => self.staged.insert(row.clone(), value),
                None => self.staged.remove(&row),
            };
            self.bytes -= dropped.map_or(0, |dropped| bytes_of(&row, &dropped));
        }
    }
}

fn bytes_of(row: &Row, value: &Option<Vec<u8>>) -> usize {
    row.len() + value.as_ref().map_or(0, Vec::len)
}

fn too_large(what: &'static str, max: usize) -> Error {
    Error::TransactionTooLarge { what, max }
}

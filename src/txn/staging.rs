//! What a transaction has read and is about to write, before any of it reaches the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::TransactionLimits;
use crate::engine::{Batch, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{ROW_MAX, Row, Stored, VALUE_MAX};
use crate::id::Commit;

/// The rows that a transaction read and those that it is to write.
pub(crate) struct Staging<'a> {
    engine: &'a dyn WriteTransaction,
    read: RefCell<BTreeMap<Row, Option<Stored>>>,
    staged: Batch,
    /// What each write of the present operation replaced, to undo it.
    undo: Vec<(Row, Option<Option<Vec<u8>>>)>,
    /// An engine error that an operation met. It is the outcome, whatever the closure returns.
    failure: RefCell<Option<Error>>,
}

impl<'a> Staging<'a> {
    pub(crate) fn new(engine: &'a dyn WriteTransaction) -> Self {
        Self {
            engine,
            read: RefCell::default(),
            staged: Batch::new(),
            undo: Vec::new(),
            failure: RefCell::default(),
        }
    }

    /// The number that the commit will have.
    pub(super) fn next_commit(&self) -> Commit {
        self.engine.next_commit()
    }

    /// The rows to be written, or the engine's error that was met on the way.
    pub(crate) fn into_batch(self) -> Result<Batch> {
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.staged),
        }
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
            let found = self.engine.get(&missing).map_err(|error| self.fail(error))?;
            read.extend(missing.iter().map(|row| row.to_vec()).zip(found));
        }
        let commit = self.engine.next_commit();
        Ok(rows
            .iter()
            .map(|row| match self.staged.get(*row) {
                Some(value) => value.clone().map(|bytes| Stored { bytes, commit }),
                None => read.get(*row).cloned().flatten(),
            })
            .collect())
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
        let former = self.staged.insert(row.clone(), value);
        self.undo.push((row, former));
        if self.staged.len() > TransactionLimits::ROWS_WRITTEN_MAX {
            return Err(too_large("rows written", TransactionLimits::ROWS_WRITTEN_MAX));
        }
        let bytes = |(row, value): (&Row, &Option<Vec<u8>>)| row.len() + value.as_ref().map_or(0, Vec::len);
        if self.staged.iter().map(bytes).sum::<usize>() > TransactionLimits::BYTES_WRITTEN_MAX {
            return Err(too_large("bytes written", TransactionLimits::BYTES_WRITTEN_MAX));
        }
        Ok(())
    }

    /// The point to which an operation that is refused returns.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Ends an operation that succeeded.
    pub(super) fn keep(&mut self, mark: usize) {
        if mark == 0 {
            self.undo.clear();
        }
    }

    /// Drops what was staged since the mark. What was read stays read.
    pub(super) fn roll_back(&mut self, mark: usize) {
        for (row, former) in self.undo.drain(mark..).rev() {
            match former {
                Some(value) => self.staged.insert(row, value),
                None => self.staged.remove(&row),
            };
        }
    }
}

fn too_large(what: &'static str, max: usize) -> Error {
    Error::TransactionTooLarge { what, max }
}

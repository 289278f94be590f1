//! Creating many keys: each as by itself, and all of them written together.

use std::cell::RefCell;
use std::ops::Bound;

use super::staging::Staged;
use super::{Place, Staging, Transaction, TransactionLimits};
use crate::engine::{Load, Reading, RowSource};
use crate::error::{Error, Result};
use crate::format::{ENTRY_MAX, EncodedChange, Row, Stored, Value, after_all, encode_changes, table_of};
use crate::id::Commit;
use crate::key::NewKey;
use crate::request::Request;

/// Those of a key with one alias.
const ROWS_OF_A_KEY: usize = 4;

/// What the transactions of an import build upon, and where they leave what they did.
///
/// Each key is created by a transaction of its own, which sees those before it. Several of them make one
/// commit, as many as fit into one within the limits of a transaction.
pub(crate) struct Importing<'a> {
    engine: Reading,
    /// Commits that are on their way into the engine.
    before: Option<&'a Load>,
    place: Place<'a>,
    request: &'a Request,
    load: Load,
    /// What the open commit has so far.
    rows: usize,
    bytes: usize,
    changes: Vec<EncodedChange>,
    gaps: RefCell<Vec<Gap>>,
}

/// A range of addresses at which the engine has no row, the last that was met in a table. Where names come
/// in their order, or there was nothing before, it answers nearly all look-ups.
struct Gap {
    table: Row,
    from: Row,
    to: Row,
}

impl<'a> Importing<'a> {
    /// On this commit, or on a load that is being written upon it, for so many keys.
    pub(crate) fn new(
        engine: Reading,
        before: Option<&'a Load>,
        place: Place<'a>,
        request: &'a Request,
        keys: usize,
    ) -> Self {
        // It may be written already.
        let before = before.filter(|load| load.last_commit() != engine.commit());
        let mut load = before.map_or_else(|| Load::after(engine.commit()), Load::after_load);
        load.reserve(keys * ROWS_OF_A_KEY);
        Self {
            engine,
            before,
            place,
            request,
            load,
            rows: 0,
            bytes: 0,
            changes: Vec::new(),
            gaps: RefCell::default(),
        }
    }

    /// Creates a key with its aliases; returns why not, if it is refused. An error is one of the engine.
    pub(crate) fn create(&mut self, new: &NewKey) -> Result<Option<Error>> {
        let place = self.place.again();
        let mut txn =
            Transaction::new(Staging::of_import(self, self.load.open_commit()), place, self.request.time());
        let created = txn.create_key(new);
        let staging = txn.into_staging();
        let bytes = staging.bytes();
        let Staged { batch, changes, .. } = staging.finish()?;
        if let Err(refused) = created {
            return Ok(Some(refused));
        }
        let too_many = self.rows + batch.len() > TransactionLimits::ROWS_WRITTEN_MAX;
        if too_many || self.bytes + bytes > TransactionLimits::BYTES_WRITTEN_MAX {
            self.end_commit()?;
        }
        for (row, value) in &batch {
            self.load.put(row, value.as_deref());
        }
        self.rows += batch.len();
        self.bytes += bytes;
        self.changes.extend(changes);
        Ok(None)
    }

    fn end_commit(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let info = self.request.info(self.load.open_commit());
        let entry = (!changes.is_empty()).then(|| encode_changes(&info, &changes));
        if entry.as_ref().is_some_and(|entry| entry.len() > ENTRY_MAX) {
            return Err(Error::TransactionTooLarge { what: "bytes in the log", max: ENTRY_MAX });
        }
        self.load.end_commit(entry);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// All that is to be written.
    pub(crate) fn finish(mut self) -> Result<Load> {
        if self.rows > 0 {
            self.end_commit()?;
        }
        Ok(self.load)
    }
}

/// What is to be written, and behind that the engine.
impl RowSource for Importing<'_> {
    fn commit_read(&self) -> Commit {
        self.engine.commit()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        let one = |row: &&[u8]| {
            let mut found = None;
            self.with_row(row, &mut |value| found = Some(value.to_stored()))?;
            Ok(found)
        };
        rows.iter().map(one).collect()
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.engine.changelog_entry(commit)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        if let Some(loaded) = self.load.get(self.before, row) {
            let commit = loaded.commit;
            loaded.value.into_iter().for_each(|bytes| see(Value { bytes, commit }));
            return Ok(());
        }
        let mut gaps = self.gaps.borrow_mut();
        let known = gaps.iter_mut().find(|gap| row.starts_with(&gap.table));
        if known.as_ref().is_some_and(|gap| *gap.from <= *row && *row < *gap.to) {
            return Ok(());
        }
        let table = table_of(row);
        let end = after_all(table.to_vec());
        let next = self.engine.scan((Bound::Included(row), Bound::Excluded(&end)), 1)?.pop();
        let to = match next {
            Some((next, stored)) if next == row => {
                see((&stored?).into());
                return Ok(());
            }
            Some((next, _)) => next,
            None => end,
        };
        let gap = Gap { table: table.to_vec(), from: row.to_vec(), to };
        match known {
            Some(known) => *known = gap,
            None => gaps.push(gap),
        }
        Ok(())
    }
}

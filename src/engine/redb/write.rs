//! Writing to the table, in one transaction of redb.

use std::iter::Peekable;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{CursorError, Database, ReadableTable, Table, WriteTransaction};

use super::errors::{UNREADABLE_PAGE, of_commit, of_draft_commit, of_storage, of_table, of_transaction};
use super::log_state::LogState;
use super::spaces::{
    Beginning, KnownNumbers, NEWEST, NUMBERS, ROWS, Start, log_row, place_of_number, read_count, read_number,
};
use crate::engine::seal::{seal, seal_into, unseal};
use crate::engine::{Load, LoadedRow};
use crate::error::{Error, Result};
use crate::format::{Row, Stored, corrupted};
use crate::id::Commit;

/// Gaps that hold fewer rows than this are not worth a cursor, which is dear to place.
const WORTH_A_CURSOR: usize = 8;
/// How many rows are written one by one, at most, before the next gap is tried.
const ONE_BY_ONE_MAX: usize = 64;

/// The table while it is written.
pub(super) struct Writing<'a> {
    table: Table<'a, &'static [u8], &'static [u8]>,
    numbers: &'a KnownNumbers,
    /// The space that was written to last, and its number: the next row is mostly in the same.
    last: Option<(Row, Start)>,
    sealed: Vec<u8>,
}

/// Writes rows in one commit, with the newest commit of the store and what the file says of its log.
pub(super) fn write(
    database: &Database,
    numbers: &KnownNumbers,
    quick_repair: bool,
    (newest, state): (Commit, LogState),
    rows: impl FnOnce(&mut Writing<'_>) -> Result<()>,
) -> Result<()> {
    commit_it(staged(database, numbers, quick_repair, (newest, state), rows)?)
}

/// What the file says of its log, and no row. It is no caller's commit: a failure leaves nothing of anybody unknown.
pub(super) fn write_mark(
    database: &Database,
    numbers: &KnownNumbers,
    newest: (Commit, LogState),
) -> Result<()> {
    staged(database, numbers, true, newest, |_| Ok(()))?.commit().map_err(of_draft_commit)
}

/// The same in a file that nobody else has, and that goes away when this fails.
pub(super) fn write_draft(
    database: &Database,
    numbers: &KnownNumbers,
    newest: (Commit, LogState),
    rows: impl FnOnce(&mut Writing<'_>) -> Result<()>,
) -> Result<()> {
    staged(database, numbers, false, newest, rows)?.commit().map_err(of_draft_commit)
}

fn staged(
    database: &Database,
    numbers: &KnownNumbers,
    quick_repair: bool,
    (newest, state): (Commit, LogState),
    rows: impl FnOnce(&mut Writing<'_>) -> Result<()>,
) -> Result<WriteTransaction> {
    let mut transaction = database.begin_write().map_err(of_transaction)?;
    transaction.set_quick_repair(quick_repair);
    {
        let mut writing = Writing::begin(&transaction, numbers)?;
        writing.insert(NEWEST, &seal(NEWEST, newest, &state.encode()))?;
        rows(&mut writing)?;
    }
    Ok(transaction)
}

/// Writes what a table has before the first commit.
pub(super) fn write_first(database: &Database) -> Result<()> {
    let transaction = database.begin_write().map_err(of_transaction)?;
    {
        let mut table = transaction.open_table(ROWS).map_err(of_table)?;
        let count = 0_u64.to_be_bytes();
        for (place, bytes) in [(NEWEST, &[][..]), (&[NUMBERS], &count)] {
            let sealed = seal(place, Commit::default(), bytes);
            table.insert(place, sealed.as_slice()).map_err(of_storage)?;
        }
    }
    transaction.commit().map_err(of_draft_commit)
}

fn commit_it(transaction: WriteTransaction) -> Result<()> {
    // A panic in there may come after the commit became durable.
    let outcome = catch_unwind(AssertUnwindSafe(|| transaction.commit()));
    outcome.map_or_else(
        |_| Err(Error::CommitUnknown(UNREADABLE_PAGE.into())),
        |committed| committed.map_err(of_commit),
    )
}

impl<'a> Writing<'a> {
    pub(super) fn begin(transaction: &'a WriteTransaction, numbers: &'a KnownNumbers) -> Result<Self> {
        let table = transaction.open_table(ROWS).map_err(of_table)?;
        Ok(Self { table, numbers, last: None, sealed: Vec::new() })
    }

    /// Writes a row, or deletes it.
    pub(super) fn write(&mut self, row: &[u8], commit: Commit, value: Option<&[u8]>) -> Result<()> {
        let Some(value) = value else { return self.delete(row) };
        let mut sealed = std::mem::take(&mut self.sealed);
        seal_into(&mut sealed, row, commit, value);
        let written = self.put_sealed(row, commit, &sealed);
        self.sealed = sealed;
        written
    }

    /// Puts a value with its seal at the place of a row.
    pub(super) fn put_sealed(&mut self, row: &[u8], commit: Commit, sealed: &[u8]) -> Result<()> {
        let (beginning, rest) = Beginning::split(row);
        let start = self.start_of(beginning, commit)?;
        start.with(rest, |place| self.insert(place, sealed))
    }

    /// Writes rows as commits left them, deleted ones as `None`.
    pub(super) fn write_all(&mut self, rows: &[(Row, Option<Stored>)]) -> Result<()> {
        rows.iter().try_for_each(|(row, stored)| match stored {
            Some(stored) => self.write(row, stored.commit, Some(&stored.bytes)),
            None => self.delete(row),
        })
    }

    pub(super) fn delete(&mut self, row: &[u8]) -> Result<()> {
        let (beginning, rest) = Beginning::split(row);
        let start = match beginning {
            Beginning::Engine => Start::ENGINE,
            Beginning::NoSpace => Start::NO_SPACE,
            Beginning::Space(space) => match self.number_of(space)? {
                Some(number) => number,
                None => return Ok(()),
            },
        };
        start.with(rest, |place| self.table.remove(place).map(drop)).map_err(of_storage)
    }

    /// Deletes the log up to and with a commit.
    pub(super) fn trim_log(&mut self, trim: Commit) -> Result<()> {
        let (first, last) = (log_row(Commit::default()), log_row(trim));
        self.table.retain_in(first.as_slice()..=last.as_slice(), |_, _| false).map_err(of_storage)
    }

    /// Writes many commits. Their rows come in the order of addresses, so those of a space are together.
    pub(super) fn load(&mut self, load: &Load) -> Result<()> {
        self.write_sorted(&mut load.sorted().peekable())?;
        let entries: Vec<_> =
            load.entries().map(|(commit, entry)| (log_row(commit), commit, entry)).collect();
        let entries =
            entries.iter().map(|(row, commit, entry)| LoadedRow { row, value: Some(entry), commit: *commit });
        self.write_sorted(&mut entries.peekable())
    }

    /// Writes rows in the order of their addresses: where they fall into a gap between those that are
    /// there, all at once; where they lie among them, one by one.
    pub(super) fn write_sorted<'b>(
        &mut self,
        rows: &mut Peekable<impl Iterator<Item = LoadedRow<'b>>>,
    ) -> Result<()> {
        let mut one_by_one = 1;
        while rows.peek().is_some() {
            let filled = self.fill_gap(rows)?;
            one_by_one = if filled < WORTH_A_CURSOR { (2 * one_by_one).min(ONE_BY_ONE_MAX) } else { 1 };
            for LoadedRow { row, value, commit } in rows.by_ref().take(one_by_one) {
                self.write(row, commit, value)?;
            }
        }
        Ok(())
    }

    /// Writes rows up to the next that is there already, is to be deleted, or is in another space; returns
    /// how many.
    fn fill_gap<'b>(&mut self, rows: &mut Peekable<impl Iterator<Item = LoadedRow<'b>>>) -> Result<usize> {
        let Some(&LoadedRow { row, value: Some(_), commit }) = rows.peek() else { return Ok(0) };
        let (beginning, rest) = Beginning::split(row);
        let start = self.start_of(beginning, commit)?;
        let mut place = [&start, rest].concat();
        let cursor = self.table.lower_bound_mut(Bound::Included(place.as_slice()));
        let mut cursor = cursor.map_err(of_storage)?;
        let mut filled = 0;
        while let Some(&LoadedRow { row, value: Some(value), commit }) = rows.peek() {
            let (other, rest) = Beginning::split(row);
            if other != beginning {
                break;
            }
            place.truncate(start.len());
            place.extend_from_slice(rest);
            seal_into(&mut self.sealed, row, commit, value);
            match cursor.insert_before(place.as_slice(), self.sealed.as_slice()) {
                Ok(()) => {}
                Err(CursorError::UnorderedKey) => break,
                Err(CursorError::Storage(error)) => return Err(of_storage(error)),
                Err(other) => return Err(Error::Corrupted(other.to_string().into())),
            }
            rows.next();
            filled += 1;
        }
        cursor.close().map_err(of_storage)?;
        Ok(filled)
    }

    /// What the places of such addresses begin with; a space that has no number gets the next.
    fn start_of(&mut self, beginning: Beginning<'_>, commit: Commit) -> Result<Start> {
        match beginning {
            Beginning::Engine => Ok(Start::ENGINE),
            Beginning::NoSpace => Ok(Start::NO_SPACE),
            Beginning::Space(space) => match self.number_of(space)? {
                Some(number) => Ok(number),
                None => self.give_number(space, commit),
            },
        }
    }

    fn number_of(&mut self, space: &[u8]) -> Result<Option<Start>> {
        if let Some((last, number)) = &self.last
            && last == space
        {
            return Ok(Some(*number));
        }
        let number = match self.numbers.get(space) {
            Some(number) => Some(number),
            None => {
                let place = place_of_number(space);
                let found = self.unsealed(&place)?.map(|bytes| read_number(&place, &bytes)).transpose()?;
                found.map(|(number, _)| number)
            }
        };
        // Not among the known ones: it may have been given by this transaction, which may fail.
        self.last = number.map(|number| (space.to_vec(), number));
        Ok(number)
    }

    fn give_number(&mut self, space: &[u8], commit: Commit) -> Result<Start> {
        let missing = || corrupted(&[NUMBERS], "how many spaces have a number is missing");
        let count = read_count(&self.unsealed(&[NUMBERS])?.ok_or_else(missing)?)?;
        let next = count.checked_add(1);
        let next = next.ok_or_else(|| corrupted(&[NUMBERS], "there are too many spaces"))?;
        let (place, number) = (place_of_number(space), Start::of_number(count));
        self.insert(&place, &seal(&place, commit, &number))?;
        self.insert(&[NUMBERS], &seal(&[NUMBERS], commit, &next.to_be_bytes()))?;
        self.last = Some((space.to_vec(), number));
        Ok(number)
    }

    /// What one of the engine's own rows holds.
    fn unsealed(&self, place: &[u8]) -> Result<Option<Vec<u8>>> {
        let sealed = ReadableTable::get(&self.table, place).map_err(of_storage)?;
        sealed.map(|sealed| Ok(unseal(place, sealed.value())?.bytes.to_vec())).transpose()
    }

    /// Puts something at a place, or takes it away.
    #[cfg(test)]
    pub(super) fn put_at(&mut self, place: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self.insert(place, value),
            None => self.table.remove(place).map(drop).map_err(of_storage),
        }
    }

    fn insert(&mut self, place: &[u8], sealed: &[u8]) -> Result<()> {
        self.table.insert(place, sealed).map(drop).map_err(of_storage)
    }
}

//! Reading one commit of the table.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::errors::{guarded, of_storage, of_table, of_transaction};
use super::log_state::LogState;
use super::spaces::{
    Beginning, KnownNumbers, LOG, NEWEST, NUMBERS, ROWS, Start, log_row, place_of_number, read_count,
    read_number,
};
use crate::engine::seal::unseal;
use crate::engine::{Range, ReadTransaction, RowHash, RowSource};
use crate::error::{Error, Result};
use crate::format::{COMMIT_MAX, Row, Stored, Value, after_all, corrupted, split_space};
use crate::id::Commit;

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;
type RowsInRange<'a> = redb::Range<'a, &'static [u8], &'static [u8]>;

/// What a scan found: rows in the order of their addresses.
type Found = Vec<(Row, Result<Stored>)>;

/// A space, and its number if that can be read.
type Numbered = (Row, Result<(Start, u64)>);

/// One commit of a redb table.
pub(crate) struct RedbRead {
    table: Rows,
    numbers: Arc<KnownNumbers>,
    commit: Commit,
    log_state: LogState,
}

/// The rows in a range of one space, or of all that are in none.
struct Stretch<'a> {
    rows: RowsInRange<'a>,
    range: (Bound<Row>, Bound<Row>),
    space: &'a [u8],
    start: Start,
    /// The address of the last row.
    row: Row,
    begun: bool,
}

/// The spaces in a range, in their order, with their numbers.
struct Spaces<'a> {
    rows: RowsInRange<'a>,
    range: (Bound<Row>, Bound<Row>),
    last: Row,
}

impl RedbRead {
    /// The number of the commit that is read.
    pub(crate) fn commit(&self) -> Commit {
        self.commit
    }

    pub(super) fn newest(database: &impl ReadableDatabase, numbers: &Arc<KnownNumbers>) -> Result<Self> {
        let transaction = database.begin_read().map_err(of_transaction)?;
        let table = transaction.open_table(ROWS).map_err(of_table)?;
        let (numbers, commit, log_state) = (numbers.clone(), Commit::default(), LogState::None);
        let mut read = Self { table, numbers, commit, log_state };
        let newest = read.row(NEWEST)?;
        let newest = newest.ok_or_else(|| corrupted(NEWEST, "the newest commit is missing"))?;
        read.commit = newest.commit;
        read.log_state = LogState::decode(&newest.bytes)?;
        Ok(read)
    }

    pub(crate) fn log_state(&self) -> LogState {
        self.log_state
    }

    /// A range without what is not the store's rows: the row of the newest commit, and the log.
    pub(crate) fn range_of_rows<'a>((from, to): Range<'a>) -> Range<'a> {
        let from = match from {
            Bound::Unbounded | Bound::Included(NEWEST) => Bound::Excluded(NEWEST),
            from => from,
        };
        let to = if to == Bound::Unbounded { Bound::Excluded(&[LOG][..]) } else { to };
        (from, to)
    }

    /// What a scan found in the log.
    pub(crate) fn log_entries(rows: Found) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let numbered = rows.into_iter().map(|(row, stored)| {
            // Behind the byte that all begin with.
            let number = row.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
            let number = number.ok_or_else(|| corrupted(&row, "it is no place in the log"))?;
            let commit = Commit::new(number);
            if commit > COMMIT_MAX {
                return Ok((commit, Err(corrupted(&row, "no commit has such a number"))));
            }
            Ok((commit, stored.map(|stored| stored.bytes)))
        });
        numbered.collect()
    }

    fn row(&self, row: &[u8]) -> Result<Option<Stored>> {
        let mut found = None;
        self.see_row(row, &mut |value| found = Some(value.to_stored()))?;
        Ok(found)
    }

    fn see_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        let (beginning, rest) = Beginning::split(row);
        let Some(start) = self.start_of(beginning)? else { return Ok(()) };
        let value = start.with(rest, |place| ReadableTable::get(&self.table, place)).map_err(of_storage)?;
        if let Some(value) = value {
            see(unseal(row, value.value())?);
        }
        Ok(())
    }

    /// What the places of such addresses begin with; `None` if the space has no number, and so no rows.
    fn start_of(&self, beginning: Beginning<'_>) -> Result<Option<Start>> {
        match beginning {
            Beginning::Engine => Ok(Some(Start::ENGINE)),
            Beginning::NoSpace => Ok(Some(Start::NO_SPACE)),
            Beginning::Space(space) => self.number_of(space),
        }
    }

    fn number_of(&self, space: &[u8]) -> Result<Option<Start>> {
        if let Some(number) = self.numbers.get(space) {
            return Ok(Some(number));
        }
        let place = place_of_number(space);
        let value = ReadableTable::get(&self.table, &place[..]).map_err(of_storage)?;
        let Some(value) = value else { return Ok(None) };
        let (number, _) = read_number(&place, unseal(&place, value.value())?.bytes)?;
        self.numbers.keep(space, number);
        Ok(Some(number))
    }

    fn see_rows(
        &self,
        (from, to): Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        let beginning = match from {
            Bound::Included(row) | Bound::Excluded(row) => Beginning::split(row).0,
            Bound::Unbounded => Beginning::NoSpace,
        };
        let ends_within = |space| match to {
            Bound::Included(row) | Bound::Excluded(row) => row.starts_with(space),
            Bound::Unbounded => false,
        };
        match beginning {
            Beginning::Engine if from != Bound::Excluded(NEWEST) => {
                Stretch::new(&self.table, &[], Start::ENGINE, (from, to))?.each(limit, see)
            }
            Beginning::Space(space) if ends_within(space) => {
                let Some(number) = self.number_of(space)? else { return Ok(()) };
                Stretch::new(&self.table, space, number, (from, to))?.each(limit, see)
            }
            _ => {
                for (row, stored) in self.scan_spaces((from, to), limit)? {
                    see(&row, stored.as_ref().map(Value::from).map_err(Error::clone));
                }
                Ok(())
            }
        }
    }

    /// The first rows of a range of several spaces, which lie in the table in the order of their numbers:
    /// space by space, and between them the rows that are in none.
    fn scan_spaces(&self, range: Range<'_>, limit: usize) -> Result<Found> {
        let mut found = Found::new();
        let mut spaces = Spaces::new(&self.table, range)?;
        let mut others = Stretch::new(&self.table, &[], Start::NO_SPACE, range)?;
        let mut other = others.next()?;
        while found.len() < limit {
            let next = spaces.next()?;
            let is_before = |row: &Row| next.as_ref().is_none_or(|(space, _)| row < space);
            while found.len() < limit && other.as_ref().is_some_and(|(row, _)| is_before(row)) {
                found.extend(std::mem::replace(&mut other, others.next()?));
            }
            let Some((space, number)) = next else { break };
            let left = limit - found.len();
            match number {
                Ok((number, _)) => {
                    found.extend(Stretch::new(&self.table, &space, number, range)?.take(left)?);
                }
                Err(error) if left > 0 => found.extend(damaged_space(space, error, range.0)?),
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// Looks whether each number was given once, and no row has one that was not given.
    fn audit_numbers(&self) -> Result<()> {
        let place = [NUMBERS];
        let count = self.table.get(&place[..]).map_err(of_storage)?;
        let count = count.ok_or_else(|| corrupted(&place, "how many spaces have a number is missing"))?;
        let count = read_count(unseal(&place, count.value())?.bytes)?;
        let mut spaces = Spaces::new(&self.table, (Bound::Unbounded, Bound::Unbounded))?;
        let mut given = Vec::new();
        while let Some((_, number)) = spaces.next()? {
            given.push(number?.1);
        }
        given.sort_unstable();
        if !given.into_iter().eq(0..count) {
            return Err(corrupted(&place, "not each number is that of one space"));
        }
        let mut from = Start::of_number(0).to_vec();
        loop {
            let range = (Bound::Included(&from[..]), Bound::Excluded(&[LOG][..]));
            let mut rows = ReadableTable::range::<&[u8]>(&self.table, range).map_err(of_storage)?;
            let Some(first) = rows.next() else { return Ok(()) };
            let (place, _) = first.map_err(of_storage)?;
            let number = Start::number_in(place.value()).filter(|(start, _)| **start >= *from);
            let number = number.ok_or_else(|| corrupted(place.value(), "it is no place of a row"))?;
            if number.1 >= count {
                return Err(corrupted(place.value(), "it has the number of no space"));
            }
            from = after_all(number.0.to_vec());
        }
    }
}

impl RowSource for RedbRead {
    fn commit_read(&self) -> Commit {
        self.commit()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        guarded(|| rows.iter().map(|row| self.row(row)).collect())
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        guarded(|| self.see_row(row, see))
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        Ok(guarded(|| self.row(&log_row(commit)))?.map(|stored| stored.bytes))
    }
}

impl ReadTransaction for RedbRead {
    /// A table keeps no stripes: the engine above it does.
    fn unchanged_since(&self, _row: RowHash, _commit: Commit) -> bool {
        false
    }

    fn with_rows(
        &self,
        range: Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        guarded(|| self.see_rows(Self::range_of_rows(range), limit, see))
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let (from, to) = (log_row(after), log_row(Commit::new(u64::MAX)));
        let rows: &dyn ReadTransaction = self;
        Self::log_entries(rows.scan((Bound::Excluded(&from), Bound::Included(&to)), limit)?)
    }

    fn length(&self) -> Result<Option<u64>> {
        guarded(|| self.table.len().map(Some).map_err(of_storage))
    }

    fn audit(&self) -> Result<()> {
        guarded(|| self.audit_numbers())
    }
}

/// What a scan finds in the place of a space whose number can't be read: an error that stands for all its
/// rows. It has been told to whoever scans on from there; and to begin in the middle of it is impossible.
fn damaged_space(space: Row, error: Error, from: Bound<&[u8]>) -> Result<Option<(Row, Result<Stored>)>> {
    match from {
        Bound::Excluded(row) if *row == *space => Ok(None),
        Bound::Included(row) | Bound::Excluded(row) if row.starts_with(&space) && *row != *space => {
            Err(error)
        }
        _ => Ok(Some((space, Err(error)))),
    }
}

impl<'a> Stretch<'a> {
    /// Those within a range of addresses.
    fn new(table: &'a Rows, space: &'a [u8], start: Start, (from, to): Range<'_>) -> Result<Self> {
        // A bound that is not in the space lies before or behind all of it.
        let place = |row: &[u8]| row.strip_prefix(space).map(|rest| start.with(rest, <[u8]>::to_vec));
        let first = Bound::Included(start.to_vec());
        let from = match from {
            Bound::Included(row) => place(row).map_or(first, Bound::Included),
            Bound::Excluded(row) => place(row).map_or(first, Bound::Excluded),
            Bound::Unbounded => first,
        };
        let end = Bound::Excluded(after_all(start.to_vec()));
        let to = match to {
            Bound::Included(row) => place(row).map_or(end, Bound::Included),
            Bound::Excluded(row) => place(row).map_or(end, Bound::Excluded),
            Bound::Unbounded => end,
        };
        let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let rows = ReadableTable::range::<&[u8]>(table, range).map_err(of_storage)?;
        Ok(Self { rows, range: (from, to), space, start, row: space.to_vec(), begun: false })
    }

    fn next(&mut self) -> Result<Option<(Row, Result<Stored>)>> {
        self.see_next(&mut |row, value| (row.to_vec(), value.map(Value::to_stored)))
    }

    fn see_next<T>(&mut self, see: &mut impl FnMut(&[u8], Result<Value<'_>>) -> T) -> Result<Option<T>> {
        let Some(entry) = self.rows.next() else { return Ok(None) };
        let (place, value) = entry.map_err(of_storage)?;
        let place = place.value();
        let rest = place.strip_prefix(&*self.start);
        // On a damaged page they may not be: whoever scans on from the last would never end.
        let rest = rest.filter(|rest| match self.begun {
            true => self.row[self.space.len()..] < **rest,
            false => RangeBounds::<Vec<u8>>::contains(&self.range, &place.to_vec()),
        });
        let rest = rest.ok_or_else(|| corrupted(place, "it is out of order"))?;
        // Nobody would find it there.
        if self.start == Start::NO_SPACE && Beginning::split(rest).0 != Beginning::NoSpace {
            return Err(corrupted(place, "a row that has a space lies among those that have none"));
        }
        self.row.truncate(self.space.len());
        self.row.extend_from_slice(rest);
        self.begun = true;
        Ok(Some(see(&self.row, unseal(&self.row, value.value()))))
    }

    fn each(mut self, limit: usize, see: &mut dyn FnMut(&[u8], Result<Value<'_>>)) -> Result<()> {
        for _ in 0..limit {
            if self.see_next(&mut |row, value| see(row, value))?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn take(mut self, limit: usize) -> Result<Found> {
        let mut found = Found::new();
        while found.len() < limit {
            let Some(row) = self.next()? else { break };
            found.push(row);
        }
        Ok(found)
    }
}

impl<'a> Spaces<'a> {
    /// Those that may have rows within a range of addresses.
    fn new(table: &'a Rows, (from, to): Range<'_>) -> Result<Self> {
        let behind_count = Bound::Excluded(vec![NUMBERS]);
        let from = match from {
            Bound::Unbounded | Bound::Included(NEWEST) | Bound::Excluded(NEWEST) => behind_count,
            Bound::Included(row) | Bound::Excluded(row) => {
                Bound::Included(place_of_number(split_space(row).map_or(row, |(space, _)| space)))
            }
        };
        let to = match to {
            Bound::Unbounded => Bound::Excluded(after_all(vec![NUMBERS])),
            to => to.map(place_of_number),
        };
        let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let rows = ReadableTable::range::<&[u8]>(table, range).map_err(of_storage)?;
        Ok(Self { rows, range: (from, to), last: Row::new() })
    }

    fn next(&mut self) -> Result<Option<Numbered>> {
        let Some(entry) = self.rows.next() else { return Ok(None) };
        let (place, value) = entry.map_err(of_storage)?;
        let place = place.value();
        // On a damaged page they may not be, as in a stretch.
        let inside = RangeBounds::<Vec<u8>>::contains(&self.range, &place.to_vec());
        let space = place.strip_prefix(&[NUMBERS]).filter(|space| inside && *self.last < **space);
        let space = space.ok_or_else(|| corrupted(place, "it is out of order"))?;
        // So no space is the beginning of another, and their order is that of their rows.
        if split_space(space) != Some((space, &[])) {
            return Err(corrupted(place, "it is no space"));
        }
        self.last = space.to_vec();
        let number = unseal(place, value.value()).and_then(|stored| read_number(place, stored.bytes));
        Ok(Some((space.to_vec(), number)))
    }
}

//! [`Building`]: a store that is written into a new file, to be verified before the file gets its name.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::Path;

use super::Options;
use super::files::{NewFile, disk_bytes};
use super::incarnation::another_incarnation;
use crate::engine::{Batch, Draft, LoadedRow, ReadTransaction, Reading, RowSource};
use crate::error::Result;
use crate::format::{Fixed, Row, Space, Stored, Table, Value, after_space_of, corrupted, scope_of};
use crate::id::Commit;
use crate::progress;
use crate::verify::Report;

/// How many bytes of rows wait in memory to be written together. Tests have small stores.
const WAITING_BYTES: usize = if cfg!(test) { 16 * 1024 } else { 16 * 1024 * 1024 };
/// What a row counts besides its bytes.
const ROW_BYTES: usize = 128;
/// How many rows are read at once.
pub(super) const ROWS_AT_ONCE: usize = if cfg!(test) { 7 } else { 200 };
/// How many entries of the log are read at once.
pub(super) const ENTRIES_AT_ONCE: usize = if cfg!(test) { 3 } else { 16 };

/// A store in a file that has no name yet, and rows that are on their way there.
pub(super) struct Building<'a> {
    // The order in which they are dropped: the database is closed before its file goes.
    written: Reading,
    draft: Draft,
    file: NewFile<'a>,
    newest: Commit,
    waiting: BTreeMap<Row, (Commit, Option<Vec<u8>>)>,
    waiting_bytes: usize,
}

/// What became of it.
pub(super) struct Built {
    pub(super) report: Report,
    pub(super) bytes: u64,
    pub(super) disk_bytes: u64,
}

impl<'a> Building<'a> {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// `FileExists`, `Io`.
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        let file = NewFile::create(path)?;
        let draft = Draft::create(file.handle()?)?;
        let written = draft.read()?;
        let newest = Commit::default();
        Ok(Self { written, draft, file, newest, waiting: BTreeMap::new(), waiting_bytes: 0 })
    }

    /// Copies every row of a commit and every entry of the log, with their commits.
    ///
    /// # Errors
    ///
    /// `Corrupted` also if there may be rows that a scan does not see: a copy without them would verify.
    pub(super) fn copy(&mut self, rows: &dyn ReadTransaction) -> Result<u64> {
        rows.audit()?;
        self.newest = rows.commit();
        progress::begin("copying", rows.length()?);
        let mut from = Bound::Unbounded;
        let mut last: Row;
        loop {
            let chunk = rows.scan((from, Bound::Unbounded), ROWS_AT_ONCE)?;
            let Some((row, _)) = chunk.last() else { break };
            last = row.clone();
            progress::add(chunk.len() as u64);
            for (row, stored) in chunk {
                let stored = stored?;
                self.put(row, stored.commit, Some(stored.bytes))?;
            }
            from = Bound::Excluded(&last);
        }
        let (mut after, mut entries) = (Commit::default(), 0);
        loop {
            let chunk = rows.log(after, ENTRIES_AT_ONCE)?;
            let Some((last, _)) = chunk.last() else { break };
            after = *last;
            for (commit, bytes) in chunk {
                entries += 1;
                self.put_entry(commit, bytes?)?;
                progress::add(1);
            }
        }
        self.flush()?;
        Ok(entries)
    }

    /// Which commit is the newest.
    pub(super) fn set_newest(&mut self, newest: Commit) {
        self.newest = newest;
    }

    /// Writes a row, or deletes it.
    pub(super) fn put(&mut self, row: Row, commit: Commit, value: Option<Vec<u8>>) -> Result<()> {
        self.waiting_bytes += ROW_BYTES + row.len() + value.as_ref().map_or(0, Vec::len);
        self.waiting.insert(row, (commit, value));
        if self.waiting_bytes > WAITING_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the entry of a commit in the log.
    pub(super) fn put_entry(&mut self, commit: Commit, bytes: Vec<u8>) -> Result<()> {
        self.put(Draft::log_row(commit), commit, Some(bytes))
    }

    /// Writes what a commit wrote.
    pub(super) fn put_batch(&mut self, commit: Commit, batch: Batch) -> Result<()> {
        batch.into_iter().try_for_each(|(row, value)| self.put(row, commit, value))
    }

    /// One row as it was put, or written before.
    pub(super) fn get(&self, row: &[u8]) -> Result<Option<Stored>> {
        match self.waiting.get(row) {
            Some((commit, value)) => Ok(value.clone().map(|bytes| Stored { bytes, commit: *commit })),
            None => Ok(self.written.get(&[row])?.pop().flatten()),
        }
    }

    /// Writes what waits, and returns what is there then.
    pub(super) fn written(&mut self) -> Result<Reading> {
        self.flush()?;
        self.draft.read()
    }

    /// Removes the oldest entries of the log.
    pub(super) fn trim(&mut self, to: Commit) -> Result<()> {
        self.flush()?;
        self.draft.trim(self.newest, to)?;
        self.written = self.draft.read()?;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() && self.written.commit() == self.newest {
            return Ok(());
        }
        let rows = self.waiting.iter().map(|(row, (commit, value))| LoadedRow {
            row,
            value: value.as_deref(),
            commit: *commit,
        });
        self.draft.write(self.newest, rows)?;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.written = self.draft.read()?;
        Ok(())
    }

    /// Makes it another incarnation, which begins with the commit `first`; `last` is the newest of those that
    /// are in it.
    pub(super) fn begin_anew(&mut self, fixed: Fixed, last: Commit, first: Commit) -> Result<[u8; 16]> {
        let (fixed, rows) = another_incarnation(fixed, last, first);
        self.newest = first;
        rows.into_iter().try_for_each(|(row, value)| self.put(row, first, Some(value)))?;
        Ok(fixed.incarnation)
    }

    /// Closes the file, verifies it and gives it its name.
    ///
    /// # Errors
    ///
    /// `Unsound` if it does not verify.
    pub(super) fn finish(mut self) -> Result<Built> {
        self.flush()?;
        let Self { written, mut draft, file, .. } = self;
        drop(written);
        draft.shrink()?;
        drop(draft);
        file.sync()?;
        let written = Options::new().check_integrity(true).open_read_only(file.temporary())?;
        let report = written.verify()?;
        report.must_be_clean()?;
        let disk_bytes = disk_bytes(&file.temporary().metadata()?);
        let bytes = file.name()?;
        Ok(Built { report, bytes, disk_bytes })
    }
}

/// What a commit that is carried over reads: all that was written before it.
impl RowSource for Building<'_> {
    fn commit_read(&self) -> Commit {
        self.newest
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        rows.iter().map(|row| Building::get(self, row)).collect()
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        Building::get(self, row)?.iter().for_each(|stored| see(stored.into()));
        Ok(())
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        Ok(Building::get(self, &Draft::log_row(commit))?.map(|stored| stored.bytes))
    }
}

/// Which rows of a space are walked, if any: those between the two addresses. Told by any row of the space.
type Pick = fn(&Row) -> Option<(Row, Row)>;

/// Some rows of each space, in the order of their addresses.
pub(super) struct Walk<'a> {
    rows: &'a dyn ReadTransaction,
    pick: Pick,
    /// Where the next space is looked for.
    from: Row,
    /// What is left of the present space.
    range: Option<(Row, Row)>,
    found: VecDeque<(Row, Stored)>,
}

impl<'a> Walk<'a> {
    /// What came of requests.
    pub(super) fn outcomes(rows: &'a dyn ReadTransaction) -> Self {
        Self::new(rows, |row| {
            let space = Space::of_scope(&scope_of(row)?);
            Some((space.table(Table::Outcome), space.after_table(Table::Outcome)))
        })
    }

    /// What the projects of domains share: claims and tombstones.
    pub(super) fn of_domains(rows: &'a dyn ReadTransaction) -> Self {
        Self::new(rows, |row| {
            let of_store = row.starts_with(&Space::of_store().start());
            let shared = !of_store && scope_of(row).is_none();
            let end = after_space_of(row).filter(|_| shared)?;
            // Just before the row by which the space was found: that is its first.
            Some((row[..row.len() - 1].to_vec(), end))
        })
    }

    fn new(rows: &'a dyn ReadTransaction, pick: Pick) -> Self {
        Self { rows, pick, from: Space::of_store().start(), range: None, found: VecDeque::new() }
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<(Row, Stored)>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            if let Some((from, to)) = &mut self.range {
                let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
                let chunk = self.rows.scan(range, ROWS_AT_ONCE)?;
                match chunk.last() {
                    Some((last, _)) => *from = last.clone(),
                    None => self.range = None,
                }
                for (row, stored) in chunk {
                    self.found.push_back((row, stored?));
                }
                continue;
            }
            let space = self.rows.scan((Bound::Included(&self.from), Bound::Unbounded), 1)?.pop();
            let Some((row, _)) = space else { return Ok(None) };
            self.from = after_space_of(&row).ok_or_else(|| corrupted(&row, "it lies in no space"))?;
            self.range = (self.pick)(&row);
        }
    }
}

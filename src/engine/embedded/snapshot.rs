//! What one commit left: rows in memory over those of the table.

use std::ops::Bound;
use std::sync::Arc;

use super::memtable::Memtable;
use crate::engine::redb::{RedbRead, log_row};
use crate::engine::{Range, ReadTransaction, RowHash, RowSource, Stripes};
use crate::error::Result;
use crate::format::{Row, Stored, Value};
use crate::id::Commit;

/// How many rows of the table file are read at once by a scan.
const ROWS_AT_ONCE: usize = 256;

/// Where rows are looked for, the newest first.
pub(super) struct View {
    pub(super) active: Arc<Memtable>,
    pub(super) frozen: Option<Arc<Frozen>>,
    pub(super) base: Arc<RedbRead>,
}

/// What the checkpoint is to write, or is writing, to the table file.
pub(super) struct Frozen {
    pub(super) rows: Arc<Memtable>,
    pub(super) last: Commit,
    /// The first segment of the log that it is in.
    pub(super) oldest_sequence: u64,
}

/// The rows as one commit left them.
pub(super) struct Snapshot {
    pub(super) view: Arc<View>,
    pub(super) commit: Commit,
    /// Marked by each commit before anybody can read it: rows with no newer mark than the table file are
    /// not in memory.
    pub(super) stripes: Arc<Stripes>,
}

impl Snapshot {
    fn row(&self, row: &[u8]) -> Result<Option<Stored>> {
        let mut found = None;
        self.with_row(row, &mut |value| found = Some(value.to_stored()))?;
        Ok(found)
    }

    /// The rows of a range that are in memory, in order, deleted ones as `None`.
    fn in_memory(&self, range: Range<'_>) -> impl Iterator<Item = (Row, Option<Stored>)> {
        let View { active, frozen, .. } = &*self.view;
        let mut active = active.scan(range, self.commit).peekable();
        let frozen = frozen.as_ref().map(|frozen| frozen.rows.scan(range, self.commit));
        let mut frozen = frozen.into_iter().flatten().peekable();
        std::iter::from_fn(move || {
            let next = [active.peek().map(|(row, _)| row), frozen.peek().map(|(row, _)| row)];
            let row = next.into_iter().flatten().min()?.clone();
            // Each that has the row goes on; the newer has its say.
            let newest = active.next_if(|(next, _)| *next == row);
            let older = frozen.next_if(|(next, _)| *next == row);
            newest.or(older)
        })
    }

    /// The places of the log's entries up to and with this commit.
    pub(super) fn log_rows_up_to(&self, trim: Commit) -> Result<Vec<Row>> {
        let (first, last) = (log_row(Commit::default()), log_row(trim));
        let rows: &dyn ReadTransaction = self;
        let found = rows.scan((Bound::Included(&first), Bound::Included(&last)), usize::MAX)?;
        Ok(found.into_iter().map(|(row, _)| row).collect())
    }
}

impl RowSource for Snapshot {
    fn commit_read(&self) -> Commit {
        self.commit
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        rows.iter().map(|row| self.row(row)).collect()
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        let View { active, frozen, base } = &*self.view;
        if self.stripes.last(RowHash::of(row)) <= base.commit() {
            return base.with_row(row, see);
        }
        let in_memory = active.with_row(row, self.commit, see)
            || frozen.as_ref().is_some_and(|frozen| frozen.rows.with_row(row, self.commit, see));
        if in_memory { Ok(()) } else { base.with_row(row, see) }
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        Ok(self.row(&log_row(commit))?.map(|stored| stored.bytes))
    }
}

impl ReadTransaction for Snapshot {
    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        self.stripes.is_same(row, commit, self.commit)
    }

    fn with_rows(
        &self,
        range: Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        let (from, to) = RedbRead::range_of_rows(range);
        let mut newer = self.in_memory((from, to)).peekable();
        let (mut from, mut left) = (from.map(<[u8]>::to_vec), limit);
        // Some of the table file's rows at a time, because those in memory may replace any of them.
        while left > 0 && newer.peek().is_some() {
            let at_once = left.min(ROWS_AT_ONCE);
            let (mut of_base, mut last) = (0, Row::new());
            let range = (from.as_ref().map(Vec::as_slice), to);
            self.view.base.with_rows(range, at_once, &mut |row, value| {
                of_base += 1;
                last.clear();
                last.extend_from_slice(row);
                while let Some((before, stored)) = newer.next_if(|(next, _)| left > 0 && **next < *row) {
                    show(&before, stored.as_ref(), &mut left, see);
                }
                if left == 0 {
                    return;
                }
                match newer.next_if(|(next, _)| **next == *row) {
                    Some((_, stored)) => show(row, stored.as_ref(), &mut left, see),
                    None => {
                        left -= 1;
                        see(row, value);
                    }
                }
            })?;
            if of_base < at_once {
                // Behind the last of the table file.
                while left > 0
                    && let Some((row, stored)) = newer.next()
                {
                    show(&row, stored.as_ref(), &mut left, see);
                }
                return Ok(());
            }
            from = Bound::Excluded(last);
        }
        if left == 0 {
            return Ok(());
        }
        self.view.base.with_rows((from.as_ref().map(Vec::as_slice), to), left, see)
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let (from, to) = (log_row(after), log_row(Commit::new(u64::MAX)));
        let rows: &dyn ReadTransaction = self;
        RedbRead::log_entries(rows.scan((Bound::Excluded(&from), Bound::Included(&to)), limit)?)
    }

    fn length(&self) -> Result<Option<u64>> {
        self.view.base.length()
    }

    fn audit(&self) -> Result<()> {
        // Of each frame of the log the whole was read when it was opened.
        self.view.base.audit()
    }
}

/// Shows a row that is in memory, if it was not deleted.
fn show(
    row: &[u8],
    stored: Option<&Stored>,
    left: &mut usize,
    see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
) {
    if let Some(stored) = stored {
        *left -= 1;
        see(row, Ok(stored.into()));
    }
}

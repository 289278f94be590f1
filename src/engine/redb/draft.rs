//! [`Draft`]: a table file that nobody else has, and that is written in large pieces.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;

use super::errors::{guarded, of_compaction, of_database};
use super::log_state::LogState;
use super::read::RedbRead;
use super::spaces::{KnownNumbers, log_row};
use super::write::{Writing, write_draft, write_first};
use super::{Closing, builder, existing};
use crate::engine::{LoadedRow, Reading};
use crate::error::{Error, Result};
use crate::format::Row;
use crate::id::Commit;

/// The memory for pages of a draft.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// A table file in the making: a backup, or a store that is being restored or repaired.
///
/// Whoever writes it says the commit of each row, and the newest. It is a store only when the row of what
/// is fixed at creation is in it; and it is to be given away only when it was dropped, synced and verified.
pub(crate) struct Draft {
    database: Closing<redb::Database>,
    numbers: Arc<KnownNumbers>,
    log_state: LogState,
}

impl Draft {
    /// Begins with nothing, in an empty file.
    pub(crate) fn create(file: File) -> Result<Self> {
        guarded(|| {
            let backend = FileBackend::new(file).map_err(of_database)?;
            let database = builder(CACHE_BYTES).create_with_backend(backend).map_err(of_database)?;
            let (database, numbers) = (Closing::new(database, None), Arc::new(KnownNumbers::new()));
            write_first(&database)?;
            Ok(Self { database, numbers, log_state: LogState::None })
        })
    }

    /// Goes on with a store that was closed, and that has all that was in its write-ahead log.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        guarded(|| {
            let backend = existing(path)?;
            let database = builder(CACHE_BYTES).create_with_backend(backend).map_err(of_database)?;
            let (database, numbers) = (Closing::new(database, None), Arc::new(KnownNumbers::new()));
            let log_state = RedbRead::newest(&*database, &numbers)?.log_state();
            if matches!(log_state, LogState::InUse { .. }) {
                let why = "the store was not closed, and needs it: open it with its log once";
                return Err(Error::LogMismatch(why.into()));
            }
            Ok(Self { database, numbers, log_state })
        })
    }

    /// What is there so far.
    pub(crate) fn read(&self) -> Result<Reading> {
        Ok(Reading::of(guarded(|| RedbRead::newest(&*self.database, &self.numbers))?))
    }

    /// The place of a commit's entry in the log, among the rows: behind all others.
    pub(crate) fn log_row(commit: Commit) -> Row {
        log_row(commit)
    }

    /// Writes rows in the order of their addresses, and which commit is the newest; all or nothing.
    pub(crate) fn write<'a>(&self, newest: Commit, rows: impl Iterator<Item = LoadedRow<'a>>) -> Result<()> {
        self.change(newest, |writing| writing.write_sorted(&mut rows.peekable()))
    }

    /// Removes the entries of the log up to and with a commit.
    pub(crate) fn trim(&self, newest: Commit, to: Commit) -> Result<()> {
        self.change(newest, |writing| writing.trim_log(to))
    }

    /// Moves pages from the end of the file to where others are free, so that closing makes it shorter. Nobody may
    /// read it meanwhile.
    pub(crate) fn shrink(&mut self) -> Result<()> {
        guarded(|| match &mut self.database.database {
            Some(database) => database.compact().map(drop).map_err(of_compaction),
            None => Ok(()),
        })
    }

    fn change(&self, newest: Commit, change: impl FnOnce(&mut Writing<'_>) -> Result<()>) -> Result<()> {
        guarded(|| write_draft(&self.database, &self.numbers, (newest, self.log_state), change))
    }
}

#[cfg(test)]
impl Draft {
    /// Puts a value where it may not belong, whole or not, or takes one away.
    pub(crate) fn damage(&self, row: &[u8], value: Option<&[u8]>) {
        let transaction = self.database.begin_write().unwrap();
        {
            let mut writing = Writing::begin(&transaction, &self.numbers).unwrap();
            match value {
                Some(value) => writing.put_sealed(row, Commit::default(), value).unwrap(),
                None => writing.delete(row).unwrap(),
            }
        }
        transaction.commit().unwrap();
    }
}

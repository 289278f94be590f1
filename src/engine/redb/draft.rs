//! [`Draft`]: a table file that nobody else has, and that is written in large pieces.

use std::fs::File;
use std::path::Path;

use redb::Database;
use redb::backends::FileBackend;

use super::{
    Closing, LogState, RedbRead, builder, existing, guarded, log_row, of_database, of_storage, write,
    write_sorted,
};
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
    database: Closing<Database>,
    log_state: LogState,
}

impl Draft {
    /// Begins with nothing, in an empty file.
    pub(crate) fn create(file: File) -> Result<Self> {
        guarded(|| {
            let backend = FileBackend::new(file).map_err(of_database)?;
            let database = builder(CACHE_BYTES).create_with_backend(backend).map_err(of_database)?;
            let draft = Self { database: Closing(Some(database)), log_state: LogState::None };
            draft.write(Commit::default(), std::iter::empty())?;
            Ok(draft)
        })
    }

    /// Goes on with a store that was closed, and that has all that was in its redo log.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        guarded(|| {
            let backend = existing(path)?;
            let database = builder(CACHE_BYTES).create_with_backend(backend).map_err(of_database)?;
            let database = Closing(Some(database));
            let log_state = RedbRead::newest(&*database, None)?.log_state;
            if matches!(log_state, LogState::InUse { .. }) {
                return Err(Error::RecoveryNeeded);
            }
            Ok(Self { database, log_state })
        })
    }

    /// What is there so far.
    pub(crate) fn read(&self) -> Result<Reading> {
        Ok(Reading::of(guarded(|| RedbRead::newest(&*self.database, None))?))
    }

    /// The place of a commit's entry in the log, among the rows: behind all others.
    pub(crate) fn log_row(commit: Commit) -> Row {
        log_row(commit)
    }

    /// Writes rows in the order of their addresses, and which commit is the newest; all or nothing.
    pub(crate) fn write<'a>(&self, newest: Commit, rows: impl Iterator<Item = LoadedRow<'a>>) -> Result<()> {
        guarded(|| {
            write(&self.database, false, newest, self.log_state, |table| {
                write_sorted(table, &mut rows.peekable())
            })
        })
    }

    /// Removes the entries of the log up to and with a commit.
    pub(crate) fn trim(&self, newest: Commit, to: Commit) -> Result<()> {
        guarded(|| {
            write(&self.database, false, newest, self.log_state, |table| {
                let (first, last) = (log_row(Commit::default()), log_row(to));
                table.retain_in(first.as_slice()..=last.as_slice(), |_, _| false).map_err(of_storage)?;
                Ok(())
            })
        })
    }
}

#[cfg(test)]
impl Draft {
    /// Puts a value where it may not belong, whole or not, or takes one away.
    pub(crate) fn damage(&self, row: &[u8], value: Option<&[u8]>) {
        let transaction = self.database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(super::ROWS).unwrap();
            match value {
                Some(value) => drop(table.insert(row, value).unwrap()),
                None => drop(table.remove(row).unwrap()),
            }
        }
        transaction.commit().unwrap();
    }
}

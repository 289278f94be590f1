//! redb's errors, and its panics, as those of the seam.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{CommitError, CompactionError, DatabaseError, StorageError, TableError, TransactionError};

use super::pages::locks::NotInTime;
use crate::engine::lock_holder::locked_by_somebody;
use crate::error::{Error, Result};

/// What is said of a page that does not fit the checksum by which it is named.
pub(super) const DAMAGED_PAGE: &str = "a page of the table does not fit its checksum: it is damaged, or an older one; \
     `keystead verify` tells which, a backup or `keystead repair` helps";
pub(super) const UNREADABLE_PAGE: &str = "redb met a page that it can't read";

/// Runs what calls redb; a panic in there means that a page is not what it should be.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::Corrupted(UNREADABLE_PAGE.into())))
}

pub(super) fn of_database(error: DatabaseError) -> Error {
    match of_redb(error.into()) {
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::NotAStore(error.to_string().into())
        }
        other => other,
    }
}

pub(super) fn of_transaction(error: TransactionError) -> Error {
    of_redb(error.into())
}

pub(super) fn of_table(error: TableError) -> Error {
    of_redb(error.into())
}

pub(super) fn of_storage(error: StorageError) -> Error {
    of_redb(error.into())
}

/// A commit that redb could not complete may have become durable, except where it says otherwise.
pub(super) fn of_commit(error: CommitError) -> Error {
    match error {
        CommitError::Storage(error) => Error::CommitUnknown(of_storage(error).to_string().into()),
        other => of_redb(other.into()),
    }
}

/// A commit into a file that nobody else has, and that goes away when this fails: nothing of it is unknown.
pub(super) fn of_draft_commit(error: CommitError) -> Error {
    of_redb(error.into())
}

pub(super) fn of_compaction(error: CompactionError) -> Error {
    of_redb(error.into())
}

/// What is said of a lock that could not be had in time.
fn not_in_time(error: &io::Error) -> Option<Error> {
    let NotInTime(locked) = error.get_ref()?.downcast_ref()?;
    Some(Error::AlreadyOpen(locked.clone()))
}

fn of_redb(error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::Corrupted("the file ends too early".into())
        }
        redb::Error::Io(error) => not_in_time(&error).unwrap_or_else(|| error.into()),
        redb::Error::Unsupported => io::Error::from(io::ErrorKind::Unsupported).into(),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Error::Poisoned,
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            Error::AlreadyOpen(locked_by_somebody())
        }
        redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
            Error::NotAStore("it is a redb file without the table of a keystead store".into())
        }
        redb::Error::UpgradeRequired(version) => {
            Error::NotAStore(format!("it is a redb file of the old format {version}").into())
        }
        redb::Error::RepairAborted => Error::Corrupted(
            "the table was not closed, and what reads it can't tell which commit is its last; open it to write, or \
             use `keystead repair`"
                .into(),
        ),
        // What it is given in the place of a damaged page leads to such a number.
        redb::Error::Corrupted(what) if what.contains("order greater than the maximum") => {
            Error::Corrupted(DAMAGED_PAGE.into())
        }
        other => Error::Corrupted(other.to_string().into()),
    }
}

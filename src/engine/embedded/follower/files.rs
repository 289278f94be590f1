//! The files of a store that is followed.

use crate::engine::disk::StorageBackend;
use crate::engine::redb::TableReader;
use crate::error::{Error, Locked, Result};

/// Which file it is, if the system can tell.
pub(crate) type FileId = Option<(u64, u64)>;

/// The files of a store, by their names.
pub(crate) trait FollowedFiles: Send + Sync + 'static {
    /// Opens the table file.
    fn table(&self) -> Result<(TableReader, FileId)>;

    /// Which file has the name of the table file now; `None` if there is none.
    fn table_now(&self) -> Result<FileId>;

    /// Opens the log, if there is one.
    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>>;

    /// Which file the log is, as [`boot`](crate::engine::boot) tells it.
    fn boot(&self) -> u64 {
        0
    }

    /// How they are called in an error.
    fn name(&self) -> String;

    /// `AlreadyOpen`, of these files.
    fn locked(&self) -> Error {
        Error::AlreadyOpen(Locked { path: self.name().into(), holder: None })
    }
}

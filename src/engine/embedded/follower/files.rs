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

/// For tests and fuzzing: files that are in memory, which by their numbers are the table (0) and the log (1).
#[cfg(any(test, fuzzing))]
pub(crate) struct Simulated<F> {
    pub(crate) file: F,
    /// Whether there seems to be a writer.
    pub(crate) is_written: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(any(test, fuzzing))]
impl<F: Fn(usize) -> B + Send + Sync + 'static, B: StorageBackend> FollowedFiles for Simulated<F> {
    fn table(&self) -> Result<(TableReader, FileId)> {
        let file = self.open(0, crate::engine::redb::WRITER_BYTE);
        Ok((TableReader::on(file, crate::engine::redb::Pages::believed(1 << 20))?, None))
    }

    fn table_now(&self) -> Result<FileId> {
        Ok(None)
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        Ok(Some(Box::new(self.open(1, crate::engine::embedded::wal::LOCKED_BYTE))))
    }

    fn name(&self) -> String {
        "simulated files".to_owned()
    }
}

#[cfg(any(test, fuzzing))]
impl<F: Fn(usize) -> B, B> Simulated<F> {
    fn open(&self, number: usize, byte: u64) -> crate::engine::disk::Unlocked<B> {
        let (file, is_locked) = ((self.file)(number), self.is_written.clone());
        crate::engine::disk::Unlocked { file, byte, is_locked }
    }
}

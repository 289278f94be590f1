//! The table of the embedded engine: one redb table, in one file or in memory.
//!
//! `spaces` says where in the table a row lies, `seal` what is around its value. The log lies behind all
//! rows, in the same tree, because a second one would cost each commit more pages. redb may panic on a
//! damaged page; here that becomes `Corrupted` too, and inside of redb's commit `CommitUnknown`.

mod draft;
mod errors;
mod log_state;
mod pages;
mod read;
mod salvage;
mod spaces;
mod write;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(not(any(test, fuzzing)))]
use redb::Builder;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{ConcurrencyMode, Database, ReadOnlyDatabase, ReadableDatabase};

use super::disk::StorageBackend;
use super::lock_holder::FileId;
use super::lock_wait::LOCK_WAIT_DEFAULT;
#[cfg(test)]
use super::{Engine, EngineStats, Reading, Waited, WriteTransaction};
use super::{Load, PageRound, PageState};
use crate::error::{Error, Result};
use crate::format::{Row, Stored};
use crate::id::Commit;

#[cfg(any(test, fuzzing))]
pub(crate) use super::seal::{seal, unseal};
pub(crate) use draft::Draft;
pub(crate) use log_state::LogState;
pub(crate) use read::RedbRead;
#[cfg(any(test, fuzzing))]
pub(crate) use redb::Builder;
pub(crate) use salvage::{DamagedPage, Instead, NewerCommit, Places, Salvage, Salvaged};
pub(crate) use spaces::log_row;

use errors::{guarded, of_database, of_transaction};
pub(crate) use pages::FirstPage;
#[cfg(any(test, fuzzing))]
pub(crate) use pages::WRITER_BYTE;
use pages::header::is_unflushed;
use pages::locks::Locks;
use pages::{Checked, PageFile};
use spaces::KnownNumbers;
use write::{Writing, write, write_first, write_mark};

/// How the pages of a file are treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    pub(crate) cache_bytes: usize,
    /// Whether all are compared with their checksums before anything is read; and, to write, redb's lists of free ones
    /// rebuilt.
    pub(crate) check_integrity: bool,
    /// How long an opening, a read and the closing wait for locks of others.
    pub(crate) lock_wait: Duration,
}

/// A table file that this process only reads, maybe beside another that writes it.
pub(crate) struct TableReader {
    database: Closing<ReadOnlyDatabase>,
    pages: Arc<PageFile>,
    numbers: Arc<KnownNumbers>,
}

/// A database whose closing is guarded: redb works on its pages then too, and may panic on a damaged
/// one.
struct Closing<D> {
    database: Option<D>,
    /// Where it lies, if that is a file: closing it needs locks.
    pages: Option<Arc<PageFile>>,
}

/// The table of a store, which this process may write: in a file, or in memory.
pub(crate) struct TableFile {
    database: Closing<Database>,
    /// `None` in memory, where nothing is damaged.
    pages: Option<Arc<PageFile>>,
    /// Whether it can be opened at once after a crash, also for reading only.
    quick_repair: bool,
    numbers: Arc<KnownNumbers>,
}

#[cfg(test)]
impl TableFile {
    /// Writes each commit in one phase, as redb does by default.
    pub(crate) fn without_quick_repair(mut self) -> Self {
        self.quick_repair = false;
        self
    }

    /// Puts a value, sealed or not, where it may not belong, or takes one away; without a commit.
    pub(crate) fn damage(&self, row: &[u8], value: Option<&[u8]>) {
        self.change(|writing| match value {
            Some(value) => writing.put_sealed(row, Commit::default(), value).unwrap(),
            None => writing.delete(row).unwrap(),
        });
    }

    /// The same, at a place in the table.
    pub(crate) fn damage_place(&self, place: &[u8], value: Option<&[u8]>) {
        self.change(|writing| writing.put_at(place, value).unwrap());
    }

    /// All places that are taken, in their order.
    pub(crate) fn places(&self) -> Vec<Row> {
        let read = redb::ReadableDatabase::begin_read(&*self.database).unwrap();
        let rows = read.open_table(spaces::ROWS).unwrap();
        redb::ReadableTable::iter(&rows).unwrap().map(|row| row.unwrap().0.value().to_vec()).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Writing<'_>)) {
        let transaction = self.database.begin_write().unwrap();
        change(&mut Writing::begin(&transaction, &self.numbers).unwrap());
        transaction.commit().unwrap();
        self.numbers.forget();
    }
}

/// So that tests read a table as they read an engine.
#[cfg(test)]
impl Engine for TableReader {
    fn begin_read(&self) -> Result<Reading> {
        Ok(Reading::of(self.newest()?))
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Err(Error::ReadOnly)
    }

    fn wait(&self, _: Commit, _: Duration) -> Result<Waited> {
        Ok(Waited::Closed)
    }

    fn stop_waiting(&self) {}

    fn knows_next_commit(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        TableReader::check_pages(self, after, bytes).map(Some)
    }

    fn stats(&self) -> EngineStats {
        EngineStats { wal: None, pages: Some(self.page_state()) }
    }
}

impl TableFile {
    /// Makes a table in an empty file that nobody else has.
    pub(crate) fn create(file: File, pages: Pages) -> Result<Self> {
        Self::initialize(backend(file)?, &pages.shared_builder())
    }

    /// Makes a table on an empty backend.
    pub(crate) fn initialize(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        let pages = PageFile::new(backend)?;
        let database = builder.create_with_backend(Checked(pages.clone())).map_err(of_database)?;
        write_first(&database)?;
        pages.opened();
        Ok(Self::of(database, Some(pages)))
    }

    /// Makes a table in memory.
    pub(crate) fn in_memory(cache_bytes: usize) -> Result<Self> {
        let database =
            builder(cache_bytes).create_with_backend(InMemoryBackend::new()).map_err(of_database)?;
        write_first(&database)?;
        Ok(Self::of(database, None))
    }

    /// Opens the table file of a store to write; others may read it.
    pub(crate) fn open(path: &Path, pages: Pages) -> Result<Self> {
        Self::open_pages(pages.writable(path)?, &pages.shared_builder())
    }

    /// Opens the table file on a backend that has one.
    pub(crate) fn on(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        Self::open_pages(PageFile::new(backend)?, builder)
    }

    fn open_pages(pages: Arc<PageFile>, builder: &Builder) -> Result<Self> {
        guarded(|| {
            let database = builder.create_with_backend(Checked(pages.clone())).map_err(of_database)?;
            pages.recovered();
            pages.opened();
            Ok(Self::of(database, Some(pages)))
        })
    }

    fn of(database: Database, pages: Option<Arc<PageFile>>) -> Self {
        let (quick_repair, numbers) = (pages.is_some(), Arc::new(KnownNumbers::new()));
        Self { database: Closing::new(database, pages.clone()), pages, quick_repair, numbers }
    }

    pub(crate) fn newest(&self) -> Result<RedbRead> {
        guarded(|| RedbRead::newest(&*self.database, &self.numbers))
    }

    /// What the file says of its log.
    pub(crate) fn log_state(&self) -> Result<LogState> {
        Ok(self.newest()?.log_state())
    }

    /// From here on nothing waits long for a lock on the file that another process holds: it is being closed.
    pub(super) fn begin_to_close(&self) {
        if let Some(pages) = &self.pages {
            pages.locks.close();
        }
    }

    /// As [`Engine::check_pages`](super::Engine::check_pages).
    pub(super) fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.pages.as_ref().map(|pages| check(&*self.database, pages, after, bytes)).transpose()
    }

    /// What is known of the pages; see [`EngineStats::pages`](super::EngineStats::pages).
    pub(super) fn page_state(&self) -> Option<PageState> {
        self.pages.as_ref().map(|pages| pages.state())
    }

    /// # Errors
    ///
    /// `Corrupted` if a page was found damaged.
    pub(super) fn must_be_sound(&self) -> Result<()> {
        self.pages.as_ref().map_or(Ok(()), |pages| pages.must_be_sound())
    }

    /// Has [`shown`](Self::shown) tell when others can see this commit, the next one.
    pub(super) fn announce(&self, commit: Commit) -> Result<()> {
        self.pages.as_ref().map_or(Ok(()), |pages| Ok(pages.announce(commit)?))
    }

    /// The newest commit that was [announced](Self::announce) and that others may have seen.
    pub(super) fn shown(&self) -> Commit {
        self.pages.as_ref().map_or_else(Commit::default, |pages| pages.shown())
    }

    /// Changes what the file says of its log, and nothing else.
    pub(crate) fn mark(&self, state: LogState) -> Result<()> {
        let newest = self.newest()?.commit();
        guarded(|| write_mark(&self.database, &self.numbers, (newest, state)))
    }

    /// Writes some rows as a commit left them, deleted ones as `None`, all or nothing, durably.
    pub(super) fn checkpoint(
        &self,
        rows: &[(Row, Option<Stored>)],
        newest: Commit,
        state: LogState,
    ) -> Result<RedbRead> {
        self.write(newest, state, |writing| writing.write_all(rows))?;
        self.newest()
    }

    /// Writes one commit, durably.
    pub(super) fn commit(
        &self,
        rows: &[(Row, Option<Stored>)],
        newest: Commit,
        state: LogState,
    ) -> Result<RedbRead> {
        self.write(newest, state, |writing| writing.write_all(rows))?;
        // Durable from here on: if the new state can't be read, that is not known to the caller.
        self.newest().map_err(|error| Error::CommitUnknown(error.to_string().into()))
    }

    /// Writes many commits, all or nothing, durably.
    pub(super) fn load(&self, load: &Load, state: LogState) -> Result<RedbRead> {
        self.write(load.last_commit(), state, |writing| writing.load(load))?;
        // Durable from here on: if the new state can't be read, that is not known to the caller.
        self.newest().map_err(|error| Error::CommitUnknown(error.to_string().into()))
    }

    fn write(
        &self,
        newest: Commit,
        state: LogState,
        rows: impl FnOnce(&mut Writing<'_>) -> Result<()>,
    ) -> Result<()> {
        guarded(|| write(&self.database, &self.numbers, self.quick_repair, (newest, state), rows))
    }
}

/// What redb takes for a damaged file is a failure to read it, if there was one.
fn failed_or(pages: &PageFile, error: Error) -> Error {
    match (&error, pages.failure()) {
        (Error::Corrupted(_) | Error::NotAStore(_), Some(failure)) => io::Error::other(failure).into(),
        _ => error,
    }
}

impl TableReader {
    /// Opens the table file of a store for reading, also while another process writes it, or if none closed it.
    pub(crate) fn open(file: File, path: &Path, pages: Pages) -> Result<Self> {
        let locks = Locks::new(FileId::of(&file, path), pages.lock_wait);
        Self::of(PageFile::to_be_followed(backend(file)?, locks)?, pages)
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path, pages: Pages) -> Result<Self> {
        Self::open(File::open(path)?, path, pages)
    }

    /// The same, on a backend that has one.
    pub(crate) fn on(file: impl StorageBackend, pages: Pages) -> Result<Self> {
        Self::of(PageFile::to_be_followed(file, Locks::default())?, pages)
    }

    fn of(file: Arc<PageFile>, pages: Pages) -> Result<Self> {
        let opened = Self::of_sound(file.clone(), pages);
        opened.map_err(|error| failed_or(&file, error))
    }

    fn of_sound(file: Arc<PageFile>, pages: Pages) -> Result<Self> {
        guarded(|| {
            let (builder, check_integrity, pages) = (pages.shared_builder(), pages.check_integrity, file);
            let database =
                builder.open_read_only_with_backend(Checked(pages.clone())).map_err(of_database)?;
            let database = Closing::new(database, Some(pages.clone()));
            let numbers = Arc::new(KnownNumbers::new());
            let reader = Self { database, pages, numbers };
            reader.newest()?;
            reader.pages.opened();
            if check_integrity {
                check(&*reader.database, &reader.pages, None, u64::MAX)?;
                reader.pages.must_be_sound()?;
            }
            Ok(reader)
        })
    }

    /// The newest commit of the table.
    pub(crate) fn newest(&self) -> Result<RedbRead> {
        let read = self.pages.locks.reading(|| guarded(|| RedbRead::newest(&*self.database, &self.numbers)));
        read.map_err(|error| failed_or(&self.pages, error))
    }

    /// Whether a read of the file failed: after it redb reads no more, so it must be opened again.
    pub(crate) fn has_failed(&self) -> bool {
        self.pages.is_stopped()
    }

    /// The beginning of the file, which no commit of the table leaves as it was.
    pub(crate) fn first_page(&self) -> Result<FirstPage> {
        Ok(self.pages.first_page()?)
    }

    /// Whether the file is at rest with this first page: nobody is about to say that its newest commit is on the disk.
    pub(crate) fn is_still(&self, page: &FirstPage) -> Result<bool> {
        Ok(!is_unflushed(page) && self.first_page()? == *page)
    }

    /// Whether a process has the table open to write.
    pub(crate) fn has_writer(&self) -> Result<bool> {
        Ok(self.pages.has_writer()?)
    }

    /// As [`Engine::check_pages`](super::Engine::check_pages).
    pub(crate) fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<PageRound> {
        check(&*self.database, &self.pages, after, bytes)
    }

    pub(crate) fn page_state(&self) -> PageState {
        self.pages.state()
    }
}

impl<D> Closing<D> {
    fn new(database: D, pages: Option<Arc<PageFile>>) -> Self {
        Self { database: Some(database), pages }
    }
}

impl<D> Deref for Closing<D> {
    type Target = D;

    fn deref(&self) -> &D {
        self.database.as_ref().expect("it is taken only when it is closed")
    }
}

impl<D> Drop for Closing<D> {
    fn drop(&mut self) {
        let database = self.database.take();
        if let Some(pages) = &self.pages {
            pages.locks.close();
        }
        // Nothing is lost: every commit was durable before. Without its locks the file stays as a crash leaves it.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

/// Compares pages, while the commit that they are of is held.
fn check(
    database: &impl ReadableDatabase,
    pages: &PageFile,
    after: Option<Vec<u8>>,
    bytes: u64,
) -> Result<PageRound> {
    guarded(|| {
        let _held = pages.locks.reading(|| database.begin_read().map_err(of_transaction))?;
        pages.check(after, bytes)
    })
}

/// Compares all pages of a file with their checksums, without redb: also of one that it can't open. Nobody may have
/// it open to write.
pub(crate) fn check_closed_file(file: impl StorageBackend) -> Result<PageRound> {
    PageFile::new(file)?.check_closed()
}

/// A file that exists, and is not empty.
fn existing(path: &Path) -> Result<FileBackend> {
    backend(existing_file(path)?)
}

fn existing_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() == 0 {
        return Err(Error::NotAStore("the file is empty".into()));
    }
    Ok(file)
}

/// A file to be read and written, for redb or for the write-ahead log.
pub(crate) fn backend(file: File) -> Result<FileBackend> {
    FileBackend::new(file).map_err(of_database)
}

/// The settings for a backend that nobody else can open, and whose pages are believed.
pub(crate) fn builder(cache_bytes: usize) -> Builder {
    Pages::believed(cache_bytes).builder()
}

impl Pages {
    /// Pages that are believed to be as they were written.
    pub(crate) const fn believed(cache_bytes: usize) -> Self {
        Self { cache_bytes, check_integrity: false, lock_wait: LOCK_WAIT_DEFAULT }
    }

    /// A file that exists, to be read and written.
    fn writable(self, path: &Path) -> Result<Arc<PageFile>> {
        self.file(existing_file(path)?, path)
    }

    fn file(self, file: File, path: &Path) -> Result<Arc<PageFile>> {
        let locks = Locks::new(FileId::of(&file, path), self.lock_wait);
        Ok(PageFile::with_locks(backend(file)?, locks)?)
    }

    /// The settings for a backend that nobody else can open.
    pub(crate) fn builder(self) -> Builder {
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes).set_check_integrity_on_open(self.check_integrity);
        builder
    }

    /// The settings for a file: one process writes, others may read along.
    pub(crate) fn shared_builder(self) -> Builder {
        let mut builder = self.builder();
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        builder
    }
}

//! The embedded engine: one redb table in one file, or in memory.
//!
//! Each value is sealed: `checksum (4) commit (1 to 10) bytes`, the CRC-32 taken over the address and
//! all that follows it, the commit in base 128 with the lowest part first. redb checks its pages only
//! when it recovers, so this is what keeps a damaged value from being served. It does not keep a damaged
//! address from hiding its row: only a scan sees that. The row with the empty address holds the newest
//! commit and nothing else. The log lies behind all rows, at `ff commit (8)`, highest byte first: in the
//! same tree, because a second one would cost each commit more pages. redb may panic on a damaged page;
//! here that becomes `Corrupted` too, and inside of redb's commit `CommitUnknown`.

mod draft;

use std::fs::{File, OpenOptions};
use std::io;
use std::iter::Peekable;
use std::ops::{Bound, Deref, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, CommitError, ConcurrencyMode, CursorError, Database, DatabaseError, ReadOnlyDatabase,
    ReadOnlyTable, ReadableDatabase, ReadableTable, RepairSession, StorageError, Table, TableDefinition,
    TableError, TransactionError,
};

use super::bell::Bell;
use super::disk::StorageBackend;
use super::memtable::Memtable;
use super::redo::LogId;
use super::scratch::Scratch;
use super::{
    Batch, Engine, Load, LoadedRow, Log, Newest, Range, ReadTransaction, Reading, RowHash, Stripes, Waited,
    WriteTransaction,
};
use crate::error::{Error, Result};
use crate::format::{Row, Stored, corrupted};
use crate::id::Commit;

pub(crate) use draft::Draft;

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("keystead rows");

/// The address of the row that holds the newest commit.
const NEWEST: &[u8] = &[];

/// What the addresses of the log begin with; those of rows are lower.
const LOG: u8 = 0xff;

/// How often a reader looks whether the writing process has committed.
const POLL: Duration = Duration::from_millis(10);

/// A store that this process may write.
pub(crate) struct RedbEngine {
    database: Closing<Database>,
    newest: Newest,
    log_state: LogState,
    stripes: Arc<Stripes>,
    writer: Mutex<()>,
    poisoned: AtomicBool,
    bell: Bell,
}

/// A store that this process only reads, maybe beside another that writes it.
pub(crate) struct RedbReader {
    database: Closing<ReadOnlyDatabase>,
    bell: Bell,
}

/// A database whose closing is guarded: redb works on its pages then too, and may panic on a damaged
/// one.
struct Closing<D>(Option<D>);

/// One commit of a redb table.
pub(crate) struct RedbRead {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    commit: Commit,
    log_state: LogState,
    /// Which rows changed, if this process is the one that changes them.
    stripes: Option<Arc<Stripes>>,
}

/// Whether a table file needs the redo log beside it; it is the value of the row with the empty address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogState {
    /// There never was one.
    None,
    /// The file has all that was in its log: `00 id (16)`.
    Closed { id: LogId },
    /// The log may go on after the newest commit of the file: `01 id (16) floor (8)`, and it must hold
    /// the commit with the number of the floor, or a later one.
    InUse { id: LogId, floor: Commit },
}

/// A table file that a redo log is written in front of.
pub(crate) struct TableFile {
    database: Closing<Database>,
}

struct RedbWrite<'a> {
    engine: &'a RedbEngine,
    read: Reading,
    _writer: MutexGuard<'a, ()>,
}

impl RedbEngine {
    /// Makes a store in an empty file that nobody else has.
    pub(crate) fn create(file: File, cache_bytes: usize) -> Result<Self> {
        Self::initialize(FileBackend::new(file).map_err(of_database)?, &file_builder(cache_bytes))
    }

    /// Makes a store in memory.
    pub(crate) fn in_memory(cache_bytes: usize) -> Result<Self> {
        Self::initialize(InMemoryBackend::new(), &builder(cache_bytes))
    }

    /// Opens a store that exists.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        Self::on(existing(path)?, &file_builder(cache_bytes))
    }

    /// What the file says of a redo log. If it is in use, nothing may be written past it.
    pub(crate) fn log_state(&self) -> LogState {
        self.log_state
    }

    /// Makes a store on an empty backend.
    pub(crate) fn initialize(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        let database = builder.create_with_backend(backend).map_err(of_database)?;
        let transaction = database.begin_write().map_err(of_transaction)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(of_table)?;
            let sealed = seal(NEWEST, Commit::default(), &[]);
            table.insert(NEWEST, sealed.as_slice()).map_err(of_storage)?;
        }
        transaction.commit().map_err(of_commit)?;
        Self::of(database)
    }

    /// Opens the store on a backend that has one.
    pub(crate) fn on(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        guarded(|| Self::of(builder.create_with_backend(backend).map_err(of_database)?))
    }

    fn of(database: Database) -> Result<Self> {
        let database = Closing(Some(database));
        let stripes = Arc::new(Stripes::new(Stripes::COUNT_DEFAULT));
        let newest = RedbRead::newest(&*database, Some(&stripes))?;
        let bell = Bell::default();
        bell.ring(newest.commit);
        let (log_state, newest, writer) = (newest.log_state, Newest::new(newest), Mutex::new(()));
        let poisoned = AtomicBool::new(false);
        Ok(Self { database, newest, log_state, stripes, writer, poisoned, bell })
    }

    fn apply(&self, batch: &Batch, log: Log<'_>, commit: Commit) -> Result<()> {
        write(&self.database, false, commit, self.log_state, |table| {
            for (row, value) in batch {
                match value {
                    Some(bytes) => {
                        table
                            .insert(row.as_slice(), seal(row, commit, bytes).as_slice())
                            .map_err(of_storage)?;
                    }
                    None => {
                        table.remove(row.as_slice()).map_err(of_storage)?;
                    }
                }
            }
            if let Some(entry) = log.append {
                let row = log_row(commit);
                table.insert(row.as_slice(), seal(&row, commit, entry).as_slice()).map_err(of_storage)?;
            }
            if let Some(trim) = log.trim {
                let (first, last) = (log_row(Commit::default()), log_row(trim));
                table.retain_in(first.as_slice()..=last.as_slice(), |_, _| false).map_err(of_storage)?;
            }
            Ok(())
        })
    }

    /// Shows the newest state to readers, or, if it was not written for sure, writes no more.
    fn publish<'a>(
        &self,
        applied: Result<()>,
        commit: Commit,
        changed: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Commit> {
        let published = applied.and_then(|()| {
            // Durable from here on: if the new state can't be read, that is not known to the caller.
            let newest = guarded(|| RedbRead::newest(&*self.database, Some(&self.stripes)));
            let newest = newest.map_err(|error| Error::CommitUnknown(error.to_string().into()))?;
            for row in changed {
                self.stripes.mark(RowHash::of(row), commit);
            }
            self.newest.publish(newest);
            self.bell.ring(commit);
            Ok(commit)
        });
        if published.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        published
    }
}

/// Writes rows to a table file in one transaction of redb, with the newest commit and what the file says of
/// its log.
fn write(
    database: &Database,
    quick_repair: bool,
    newest: Commit,
    state: LogState,
    rows: impl FnOnce(&mut Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
) -> Result<()> {
    let mut transaction = database.begin_write().map_err(of_transaction)?;
    transaction.set_quick_repair(quick_repair);
    {
        let mut table = transaction.open_table(ROWS).map_err(of_table)?;
        let sealed = seal(NEWEST, newest, &state.encode());
        table.insert(NEWEST, sealed.as_slice()).map_err(of_storage)?;
        rows(&mut table)?;
    }
    commit_it(transaction)
}

fn commit_it(transaction: redb::WriteTransaction) -> Result<()> {
    // A panic in there may come after the commit became durable.
    let outcome = catch_unwind(AssertUnwindSafe(|| transaction.commit()));
    outcome.map_or_else(
        |_| Err(Error::CommitUnknown(UNREADABLE_PAGE.into())),
        |committed| committed.map_err(of_commit),
    )
}

/// Writes many commits in one transaction of redb.
fn write_load(table: &mut Table<'_, &'static [u8], &'static [u8]>, load: &Load) -> Result<()> {
    write_sorted(table, &mut load.sorted().peekable())?;
    let entries: Vec<_> = load.entries().map(|(commit, entry)| (log_row(commit), commit, entry)).collect();
    let entries =
        entries.iter().map(|(row, commit, entry)| LoadedRow { row, value: Some(entry), commit: *commit });
    write_sorted(table, &mut entries.peekable())
}

/// Gaps that hold fewer rows than this are not worth a cursor, which is dear to place.
const WORTH_A_CURSOR: usize = 8;
/// How many rows are written one by one, at most, before the next gap is tried.
const ONE_BY_ONE_MAX: usize = 64;

/// Writes rows in the order of their addresses: where they fall into a gap between those that are there,
/// all at once; where they lie among them, one by one.
fn write_sorted<'a>(
    table: &mut Table<'_, &[u8], &[u8]>,
    rows: &mut Peekable<impl Iterator<Item = LoadedRow<'a>>>,
) -> Result<()> {
    let mut sealed = Vec::new();
    let mut one_by_one = 1;
    while rows.peek().is_some() {
        let filled = fill_gap(table, rows, &mut sealed)?;
        one_by_one = if filled < WORTH_A_CURSOR { (2 * one_by_one).min(ONE_BY_ONE_MAX) } else { 1 };
        for LoadedRow { row, value, commit } in rows.by_ref().take(one_by_one) {
            match value {
                Some(value) => {
                    seal_into(&mut sealed, row, commit, value);
                    table.insert(row, sealed.as_slice()).map_err(of_storage)?;
                }
                None => drop(table.remove(row).map_err(of_storage)?),
            }
        }
    }
    Ok(())
}

/// Writes rows up to the next that is there already, or is to be deleted; returns how many.
fn fill_gap<'a>(
    table: &mut Table<'_, &[u8], &[u8]>,
    rows: &mut Peekable<impl Iterator<Item = LoadedRow<'a>>>,
    sealed: &mut Vec<u8>,
) -> Result<usize> {
    let Some(first) = rows.peek() else { return Ok(0) };
    let mut cursor = table.lower_bound_mut(Bound::Included(first.row)).map_err(of_storage)?;
    let mut filled = 0;
    while let Some(&LoadedRow { row, value: Some(value), commit }) = rows.peek() {
        seal_into(sealed, row, commit, value);
        match cursor.insert_before(row, sealed.as_slice()) {
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

#[cfg(test)]
impl RedbEngine {
    /// Puts a value, sealed or not, where it may not belong, or takes one away; without a commit.
    pub(crate) fn damage(&self, row: &[u8], value: Option<&[u8]>) {
        let transaction = self.database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(ROWS).unwrap();
            match value {
                Some(value) => drop(table.insert(row, value).unwrap()),
                None => drop(table.remove(row).unwrap()),
            }
        }
        transaction.commit().unwrap();
        // No cache may hide it.
        self.stripes.mark(RowHash::of(row), Commit::new(u64::MAX));
        self.newest.publish(RedbRead::newest(&*self.database, Some(&self.stripes)).unwrap());
    }
}

impl Engine for RedbEngine {
    fn begin_read(&self) -> Result<Reading> {
        Ok(self.newest.read())
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        // A closure that panicked left nothing half done: its writes were only staged.
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        Ok(Box::new(RedbWrite { engine: self, read: self.newest.read(), _writer: writer }))
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        Ok(self.bell.wait(after, timeout))
    }

    fn stop_waiting(&self) {
        self.bell.end();
    }
}

impl WriteTransaction for RedbWrite<'_> {
    fn commit_read(&self) -> Commit {
        self.read.commit()
    }

    fn next_commit(&self) -> Commit {
        Commit::new(self.read.commit().number() + 1)
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.read.get(rows)
    }

    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.read.log_entry(commit)
    }

    fn end(self: Box<Self>) -> Result<()> {
        // Only what is durable was read.
        Ok(())
    }

    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        let commit = self.next_commit();
        let applied = guarded(|| self.engine.apply(batch, log, commit));
        self.engine.publish(applied, commit, batch.keys().map(Vec::as_slice))
    }

    fn load(self: Box<Self>, load: &Load) -> Result<Commit> {
        if load.base() != self.read.commit() {
            return Err(Error::Conflict);
        }
        if load.is_empty() {
            return Ok(load.base());
        }
        let Self { engine, .. } = *self;
        let (last, state) = (load.last_commit(), engine.log_state);
        let rows = |table: &mut Table<'_, _, _>| write_load(table, load);
        let applied = guarded(|| write(&engine.database, false, last, state, rows));
        engine.publish(applied, last, load.addresses())
    }
}

impl TableFile {
    /// Opens the table file of a store, for nobody else.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        Self::on(existing(path)?, &builder(cache_bytes))
    }

    /// Opens the table file on a backend that has one.
    pub(crate) fn on(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        guarded(|| {
            let database = builder.create_with_backend(backend).map_err(of_database)?;
            Ok(Self { database: Closing(Some(database)) })
        })
    }

    /// Opens the table file of a store that nobody has open to write, also if it was not closed; nothing
    /// is written to it.
    pub(crate) fn offline(path: &Path, cache_bytes: usize) -> Result<Self> {
        let file = backend(OpenOptions::new().read(true).open(path)?)?;
        let mut builder = builder(cache_bytes);
        // A file with a redo log needs none; of any other it would be long.
        builder.set_repair_callback(RepairSession::abort);
        Self::on(Scratch::new(file)?, &builder)
    }

    pub(super) fn newest(&self) -> Result<RedbRead> {
        guarded(|| RedbRead::newest(&*self.database, None))
    }

    /// What the file says of its log.
    pub(crate) fn log_state(&self) -> Result<LogState> {
        Ok(self.newest()?.log_state)
    }

    /// Changes what the file says of its log, and nothing else.
    pub(crate) fn mark(&self, state: LogState) -> Result<()> {
        let newest = self.newest()?.commit;
        self.write(newest, state, |_| Ok(()))
    }

    /// Writes the newest version of each row, all or nothing, durably.
    pub(super) fn checkpoint(&self, rows: &Memtable, newest: Commit, state: LogState) -> Result<RedbRead> {
        self.write(newest, state, |table| {
            let found = rows.scan((Bound::Unbounded, Bound::Unbounded), newest);
            for (row, stored) in found {
                match stored {
                    Some(stored) => {
                        let sealed = seal(&row, stored.commit, &stored.bytes);
                        table.insert(row.as_slice(), sealed.as_slice()).map_err(of_storage)?;
                    }
                    None => drop(table.remove(row.as_slice()).map_err(of_storage)?),
                }
            }
            Ok(())
        })?;
        self.newest()
    }

    /// Writes many commits, all or nothing, durably.
    pub(super) fn load(&self, load: &Load, state: LogState) -> Result<RedbRead> {
        self.write(load.last_commit(), state, |table| write_load(table, load))?;
        // Durable from here on: if the new state can't be read, that is not known to the caller.
        self.newest().map_err(|error| Error::CommitUnknown(error.to_string().into()))
    }

    fn write(
        &self,
        newest: Commit,
        state: LogState,
        rows: impl FnOnce(&mut Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        // With quick repair, so that the file can be opened at once after a crash, also for reading only.
        guarded(|| write(&self.database, true, newest, state, rows))
    }
}

impl LogState {
    fn encode(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Closed { id } => [&[0][..], &id].concat(),
            Self::InUse { id, floor } => [&[1][..], &id, &floor.number().to_le_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((kind, rest)) = bytes.split_first() else { return Ok(Self::None) };
        let malformed = || corrupted(NEWEST, "what it says of the redo log is malformed");
        let (id, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        match (kind, <[u8; 8]>::try_from(rest)) {
            (0, _) if rest.is_empty() => Ok(Self::Closed { id: *id }),
            (1, Ok(floor)) => Ok(Self::InUse { id: *id, floor: Commit::new(u64::from_le_bytes(floor)) }),
            _ => Err(malformed()),
        }
    }
}

impl RedbReader {
    /// Opens a store for reading, also while another process writes it.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        guarded(|| {
            let database = file_builder(cache_bytes).open_read_only(path).map_err(of_database)?;
            let reader = Self { database: Closing(Some(database)), bell: Bell::default() };
            RedbRead::newest(&*reader.database, None)?;
            Ok(reader)
        })
    }

    /// What the file says of a redo log.
    pub(crate) fn log_state(&self) -> Result<LogState> {
        Ok(guarded(|| RedbRead::newest(&*self.database, None))?.log_state)
    }
}

impl Engine for RedbReader {
    fn begin_read(&self) -> Result<Reading> {
        // Each read looks for what the writing process has committed since.
        Ok(Reading::of(guarded(|| RedbRead::newest(&*self.database, None))?))
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Err(Error::ReadOnly)
    }

    /// The writing process can't wake this one, so it looks every 10 ms.
    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        let mut left = timeout;
        loop {
            if guarded(|| RedbRead::newest(&*self.database, None))?.commit > after {
                return Ok(Waited::Committed);
            }
            if left.is_zero() {
                return Ok(Waited::TimedOut);
            }
            let pause = left.min(POLL);
            left -= pause;
            if self.bell.wait(after, pause) == Waited::Closed {
                return Ok(Waited::Closed);
            }
        }
    }

    fn stop_waiting(&self) {
        self.bell.end();
    }
}

impl<D> Deref for Closing<D> {
    type Target = D;

    fn deref(&self) -> &D {
        self.0.as_ref().expect("it is taken only when it is closed")
    }
}

impl<D> Drop for Closing<D> {
    fn drop(&mut self) {
        // Nothing is lost: every commit was durable before.
        let _ = guarded(|| {
            drop(self.0.take());
            Ok(())
        });
    }
}

impl RedbRead {
    fn newest(database: &impl ReadableDatabase, stripes: Option<&Arc<Stripes>>) -> Result<Self> {
        let transaction = database.begin_read().map_err(of_transaction)?;
        let table = transaction.open_table(ROWS).map_err(of_table)?;
        let stripes = stripes.cloned();
        let mut read = Self { table, commit: Commit::default(), log_state: LogState::None, stripes };
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
    pub(super) fn range_of_rows<'a>((from, to): Range<'a>) -> Range<'a> {
        let from = match from {
            Bound::Unbounded | Bound::Included(NEWEST) => Bound::Excluded(NEWEST),
            from => from,
        };
        let to = if to == Bound::Unbounded { Bound::Excluded(&[LOG][..]) } else { to };
        (from, to)
    }

    /// What a scan found in the log.
    pub(super) fn log_entries(rows: Vec<(Row, Result<Stored>)>) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let numbered = rows.into_iter().map(|(row, stored)| {
            // Behind the byte that all begin with.
            let number = row.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
            let number = number.ok_or_else(|| corrupted(&row, "it is no place in the log"))?;
            Ok((Commit::new(number), stored.map(|stored| stored.bytes)))
        });
        numbered.collect()
    }

    fn row(&self, row: &[u8]) -> Result<Option<Stored>> {
        let value = ReadableTable::get(&self.table, row).map_err(of_storage)?;
        value.map(|value| unseal(row, value.value())).transpose()
    }
}

impl ReadTransaction for RedbRead {
    fn commit(&self) -> Commit {
        self.commit
    }

    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        let last = self.stripes.as_ref().map(|stripes| stripes.last(row));
        last.is_some_and(|last| last <= commit.min(self.commit))
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        guarded(|| rows.iter().map(|row| self.row(row)).collect())
    }

    fn scan(&self, range: Range<'_>, limit: usize) -> Result<Vec<(Row, Result<Stored>)>> {
        let (from, to) = Self::range_of_rows(range);
        guarded(|| {
            let rows = ReadableTable::range::<&[u8]>(&self.table, (from, to)).map_err(of_storage)?;
            let mut scanned: Vec<(Row, Result<Stored>)> = Vec::new();
            for entry in rows.take(limit) {
                let (row, value) = entry.map_err(of_storage)?;
                let row = row.value().to_vec();
                // On a damaged page they may not be: whoever scans on from the last would never end.
                let in_order = match scanned.last() {
                    Some((before, _)) => *before < row,
                    None => RangeBounds::<&[u8]>::contains(&(from, to), &&row[..]),
                };
                if !in_order {
                    return Err(corrupted(&row, "it is out of order"));
                }
                let stored = unseal(&row, value.value());
                scanned.push((row, stored));
            }
            Ok(scanned)
        })
    }

    fn log_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        Ok(guarded(|| self.row(&log_row(commit)))?.map(|stored| stored.bytes))
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let (from, to) = (log_row(after), log_row(Commit::new(u64::MAX)));
        Self::log_entries(self.scan((Bound::Excluded(&from), Bound::Included(&to)), limit)?)
    }
}

/// A file that exists, and is not empty.
fn existing(path: &Path) -> Result<FileBackend> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() == 0 {
        return Err(Error::NotAStore("the file is empty".into()));
    }
    backend(file)
}

/// A file to be read and written, for redb or for the redo log.
pub(crate) fn backend(file: File) -> Result<FileBackend> {
    FileBackend::new(file).map_err(of_database)
}

pub(super) fn log_row(commit: Commit) -> Row {
    [&[LOG][..], &commit.number().to_be_bytes()].concat()
}

/// The settings for a backend that nobody else can open.
pub(crate) fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}

/// The settings for a file: one process writes, others may read along.
fn file_builder(cache_bytes: usize) -> Builder {
    let mut builder = builder(cache_bytes);
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder
}

const UNREADABLE_PAGE: &str = "redb met a page that it can't read";

/// Runs what calls redb; a panic in there means that a page is not what it should be.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::Corrupted(UNREADABLE_PAGE.into())))
}

const CHECKSUM_LENGTH: usize = 4;
const COMMIT_LENGTH_MAX: usize = 10;

pub(crate) fn seal(row: &[u8], commit: Commit, bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_LENGTH + COMMIT_LENGTH_MAX + bytes.len());
    seal_into(&mut sealed, row, commit, bytes);
    sealed
}

/// As [`seal`], into memory that was used before.
fn seal_into(sealed: &mut Vec<u8>, row: &[u8], commit: Commit, bytes: &[u8]) {
    sealed.clear();
    sealed.extend([0; CHECKSUM_LENGTH]);
    let mut rest = commit.number();
    while rest >= 0x80 {
        sealed.push(low_seven_bits(rest) | 0x80);
        rest >>= 7;
    }
    sealed.push(low_seven_bits(rest));
    sealed.extend(bytes);
    let checksum = checksum(row, &sealed[CHECKSUM_LENGTH..]);
    sealed[..CHECKSUM_LENGTH].copy_from_slice(&checksum);
}

pub(crate) fn unseal(row: &[u8], sealed: &[u8]) -> Result<Stored> {
    let Some((expected, rest)) = sealed.split_first_chunk::<CHECKSUM_LENGTH>() else {
        return Err(corrupted(row, "the value is too short"));
    };
    if *expected != checksum(row, rest) {
        return Err(corrupted(row, "the checksum is wrong"));
    }
    let length = rest.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    if length > COMMIT_LENGTH_MAX || length > rest.len() {
        return Err(corrupted(row, "the commit is malformed"));
    }
    let (digits, bytes) = rest.split_at(length);
    if length > 1 && digits[length - 1] == 0 {
        return Err(corrupted(row, "the commit is longer than needed"));
    }
    let number = digits.iter().rev().try_fold(0_u64, |number, digit| {
        number.checked_mul(0x80).map(|shifted| shifted | u64::from(digit & 0x7f))
    });
    let number = number.ok_or_else(|| corrupted(row, "the commit is too large"))?;
    Ok(Stored { bytes: bytes.to_vec(), commit: Commit::new(number) })
}

fn low_seven_bits(number: u64) -> u8 {
    (number & 0x7f) as u8
}

fn checksum(row: &[u8], sealed: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(row.len() as u64).to_be_bytes());
    hasher.update(row);
    hasher.update(sealed);
    hasher.finalize().to_be_bytes()
}

fn of_database(error: DatabaseError) -> Error {
    match of_redb(error.into()) {
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::NotAStore(error.to_string().into())
        }
        other => other,
    }
}

fn of_transaction(error: TransactionError) -> Error {
    of_redb(error.into())
}

fn of_table(error: TableError) -> Error {
    of_redb(error.into())
}

fn of_storage(error: StorageError) -> Error {
    of_redb(error.into())
}

/// A commit that redb could not complete may have become durable, except where it says otherwise.
fn of_commit(error: CommitError) -> Error {
    match error {
        CommitError::Storage(error) => Error::CommitUnknown(of_storage(error).to_string().into()),
        other => of_redb(other.into()),
    }
}

fn of_redb(error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::Corrupted("the file ends too early".into())
        }
        redb::Error::Io(error) => error.into(),
        redb::Error::Unsupported => io::Error::from(io::ErrorKind::Unsupported).into(),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Error::Poisoned,
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Error::AlreadyOpen,
        redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
            Error::NotAStore("it is a redb file without the table of a keystead store".into())
        }
        redb::Error::UpgradeRequired(version) => {
            Error::NotAStore(format!("it is a redb file of the old format {version}").into())
        }
        redb::Error::RepairAborted => Error::RecoveryNeeded,
        other => Error::Corrupted(other.to_string().into()),
    }
}

//! Backups: a copy of one commit, or what changed since an earlier one. See `docs/backup.md`.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::building::{Building, ENTRIES_AT_ONCE, Walk};
use super::files::{NewFile, disk_bytes};
use super::{Options, Store};
use crate::change::Position;
use crate::engine::ReadTransaction;
use crate::error::{Error, Result};
use crate::format::changes::{Begin, ChangesReader, ChangesWriter, LastEntry, Piece};
use crate::format::{
    Floor, Space, Stored, corrupted, decode_floor, decode_log_entry, decode_outcome, encode_log_entry,
    encode_outcome, log_place,
};
use crate::id::Commit;
use crate::progress;
use crate::telemetry::{self, Call, Place, Summary};
use crate::txn::newest_change;

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Backup {
    /// Behind the newest commit that is in it, in the incarnation of the store. It is what
    /// [`backup_changes`](Store::backup_changes) wants to go on from here.
    pub position: Position,
    /// Of a backup of changes: the commit behind which they begin. `None` for a copy of the whole store.
    pub since: Option<Commit>,
    /// Rows of all kinds, those of the history not counted; of a backup of changes, outcomes of requests that
    /// may be repeated.
    pub rows: u64,
    /// Commits that changed a key or an alias, and are in the history.
    pub entries: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How much of the disk it takes: less than its length, if there are holes in it.
    #[serde(default)]
    pub disk_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Backups. For the platform.
impl Store {
    /// Copies the store, as it is at its newest commit, into a new file, while others read and write. Nobody
    /// waits for it.
    ///
    /// The copy is an ordinary store file without waste: it can be [verified](Store::verify) and
    /// [opened for reading](Options::open_read_only) where it is. Rows are read and written in their order,
    /// in pieces, so memory is bounded; the commit that is copied is held until the last row was read. Then
    /// the file is synced and verified, and only then gets its name. It is for its owner only. If anything
    /// fails, there is no file of that name. A process that is killed leaves a folder `.keystead-*.tmp`, which the next
    /// one that makes anything there removes.
    ///
    /// Don't open a backup for writing: [restore](crate::Restore) it.
    ///
    /// ```
    /// use keystead::{NewKey, Options, Request, Scope, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("monday.backup");
    /// let store = Store::in_memory()?;
    /// let request = Request::new(&Scope::new("domain", "project")?);
    /// store.write(&request, |txn| txn.create_key(&NewKey::new("orders")?))?;
    /// let backup = store.backup(&path)?;
    /// assert_eq!(backup.position, store.position()?);
    ///
    /// let copy = Options::new().open_read_only(&path)?;
    /// assert_eq!(copy.verify()?.keys, 1);
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`FileExists`](Error::FileExists); [`Corrupted`](Error::Corrupted) or [`Unsound`](Error::Unsound) if the
    /// store is damaged: [repair](crate::repair) it; [`Io`](Error::Io).
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<Backup> {
        told(Call::Backup, || self.write_copy(path.as_ref()))
    }

    fn write_copy(&self, path: &Path) -> Result<Backup> {
        let started = now();
        let mut building = Building::create(path)?;
        let rows = self.inner.engine.begin_read()?;
        let position = self.position_after(rows.commit());
        let entries = building.copy(&*rows)?;
        drop(rows);
        let built = building.finish()?;
        let (rows, bytes, disk_bytes) = (built.report.rows, built.bytes, built.disk_bytes);
        Ok(Backup { position, since: None, rows, entries, bytes, disk_bytes, took: started.elapsed() })
    }

    /// Writes into a new file what the store did behind a position, up to now: that of a
    /// [backup](Self::backup), or of an earlier one of changes. It takes the time of what changed, and of
    /// looking at what is stored of requests that may be repeated. All that is said of files at
    /// [`backup`](Self::backup) holds here too, but the file is no store: it is checked by
    /// [`verify_backup`](Self::verify_backup), and is of use only together with what is before it, to
    /// [restore](crate::Restore).
    ///
    /// ```
    /// use keystead::{NewKey, Request, Restore, Scope, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = |name| folder.path().join(name);
    /// let store = Store::in_memory()?;
    /// let scope = Scope::new("domain", "project")?;
    /// let create = |name| {
    ///     store.write(&Request::new(&scope), |txn| txn.create_key(&NewKey::new(name)?))
    /// };
    /// let monday = store.backup(path("monday"))?;
    /// create("orders")?;
    /// let tuesday = store.backup_changes(&monday.position, path("tuesday"))?;
    /// create("invoices")?;
    /// store.backup_changes(&tuesday.position, path("wednesday"))?;
    ///
    /// let restore = Restore::of(path("monday")).changes(path("tuesday")).changes(path("wednesday"));
    /// restore.into_file(path("restored"))?;
    /// let restored = Store::open(path("restored"))?;
    /// assert_eq!(restored.verify()?.keys, 2);
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled): only whole copies can be made.
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore), also for one of this store before it was
    /// restored; [`HistoryTrimmed`](Error::HistoryTrimmed) if some of the changes are not there any more: make
    /// a whole copy. [`CommitNotFound`](Error::CommitNotFound) for a position that is ahead of the store. And
    /// those of [`backup`](Self::backup).
    pub fn backup_changes(&self, since: &Position, path: impl AsRef<Path>) -> Result<Backup> {
        told(Call::BackupChanges, || self.write_changes(since, path.as_ref()))
    }

    fn write_changes(&self, since: &Position, path: &Path) -> Result<Backup> {
        let started = now();
        self.must_have_history()?;
        let since = self.commit_of(since)?;
        let file = NewFile::create(path)?;
        let rows = self.inner.engine.begin_read()?;
        let begin = begin_of(&*rows, self.inner.incarnation, since)?;
        let mut writer = ChangesWriter::new(BufWriter::new(file.handle()?), &begin)?;
        let entries = write_entries(&*rows, since, &mut writer)?;
        let mut outcomes = 0;
        let mut walk = Walk::outcomes(&*rows);
        while let Some((row, stored)) = walk.next()? {
            let bytes = Some(stored.bytes).filter(|_| stored.commit > since);
            writer.write(&Piece::Outcome { row, commit: stored.commit, bytes })?;
            outcomes += 1;
        }
        drop(rows);
        let (buffer, _) = writer.finish()?;
        drop(buffer.into_inner().map_err(|error| Error::from(error.into_error()))?);
        file.sync()?;
        check_changes(file.temporary())?;
        let (position, rows) = (self.position_after(begin.to), outcomes);
        let disk_bytes = disk_bytes(&file.temporary().metadata()?);
        let (bytes, took) = (file.name()?, started.elapsed());
        Ok(Backup { position, since: Some(since), rows, entries, bytes, disk_bytes, took })
    }

    /// Checks a backup of either kind where it is: a copy is verified, of changes each is read. Tells what it
    /// is; how long it took is that of the check.
    ///
    /// # Errors
    ///
    /// [`Unsound`](Error::Unsound) with what a copy does not hold; [`Corrupted`](Error::Corrupted);
    /// [`NotAStore`](Error::NotAStore) for a file that is neither; [`Unsupported`](Error::Unsupported);
    /// [`Io`](Error::Io).
    pub fn verify_backup(path: impl AsRef<Path>) -> Result<Backup> {
        told(Call::VerifyBackup, || Self::verify_file(path.as_ref()))
    }

    fn verify_file(path: &Path) -> Result<Backup> {
        let started = now();
        let file = path.metadata()?;
        let (bytes, disk_bytes) = (file.len(), disk_bytes(&file));
        let (position, since, rows, entries) = match check_changes(path) {
            Ok((begin, outcomes, entries)) => {
                let position = Position { incarnation: begin.incarnation, commit: begin.to };
                (position, Some(begin.since), outcomes, entries)
            }
            Err(Error::BackupMismatch(_)) => {
                let store = Options::new().check_integrity(true).open_read_only(path)?;
                let rows = store.inner.engine.begin_read()?;
                let report = store.verify_at(&*rows)?;
                report.must_be_clean()?;
                (store.position_after(rows.commit()), None, report.rows, entries_of(&*rows)?)
            }
            Err(error) => return Err(error),
        };
        Ok(Backup { position, since, rows, entries, bytes, disk_bytes, took: started.elapsed() })
    }
}

fn told(call: Call, run: impl FnOnce() -> Result<Backup>) -> Result<Backup> {
    telemetry::told(call, Place::default(), run, |backup| Summary {
        commit: Some(backup.position.commit()),
        rows: Some(backup.rows),
        entries: Some(backup.entries),
        bytes: Some(backup.bytes),
        ..Summary::default()
    })
}

#[expect(clippy::disallowed_methods, reason = "it is measured how long a backup takes")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// What is to be told of the changes behind a commit.
fn begin_of(rows: &dyn ReadTransaction, incarnation: [u8; 16], since: Commit) -> Result<Begin> {
    let space = Space::of_store();
    let stored = rows.get(&[&space.fixed(), &space.floor()])?;
    let [fixed, floor] = stored.try_into().expect("as many rows as were asked for");
    if since > rows.commit() {
        return Err(Error::CommitNotFound(since));
    }
    // No copy of this incarnation can be from before it began.
    if fixed.is_none_or(|fixed| fixed.commit > since) {
        return Err(Error::PositionOfAnotherStore);
    }
    let read = |stored: Stored| -> Result<(Commit, Floor)> {
        Ok((stored.commit, decode_floor(&space.floor(), &stored.bytes)?))
    };
    let floor = floor.map(read).transpose()?;
    match floor {
        Some((_, floor)) if floor.commit > since => Err(Error::HistoryTrimmed { floor: floor.commit }),
        _ => {
            let newest = newest_change(rows, since)?;
            let last = rows.changelog_entry(newest)?.map(|entry| LastEntry::of(newest, &entry));
            Ok(Begin { incarnation, since, to: rows.commit(), last, floor })
        }
    }
}

fn write_entries<W: std::io::Write>(
    rows: &dyn ReadTransaction,
    since: Commit,
    writer: &mut ChangesWriter<W>,
) -> Result<u64> {
    let (mut after, mut entries) = (since, 0);
    progress::begin("copying", Some(rows.commit().number().saturating_sub(since.number())));
    loop {
        let chunk = rows.log(after, ENTRIES_AT_ONCE)?;
        let Some((last, _)) = chunk.last() else { return Ok(entries) };
        after = *last;
        for (commit, bytes) in chunk {
            writer.write(&Piece::Entry { commit, bytes: bytes? })?;
            progress::add(1);
            entries += 1;
        }
    }
}

fn entries_of(rows: &dyn ReadTransaction) -> Result<u64> {
    let (mut after, mut entries) = (Commit::default(), 0);
    loop {
        let chunk = rows.log(after, ENTRIES_AT_ONCE)?;
        let Some((last, _)) = chunk.last() else { return Ok(entries) };
        after = *last;
        entries += chunk.len() as u64;
    }
}

/// Opens a file of changes.
pub(super) fn open_changes(path: &Path) -> Result<ChangesReader<BufReader<File>>> {
    ChangesReader::new(BufReader::new(File::open(path)?))
}

/// Reads a file of changes and everything in it; counts outcomes and entries.
fn check_changes(path: &Path) -> Result<(Begin, u64, u64)> {
    let mut reader = open_changes(path)?;
    let (mut outcomes, mut entries) = (0, 0);
    progress::begin("checking", None);
    while let Some(piece) = reader.next()? {
        progress::add(1);
        match piece {
            Piece::Entry { commit, bytes } => {
                if encode_log_entry(&decode_log_entry(commit, &bytes)?) != bytes {
                    return Err(corrupted(&log_place(commit), "the entry does not encode to itself"));
                }
                entries += 1;
            }
            Piece::Outcome { row, bytes, .. } => {
                let again = bytes.as_ref().map(|bytes| decode_outcome(&row, bytes)).transpose()?;
                if again.map(|outcome| encode_outcome(&outcome)) != bytes {
                    return Err(corrupted(&row, "the value does not encode to itself"));
                }
                outcomes += 1;
            }
        }
    }
    Ok((reader.begin(), outcomes, entries))
}

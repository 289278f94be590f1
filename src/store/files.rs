//! The files of a store: how they come into being and are opened.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::boot;
use crate::engine::direct::DirectFile;
use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::embedded::wal::{LogId, RedoLog, first_segment_bytes, log_bytes};
use crate::engine::embedded::{self, EmbeddedEngine, FollowedFiles, Follower, Limits, LogDisk, LogFiles};
use crate::engine::lock_holder::{self, FileId, locked_by_somebody};
use crate::engine::lock_wait::{self, LOCK_WAIT_DEFAULT, Wanted};
use crate::engine::redb::{LogState, Pages, TableFile, TableReader, backend};
use crate::error::{Error, Locked, Result};
use crate::format::Space;
use crate::id::random_bytes;

use super::temporary::{TemporaryFile, folder_of, remove_unused};

pub(super) use crate::engine::embedded::wal::{LOG_BYTES_MAX, LOG_BYTES_MIN};

/// What is added to the name of the store's file.
const LOG_SUFFIX: &str = ".redo";

/// How often an opening looks whether a file is still locked.
const POLL: Duration = Duration::from_millis(10);

/// The table file, and the write-ahead log beside it.
pub(super) struct Files<'a> {
    pub(super) path: &'a Path,
    /// Whether a store is made where there is none.
    pub(super) create: bool,
    pub(super) pages: Pages,
    /// How long the log may grow.
    pub(super) log_bytes: u64,
    pub(super) checkpoint_bytes: usize,
}

impl Files<'_> {
    /// Opens the store, or makes it.
    pub(super) fn open(&self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<Box<dyn Engine>> {
        let engine = patiently(self.path, self.pages.lock_wait, || self.open_now(&begin))?;
        self.clear();
        Ok(Box::new(engine))
    }

    /// Removes what killed processes left beside the store, when it is known that there is one.
    fn clear(&self) {
        remove_unused(folder_of(&log_path(self.path)));
    }

    fn open_now(&self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<EmbeddedEngine> {
        let open = || TableFile::open(self.path, self.pages);
        let table = match open() {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.create(&begin)?;
                open()?
            }
            opened => opened?,
        };
        // Now: the process may change its folder, or somebody the link, before the log is made.
        let log = LogBeside { table: self.path.canonicalize()?, log_bytes: self.log_bytes };
        log.check(table.log_state()?)?;
        let limits = Limits { log_bytes: self.log_bytes, checkpoint_bytes: self.checkpoint_bytes };
        EmbeddedEngine::open(table, log, limits)
    }

    /// Opens the store for reading only.
    pub(super) fn open_read_only(&self) -> Result<Box<dyn Engine>> {
        patiently(self.path, self.pages.lock_wait, || self.read_only())
    }

    fn read_only(&self) -> Result<Box<dyn Engine>> {
        let files = Beside { path: std::path::absolute(self.path)?, pages: self.pages };
        let follower = Follower::open(files, Space::of_store().fixed(), self.pages.lock_wait);
        Ok(Box::new(follower.map_err(|error| self.or_no_store(error))?))
    }

    fn or_no_store(&self, error: Error) -> Error {
        match error {
            Error::Io(error) if error.kind() == io::ErrorKind::NotFound => self.no_store(),
            other => other,
        }
    }

    fn no_store(&self) -> Error {
        Error::NoStore(self.path.display().to_string().into())
    }

    /// Makes a store beside the path and moves it there, unless something is there by then.
    fn create(&self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<()> {
        if !self.create {
            return Err(self.no_store());
        }
        let file = TemporaryFile::beside(self.path)?;
        let engine = EmbeddedEngine::without_log(TableFile::create(file.reopen()?, self.pages)?)?;
        begin(&engine)?;
        engine.close()?;
        file.file().sync_all()?;
        match file.name(self.path) {
            // Somebody else was faster: theirs is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            named => named?,
        };
        sync_folder_of(self.path)
    }
}

/// The log of a store, beside its table file.
struct LogBeside {
    table: PathBuf,
    /// How long it may grow.
    log_bytes: u64,
}

impl LogBeside {
    /// Whether what lies there goes with what the table file says.
    fn check(&self, state: LogState) -> Result<()> {
        let Some(disk) = self.open_file()? else {
            let is_needed = matches!(state, LogState::InUse { .. });
            return if is_needed { Err(self.mismatch("it is missing")) } else { Ok(()) };
        };
        match state {
            LogState::InUse { .. } => Ok(()),
            LogState::None => Err(self.mismatch("the store has none, but there is the one of another")),
            LogState::Closed { id, next } => {
                if RedoLog::id_and_segment_bytes(&*disk)?.0 != id {
                    return Err(self.mismatch("it is that of another store"));
                }
                let log = RedoLog::must_be_behind(disk, next)?;
                // Who follows it finds that it is not in use, also if that was not written before a crash. Not before: the
                // mark of a log that goes with another table says up to where it reaches.
                log.close_mark()
            }
        }
    }

    fn open_file(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        match OpenOptions::new().read(true).write(true).open(log_path(&self.table)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => Ok(Some(Box::new(backend(opened?)?))),
        }
    }

    fn mismatch(&self, what: &str) -> Error {
        Error::LogMismatch(format!("{what}: {}", log_path(&self.table).display()).into())
    }

    /// Makes an empty log in the place of what is left of an older one.
    fn make(&self, id: LogId) -> Result<()> {
        let path = log_path(&self.table);
        let file = TemporaryFile::beside(&path)?;
        RedoLog::create(&backend(file.reopen()?)?, id, first_segment_bytes(self.log_bytes))?;
        // Whoever opens the store must be able to open its log, also when it is an administrator who makes the log.
        share_as(file.file(), &self.table.metadata()?)?;
        file.file().sync_all()?;
        Ok(file.replace(&path)?)
    }
}

impl LogFiles for LogBeside {
    fn open(&self, table: &TableFile, mut state: LogState) -> Result<(LogDisk, LogState)> {
        if state == LogState::None {
            state = LogState::Closed { id: random_bytes(), next: 0 };
        }
        if let LogState::Closed { id, .. } = state {
            let found = self.open_file()?;
            let found = found.map(|disk| RedoLog::id_and_segment_bytes(&*disk)).transpose()?;
            match found {
                Some((other, _)) if other != id => return Err(self.mismatch("it is that of another store")),
                Some((_, segment_bytes)) if log_bytes(segment_bytes) <= self.log_bytes => {}
                // None, or one that is longer than it may be.
                _ => {
                    // First, so that after a crash in between nobody takes the log for another's.
                    table.mark(state)?;
                    self.make(id)?;
                }
            }
            // A process that was killed may have made it and not synced its name; the table must not need it before.
            sync_folder_of(&log_path(&self.table))?;
        }
        let missing = || self.mismatch("it is missing");
        let frames = self.open_file()?.ok_or_else(missing)?;
        let frames = Box::new(DirectFile::new(frames, &log_path(&self.table)));
        // Through a handle of its own: what it writes is no part of what a sync of the log waits for.
        let marks = self.open_file()?.ok_or_else(missing)?;
        Ok((LogDisk { frames, marks: Some(marks) }, state))
    }

    fn boot(&self) -> u64 {
        boot::of(&log_path(&self.table))
    }

    fn may_be_followed(&self) -> bool {
        true
    }
}

/// The files of a store that is read beside its writer.
struct Beside {
    path: PathBuf,
    pages: Pages,
}

impl FollowedFiles for Beside {
    fn table(&self) -> Result<(TableReader, embedded::FileId)> {
        let file = File::open(&self.path)?;
        let id = file_id(&file.metadata()?);
        Ok((TableReader::open(file, &self.path, self.pages)?, id))
    }

    fn table_now(&self) -> Result<embedded::FileId> {
        match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(file_id(&found?)),
        }
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        match File::open(log_path(&self.path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => Ok(Some(Box::new(backend(opened?)?))),
        }
    }

    fn boot(&self) -> u64 {
        boot::of(&log_path(&self.path))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn locked(&self) -> Error {
        naming_locked(&self.path)(Error::AlreadyOpen(locked_by_somebody()))
    }
}

/// Which file it is.
fn file_id(file: &Metadata) -> embedded::FileId {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}

/// The files of a damaged store, to be read without the engine.
pub(super) struct Damaged {
    /// Nobody can write it while this is held.
    pub(super) table: Box<dyn StorageBackend>,
    pub(super) log: WalFile,
    pub(super) log_path: PathBuf,
}

/// The write-ahead log beside a file, whether it can be opened, and whether there is one.
pub(super) type WalFile = io::Result<Option<Box<dyn StorageBackend>>>;

/// The table file of a store that nobody has open to write, and that nobody can open so while this is held.
///
/// # Errors
///
/// `NoStore`, `AlreadyOpen` if somebody has it open to write, `Io`.
pub(super) fn open_unwritten(path: &Path) -> Result<impl StorageBackend + use<>> {
    let table = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoStore(path.display().to_string().into()));
        }
        opened => backend(opened?)?,
    };
    lock_patiently(path, false, || table.try_lock_shared_range(Bound::Unbounded, Bound::Unbounded))?;
    Ok(table)
}

/// Looks whether anybody has the file open, without a change to it.
///
/// # Errors
///
/// `AlreadyOpen` if somebody has it open, to write or to read; `Io`.
pub(super) fn must_be_unused(path: &Path) -> Result<()> {
    let table = backend(OpenOptions::new().read(true).write(true).open(path)?)?;
    lock_patiently(path, true, || table.try_lock_range(Bound::Unbounded, Bound::Unbounded))
}

/// Locks all of a file as soon as whoever else has a lock is done, if that is soon; where there are no locks, nothing.
fn lock_patiently(
    path: &Path,
    exclusive: bool,
    lock: impl Fn() -> std::result::Result<bool, BackendError>,
) -> Result<()> {
    patiently(path, LOCK_WAIT_DEFAULT, || match lock() {
        Ok(true) | Err(BackendError::Unsupported) => Ok(()),
        Ok(false) => {
            lock_wait::note_refused(Wanted::whole_file(exclusive));
            Err(Error::AlreadyOpen(locked_by_somebody()))
        }
        Err(BackendError::Io(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(BackendError::Io(error)) => Err(error.into()),
        Err(other) => Err(io::Error::other(other.to_string()).into()),
    })
}

/// Opens the files of a store that others refuse; neither is looked into, and neither is written.
///
/// # Errors
///
/// `NoStore`, `AlreadyOpen` if somebody has it open to write, `Io`.
pub(super) fn open_for_repair(path: &Path) -> Result<Damaged> {
    let table = open_unwritten(path)?;
    let log_path = log_path(path);
    let log = match File::open(&log_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.and_then(|file| {
            let file = backend(file).map_err(|error| io::Error::other(error.to_string()))?;
            Ok(Some(Box::new(file) as Box<dyn StorageBackend>))
        }),
    };
    Ok(Damaged { table: Box::new(table), log, log_path })
}

/// A file that is written under no name of its own, and gets its name when it is whole.
pub(super) struct NewFile<'a> {
    path: &'a Path,
    file: TemporaryFile,
}

impl<'a> NewFile<'a> {
    /// An empty file, for its owner only, beside the place in which it will be.
    ///
    /// # Errors
    ///
    /// `FileExists` if there is a file already, or the write-ahead log of one.
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        for taken in [path.to_path_buf(), log_path(path)] {
            match taken.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found.map_err(Error::from).and(Err(exists(&taken))),
            }
        }
        Ok(Self { path, file: TemporaryFile::beside(path)? })
    }

    /// To be written through.
    pub(super) fn handle(&self) -> Result<File> {
        Ok(self.file.reopen()?)
    }

    /// Where it is until it gets its name.
    pub(super) fn temporary(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.file.file().sync_all()?)
    }

    /// Gives it its name, durably, and returns its length. If that fails, there is no file of this name.
    ///
    /// # Errors
    ///
    /// `FileExists` if somebody else made a file there meanwhile.
    pub(super) fn name(self) -> Result<u64> {
        let bytes = self.file.file().metadata()?.len();
        match self.file.name(self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists(self.path)),
            named => named?,
        }
        let synced = sync_folder_of(self.path);
        if synced.is_err() {
            // It was made here, so nothing of anybody else is taken away.
            let _ = std::fs::remove_file(self.path);
        }
        synced.map(|()| bytes)
    }
}

/// Opens a file as soon as whoever else has it open is done, if that is soon; if not, the error names its path and, if
/// it can be found, the process that has it locked.
fn patiently<T>(path: &Path, wait: Duration, open: impl Fn() -> Result<T>) -> Result<T> {
    lock_wait::opening(wait, || {
        loop {
            match open() {
                Err(Error::AlreadyOpen(_)) if lock_wait::pause(POLL) => {}
                opened => return opened.map_err(naming_locked(path)),
            }
        }
    })
}

/// An engine knows no paths; whoever gave it the file names the one that is locked.
pub(super) fn naming_locked(path: &Path) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::AlreadyOpen(Locked { holder, .. }) => {
            let wanted = lock_wait::refused().unwrap_or(Wanted::whole_file(true));
            let find = || FileId::at(path).and_then(|file| lock_holder::find(&file, wanted));
            Error::AlreadyOpen(Locked {
                path: path.display().to_string().into(),
                holder: holder.or_else(find),
            })
        }
        other => other,
    }
}

fn exists(path: &Path) -> Error {
    Error::FileExists(path.display().to_string().into())
}

/// Where the write-ahead log of a store is: beside its file, also if the path is a symbolic link to that.
pub(super) fn log_path(path: &Path) -> PathBuf {
    let file = if path.is_symlink() { path.canonicalize().ok() } else { None };
    let mut name = OsString::from(file.as_deref().unwrap_or(path));
    name.push(LOG_SUFFIX);
    name.into()
}

/// Gives a file that was made here the owner and the permissions of another one, as far as this process may. By its
/// handle: what its path leads to is up to whoever owns the folder.
fn share_as(file: &File, other: &Metadata) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
            match fchown(file, Some(other.uid()), Some(other.gid())) {
                // Then it is no administrator, but one of several users who share a store.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                changed => changed?,
            }
        }
        file.set_permissions(other.permissions())?;
    }
    Ok(())
}

/// How much room a file takes on the disk: less than its length, if there are holes in it.
pub(super) fn disk_bytes(file: &Metadata) -> u64 {
    #[cfg(unix)]
    {
        // The unit of this number, whatever the blocks of the file system are.
        const BLOCK: u64 = 512;
        std::os::unix::fs::MetadataExt::blocks(file) * BLOCK
    }
    #[cfg(not(unix))]
    file.len()
}

/// A name is durable only with its folder; there is nothing to sync where that can't be done.
pub(super) fn sync_folder_of(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()?;
    }
    Ok(())
}

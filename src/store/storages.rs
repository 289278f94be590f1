//! A store on storages of the caller's, as `files` has it in files; on a simulated machine, with followers.

use crate::engine::Engine;
use crate::engine::disk::{Memory, OnStorage, Storage, StorageBackend};
use crate::engine::embedded::wal::{RedoLog, first_segment_bytes, log_bytes};
use crate::engine::embedded::{EmbeddedEngine, Follower, Limits, LogDisk, LogFiles};
use crate::engine::redb::{LogState, Pages, TableFile};
use crate::engine::simulated::{Machine, SimulatedFiles, TABLE, WAL};
use crate::error::{Error, Result};
use crate::format::Space;
use crate::id::random_bytes;

use std::sync::Arc;

/// The storage of the table, and that of the write-ahead log if there is to be one.
pub(super) struct Storages {
    pub(super) table: Box<dyn Storage>,
    pub(super) log: Option<Box<dyn Storage>>,
    /// Whether a store is made in an empty storage.
    pub(super) create: bool,
    pub(super) pages: Pages,
    /// How long the log may grow.
    pub(super) log_bytes: u64,
    pub(super) checkpoint_bytes: usize,
    /// If the storages are the files of a simulated machine: that.
    pub(super) machine: Option<Machine>,
}

impl Storages {
    pub(super) fn open(self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<Box<dyn Engine>> {
        if self.table.is_empty()? {
            if !self.create {
                return Err(Error::NoStore("the storage, which is empty".into()));
            }
            self.create(begin)?;
        }
        let table = match &self.machine {
            None => TableFile::on(OnStorage(self.table), &self.pages.builder())?,
            Some(machine) => {
                let file = machine.handle(TABLE, OnStorage(self.table));
                TableFile::on(file, &self.pages.shared_builder())?
            }
        };
        let Some(log) = self.log else { return Ok(Box::new(EmbeddedEngine::without_log(table)?)) };
        let log = LogOnStorage { log: log.into(), log_bytes: self.log_bytes, machine: self.machine };
        log.check(table.log_state()?)?;
        let limits = Limits { log_bytes: self.log_bytes, checkpoint_bytes: self.checkpoint_bytes };
        Ok(Box::new(EmbeddedEngine::open(table, log, limits)?))
    }

    /// Makes a store in memory and copies it. The first byte comes last: without it this is no store, so
    /// what a crash leaves of it is never taken for one.
    fn create(&self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<()> {
        let made = Arc::new(Memory::default());
        let table = TableFile::initialize(OnStorage(Box::new(made.clone())), &self.pages.builder())?;
        let engine = EmbeddedEngine::without_log(table)?;
        begin(&engine)?;
        engine.close()?;
        let bytes = made.bytes();
        self.table.set_len(bytes.len() as u64)?;
        self.table.write(1, &bytes[1..])?;
        self.table.sync()?;
        self.table.write(0, &bytes[..1])?;
        Ok(self.table.sync()?)
    }
}

/// A follower of the store whose table and write-ahead log a simulated machine has in these storages.
pub(super) fn follow(machine: &Machine, files: [Arc<dyn Storage>; 2], pages: Pages) -> Result<Follower> {
    let file = move |number: usize| OnStorage(Box::new(files[number].clone()));
    let files = SimulatedFiles { machine: machine.clone(), file, pages };
    Follower::open(files, Space::of_store().fixed(), pages.lock_wait)
}

/// The log of a store in a storage.
struct LogOnStorage {
    log: Arc<dyn Storage>,
    /// How long it may grow.
    log_bytes: u64,
    machine: Option<Machine>,
}

impl LogOnStorage {
    fn disk(&self) -> Box<dyn StorageBackend> {
        let file = OnStorage(Box::new(self.log.clone()));
        match &self.machine {
            None => Box::new(file),
            Some(machine) => Box::new(machine.handle(WAL, file)),
        }
    }

    /// As that of files.
    fn check(&self, state: LogState) -> Result<()> {
        match state {
            LogState::InUse { .. } if is_made(&*self.log)? => Ok(()),
            LogState::InUse { .. } => Err(mismatch("it is missing")),
            LogState::None if self.log.is_empty()? => Ok(()),
            LogState::None => Err(mismatch("the store has none, but there is the one of another")),
            LogState::Closed { id, next } if is_made(&*self.log)? => {
                if RedoLog::id_and_segment_bytes(&*self.disk())?.0 != id {
                    return Err(mismatch("it is that of another store"));
                }
                let log = RedoLog::must_be_behind(self.disk(), next)?;
                // As in files: whoever follows it finds that it is not in use.
                if self.machine.is_some() { log.close_mark() } else { Ok(()) }
            }
            LogState::Closed { .. } => Ok(()),
        }
    }
}

impl LogFiles for LogOnStorage {
    fn open(&self, table: &TableFile, mut state: LogState) -> Result<(LogDisk, LogState)> {
        if state == LogState::None {
            state = LogState::Closed { id: random_bytes(), next: 0 };
        }
        if let LogState::Closed { id, .. } = state {
            let made = is_made(&*self.log)?;
            let made = made.then(|| RedoLog::id_and_segment_bytes(&*self.disk())).transpose()?;
            if made.is_none_or(|(_, segment_bytes)| log_bytes(segment_bytes) > self.log_bytes) {
                // First, so that after a crash in between nobody takes the log for another's.
                table.mark(state)?;
                RedoLog::create(&*self.disk(), id, first_segment_bytes(self.log_bytes))?;
            }
        }
        let marks = self.machine.is_some().then(|| self.disk());
        Ok((LogDisk { frames: self.disk(), marks }, state))
    }

    fn boot(&self) -> u64 {
        self.machine.as_ref().map_or(0, Machine::boot)
    }

    fn may_be_followed(&self) -> bool {
        self.machine.is_some()
    }
}

/// Whether there is a log that was made to its end.
fn is_made(log: &dyn Storage) -> Result<bool> {
    let mut first = [0];
    if !log.is_empty()? {
        log.read(0, &mut first)?;
    }
    Ok(first != [0])
}

fn mismatch(what: &str) -> Error {
    Error::LogMismatch(what.into())
}

//! A store on storages of the caller's, as `files` has it in files.

use crate::engine::Engine;
use crate::engine::disk::{Memory, OnStorage, Storage};
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::embedded::wal::RedoLog;
use crate::engine::redb::{LogState, Pages, RedbEngine, TableFile};
use crate::error::{Error, Result};
use crate::id::random_bytes;

use std::sync::Arc;

/// The storage of the table, and that of the redo log if there is to be one.
pub(super) struct Storages {
    pub(super) table: Box<dyn Storage>,
    pub(super) log: Option<Box<dyn Storage>>,
    /// Whether a store is made in an empty storage.
    pub(super) create: bool,
    pub(super) pages: Pages,
    /// The length of a redo log that is made.
    pub(super) log_bytes: u64,
    pub(super) checkpoint_bytes: usize,
}

impl Storages {
    pub(super) fn open(self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<Box<dyn Engine>> {
        if self.table.is_empty()? {
            if !self.create {
                return Err(Error::NoStore("the storage, which is empty".into()));
            }
            self.create(begin)?;
        }
        let builder = self.pages.builder();
        let table = OnStorage(self.table);
        let Some(log) = self.log else {
            let engine = RedbEngine::on(table, &builder)?;
            return match engine.log_state() {
                LogState::InUse { .. } => Err(mismatch("the store was not closed, and needs it")),
                LogState::None | LogState::Closed { .. } => Ok(Box::new(engine)),
            };
        };
        let table = TableFile::on(table, &builder)?;
        let log = OnStorage(log);
        match table.log_state()? {
            LogState::InUse { .. } => {}
            LogState::Closed { id } => {
                let is_made = is_made(&*log.0)?;
                let (other, length) =
                    if is_made { RedoLog::id_and_length(&log)? } else { (id, Default::default()) };
                if other != id {
                    return Err(mismatch("it is that of another store"));
                }
                if length != self.log_bytes {
                    RedoLog::create(&log, id, self.log_bytes)?;
                }
            }
            LogState::None if log.0.is_empty()? => {
                let id = random_bytes();
                // First, so that after a crash in between nobody takes the log for another's.
                table.mark(LogState::Closed { id })?;
                RedoLog::create(&log, id, self.log_bytes)?;
            }
            LogState::None => return Err(mismatch("the store has none, but there is the one of another")),
        }
        Ok(Box::new(EmbeddedEngine::on(table, Box::new(log), self.checkpoint_bytes)?))
    }

    /// Makes a store in memory and copies it. The first byte comes last: without it this is no store, so
    /// what a crash leaves of it is never taken for one.
    fn create(&self, begin: impl Fn(&dyn Engine) -> Result<()>) -> Result<()> {
        let made = Arc::new(Memory::default());
        let engine = RedbEngine::initialize(OnStorage(Box::new(made.clone())), &self.pages.builder())?;
        begin(&engine)?;
        drop(engine);
        let bytes = made.bytes();
        self.table.set_len(bytes.len() as u64)?;
        self.table.write(1, &bytes[1..])?;
        self.table.sync()?;
        self.table.write(0, &bytes[..1])?;
        Ok(self.table.sync()?)
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

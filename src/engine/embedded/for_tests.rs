//! For tests and fuzzing: stores without a log, or with one that is there and is used from the first commit on.

#[cfg(test)]
use std::{fs::File, path::Path, sync::Arc, time::Duration};

use super::{EmbeddedEngine, Limits, LogDisk, LogFiles};
#[cfg(test)]
use super::{Sabotage, View};
use crate::engine::disk::StorageBackend;
use crate::engine::embedded::wal::RedoLog;
#[cfg(test)]
use crate::engine::redb::Pages;
use crate::engine::redb::{Builder, LogState, TableFile};
#[cfg(test)]
use crate::engine::{Engine, EngineStats, PageRound, Reading, RowHash, Waited, WriteTransaction};
use crate::error::{Error, Result};
#[cfg(test)]
use crate::id::Commit;
use crate::sync::Mutex;

/// For tests and fuzzing: stores without a log.
impl EmbeddedEngine {
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self::without_log(TableFile::in_memory(1 << 20).unwrap()).unwrap()
    }

    pub(crate) fn initialize(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        Self::without_log(TableFile::initialize(backend, builder)?)
    }

    #[cfg(test)]
    pub(crate) fn create_table(file: File, pages: Pages) -> Result<Self> {
        Self::without_log(TableFile::create(file, pages)?)
    }

    #[cfg(test)]
    pub(crate) fn open_table(path: &Path, pages: Pages) -> Result<Self> {
        Self::without_log(TableFile::open(path, pages)?)
    }

    pub(crate) fn on_table(backend: impl StorageBackend, builder: &Builder) -> Result<Self> {
        Self::without_log(TableFile::on(backend, builder)?)
    }
}

/// For tests: damage.
#[cfg(test)]
impl EmbeddedEngine {
    /// Puts a value, sealed or not, where it may not belong, or takes one away; without a commit.
    pub(crate) fn damage(&self, row: &[u8], value: Option<&[u8]>) {
        self.shared.table.damage(row, value);
        self.read_damaged(row);
    }

    /// The same, at a place in the table.
    pub(crate) fn damage_place(&self, place: &[u8], value: Option<&[u8]>) {
        self.shared.table.damage_place(place, value);
        self.read_damaged(&[]);
    }

    /// All places of the table that are taken, in their order.
    pub(crate) fn places(&self) -> Vec<Vec<u8>> {
        self.shared.table.places()
    }

    fn read_damaged(&self, row: &[u8]) {
        // No cache may hide it.
        self.shared.stripes.mark(RowHash::of(row), Commit::new(u64::MAX));
        let mut state = self.shared.lock();
        let (active, base) = (state.view.active.clone(), self.shared.table.newest().unwrap());
        state.view = Arc::new(View { active, frozen: None, base: Arc::new(base) });
        let durable = state.durable;
        self.shared.show(&state, durable);
    }
}

/// For tests and fuzzing: a log that is there, and is used from the first commit on.
impl EmbeddedEngine {
    pub(crate) fn on(
        table: TableFile,
        frames: Box<dyn StorageBackend>,
        checkpoint_bytes: usize,
    ) -> Result<Self> {
        Self::followed(table, frames, None, checkpoint_bytes)
    }

    pub(crate) fn followed(
        table: TableFile,
        frames: Box<dyn StorageBackend>,
        marks: Option<Box<dyn StorageBackend>>,
        checkpoint_bytes: usize,
    ) -> Result<Self> {
        // As it is: it does not grow.
        Self::growing(table, LogDisk { frames, marks }, Limits { log_bytes: 0, checkpoint_bytes })
    }

    pub(crate) fn growing(table: TableFile, disk: LogDisk, limits: Limits) -> Result<Self> {
        Self::in_boot(table, disk, limits, 0)
    }

    /// With marks that count in this boot.
    pub(crate) fn in_boot(table: TableFile, disk: LogDisk, limits: Limits, boot: u64) -> Result<Self> {
        let engine = Self::open(table, Given(Mutex::new(Some(disk)), boot), limits)?;
        let mut writer = engine.shared.lock_writer();
        engine.shared.log_to_use(&mut writer)?;
        writer.has_written = true;
        drop(writer);
        Ok(engine)
    }
}

/// A log that is there, and its boot.
pub(super) struct Given(pub(super) Mutex<Option<LogDisk>>, pub(super) u64);

impl LogFiles for Given {
    fn open(&self, _: &TableFile, state: LogState) -> Result<(LogDisk, LogState)> {
        let disk = self.0.lock().ok().and_then(|mut disk| disk.take());
        let disk = disk.ok_or_else(|| Error::LogMismatch("it was opened already".into()))?;
        let state = match state {
            LogState::None => {
                LogState::Closed { id: RedoLog::id_and_segment_bytes(&*disk.frames)?.0, next: 0 }
            }
            state => state,
        };
        Ok((disk, state))
    }

    fn boot(&self) -> u64 {
        self.1
    }

    fn may_be_followed(&self) -> bool {
        true
    }
}

#[cfg(test)]
impl EmbeddedEngine {
    pub(crate) fn sabotage(&self, sabotage: Option<Sabotage>) {
        *self.shared.sabotage.lock().unwrap() = sabotage;
    }
}

/// So that a test keeps hold of an engine that a store is on.
#[cfg(test)]
impl Engine for Arc<EmbeddedEngine> {
    fn begin_read(&self) -> Result<Reading> {
        (**self).begin_read()
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        (**self).begin_write()
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        (**self).wait(after, timeout)
    }

    fn stop_waiting(&self) {
        (**self).stop_waiting();
    }

    fn knows_next_commit(&self) -> bool {
        (**self).knows_next_commit()
    }

    fn checkpoint(&self) -> Result<()> {
        (**self).checkpoint()
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        (**self).check_pages(after, bytes)
    }

    fn stats(&self) -> EngineStats {
        (**self).stats()
    }
}

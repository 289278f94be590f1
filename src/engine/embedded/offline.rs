//! [`OfflineReader`]: a store that nobody has open, read with what its log holds.

use std::sync::Arc;
use std::time::Duration;

use super::STRIPES;
use super::recover;
use super::snapshot::{Snapshot, View};
use crate::engine::bell::Bell;
use crate::engine::disk::StorageBackend;
use crate::engine::redb::TableFile;
use crate::engine::{
    Engine, Newest, PageRound, PageState, ReadTransaction, Reading, Stripes, Waited, WriteTransaction,
};
use crate::error::{Error, Result};
use crate::id::Commit;

/// A store that was not closed cleanly, read with what its redo log holds.
pub(crate) struct OfflineReader {
    /// What is read lives as long as this.
    table: TableFile,
    newest: Newest,
    bell: Bell,
}

impl OfflineReader {
    /// Reads a store that nobody has open, with what its log holds; nothing is written.
    pub(crate) fn on(table: TableFile, disk: Option<Box<dyn StorageBackend>>) -> Result<Self> {
        let base = table.newest()?;
        let stripes = Arc::new(Stripes::new(STRIPES));
        let recovered = disk.map(|disk| recover(&base, disk, &stripes, true)).transpose()?;
        let frozen = recovered.and_then(|(_, frozen)| frozen);
        let commit = frozen.as_ref().map_or(base.commit(), |frozen| frozen.last);
        let view = View { active: Arc::default(), frozen: frozen.map(Arc::new), base: Arc::new(base) };
        let bell = Bell::default();
        bell.ring(commit);
        let newest = Newest::new(Snapshot { view: Arc::new(view), commit, stripes });
        Ok(Self { table, newest, bell })
    }
}

impl Engine for OfflineReader {
    fn begin_read(&self) -> Result<Reading> {
        Ok(self.newest.read())
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Err(Error::ReadOnly)
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        Ok(self.bell.wait(after, timeout))
    }

    fn stop_waiting(&self) {
        self.bell.end();
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.table.check_pages(after, bytes).map(Some)
    }

    fn page_state(&self) -> Option<PageState> {
        Some(self.table.page_state())
    }
}

//! What a log holds that its table has not, read into memory when a store is opened.

use std::sync::Arc;

use super::memtable::Memtable;
use super::snapshot::Frozen;
use super::wal::{Position, RedoLog};
use super::{GOES_ON, OF_ANOTHER_STORE};
use crate::engine::Stripes;
use crate::engine::disk::StorageBackend;
use crate::engine::redb::{LogState, RedbRead};
use crate::error::{Error, Result};

/// How many times the length of a segment its rows may take in memory when a log is recovered: a deleted row with the
/// shortest address takes 7 bytes in the log and 19 times as much in memory, and there are two segments.
pub(crate) const MEMORY_OF_LOG: u64 = 40;

/// A log that belongs to a table file, and what it holds that that has not.
pub(super) struct Recovery {
    pub(super) log: RedoLog,
    pub(super) frozen: Option<Frozen>,
    /// Where its frames end.
    pub(super) end: Position,
}

/// Opens the log that belongs to a table file, and reads what that file has not.
pub(super) fn recover(
    base: &RedbRead,
    disk: Box<dyn StorageBackend>,
    stripes: &Stripes,
    read_only: bool,
) -> Result<Recovery> {
    let (log, recovered) = RedoLog::open(disk, base.commit(), read_only)?;
    let mismatch = |what: &str| Err(Error::LogMismatch(what.into()));
    match base.log_state() {
        LogState::None => {}
        LogState::Closed { id, .. } | LogState::InUse { id, .. } if id != log.id() => {
            return mismatch(OF_ANOTHER_STORE);
        }
        LogState::InUse { floor, .. } if recovered.newest.unwrap_or_default() < floor => {
            return mismatch("it is an older copy: commits that were in it are missing");
        }
        LogState::Closed { .. } if !recovered.frames.is_empty() => {
            return mismatch(GOES_ON);
        }
        LogState::Closed { .. } => {}
        LogState::InUse { .. } => {
            log.must_reach_mark(recovered.newest.unwrap_or_default().max(base.commit()))?
        }
    }
    let end = recovered.end;
    let Some(oldest_sequence) = recovered.oldest_sequence else {
        return Ok(Recovery { log, frozen: None, end });
    };
    let rows = Memtable::default();
    for frame in &recovered.frames {
        rows.insert(frame, stripes)?;
        must_fit(&rows, &log)?;
    }
    let last = recovered.newest.unwrap_or_default();
    Ok(Recovery { log, frozen: Some(Frozen { rows: Arc::new(rows), last, oldest_sequence }), end })
}

/// A row that the library writes takes at most a few times as much in memory as in the log.
pub(super) fn must_fit(rows: &Memtable, log: &RedoLog) -> Result<()> {
    if rows.bytes() as u64 / MEMORY_OF_LOG > log.segment_bytes() {
        return Err(Error::Corrupted("the redo log has more rows than fit into memory".into()));
    }
    Ok(())
}

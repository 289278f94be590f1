//! [`LogState`]: what a table file says of its write-ahead log.

use crate::engine::wal_id::{FORMAT, LogId};
use crate::error::{Error, Result};
use crate::format::corrupted;
use crate::id::Commit;

use super::spaces::NEWEST;

/// Whether a table file needs the write-ahead log beside it; it is the value of the row with the empty address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogState {
    /// There never was one.
    None,
    /// The file has all that was in its log: `00 id (16) sequence (8)`, and the log goes on with a segment of this
    /// sequence.
    Closed { id: LogId, next: u64 },
    /// The log may go on after the newest commit of the file: `01 id (16) floor (8)`, and it must hold
    /// the commit with the number of the floor, or a later one.
    InUse { id: LogId, floor: Commit },
}

impl LogState {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Closed { id, next } => [&[0][..], &id, &next.to_le_bytes()].concat(),
            Self::InUse { id, floor } => [&[1][..], &id, &floor.number().to_le_bytes()].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((kind, rest)) = bytes.split_first() else { return Ok(Self::None) };
        let malformed = || corrupted(NEWEST, "what it says of the redo log is malformed");
        let (id, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        if *kind == 0 && rest.is_empty() {
            // Of a log of format 2 or before it has no sequence.
            return Err(Error::Unsupported { found: FORMAT - 1, supported: FORMAT });
        }
        match (kind, <[u8; 8]>::try_from(rest)) {
            (0, Ok(next)) => Ok(Self::Closed { id: *id, next: u64::from_le_bytes(next) }),
            (1, Ok(floor)) => Ok(Self::InUse { id: *id, floor: Commit::new(u64::from_le_bytes(floor)) }),
            _ => Err(malformed()),
        }
    }
}

//! [`Mark`]: how far followers may read, in the write-ahead log beside its header.
//!
//! ```text
//! mark = session (8)  state (8)  loads (8)  commit (8)  segment (8)  its length (8)  offset (8)
//!        checksum of the last frame (8)  commit of the table (8)  boot and file (8)  checksum (8)
//! ```
//!
//! The writer overwrites it after each sync, before a commit is acknowledged or shown to anybody. It is not synced: a
//! crash of the system leaves an older one, or none that fits its checksum. So it counts in the file that it was written
//! to, until the system is started again: it names both, as [`boot`](crate::engine::boot) tells them. Where they can't be
//! told, and while a bulk load goes past the log, it names neither, and counts while its writer is there, which holds a lock
//! on the log from its first mark to its end.

use std::io;
use std::ops::Bound;

use twox_hash::XxHash3_64;

use super::frame::take;
use super::{LOG_BYTES_MAX, LogId, MARK_AT, Position, RedoLog, Segment, log_bytes};
use crate::engine::disk::BackendError;
use crate::engine::lock_holder::locked_by_somebody;
use crate::error::{Error, Result};
use crate::id::Commit;

/// How much of its page a mark takes.
pub(crate) const MARK_BYTES: usize = 88;
/// Its checksum is all that a follower compares to tell that nothing has changed.
const CHECKSUM_AT: u64 = MARK_AT + MARK_BYTES as u64 - 8;
/// The byte of the log that is locked while its mark counts: far behind all that is written.
pub(crate) const LOCKED_BYTE: u64 = 1 << 61;

/// How far followers may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// A random number of each opening.
    pub(in crate::engine::embedded) session: u64,
    /// Whether the log is not in use: the table has everything.
    pub(in crate::engine::embedded) closed: bool,
    /// How many bulk loads went past the log in this session.
    pub(in crate::engine::embedded) loads: u64,
    /// The newest commit that is durable.
    pub(in crate::engine::embedded) commit: Commit,
    /// Where the frames end.
    pub(in crate::engine::embedded) end: Position,
    /// Up to which commit the table has everything.
    pub(in crate::engine::embedded) base: Commit,
    /// The boot and the file in which it counts; 0 if it counts while its writer holds the lock.
    pub(in crate::engine::embedded) boot: u64,
}

impl Mark {
    pub(super) fn closed(session: u64, segment_bytes: u64) -> Self {
        let (commit, base) = (Commit::default(), Commit::default());
        let end = Position::at(Segment { sequence: 0, length: segment_bytes });
        Self { session, closed: true, loads: 0, commit, end, base, boot: 0 }
    }

    pub(in crate::engine::embedded) fn encode(&self, id: &LogId) -> [u8; MARK_BYTES] {
        let Position { segment, offset, checksum } = self.end;
        let (commit, base) = (self.commit.number(), self.base.number());
        let open = u64::from(!self.closed);
        let numbers = [
            self.session,
            open,
            self.loads,
            commit,
            segment.sequence,
            segment.length,
            offset,
            checksum,
            base,
            self.boot,
        ];
        let mut bytes = [0; MARK_BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let sum = checksum_of(id, &bytes);
        bytes[MARK_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Its checksum: marks with the same one are the same.
    pub(in crate::engine::embedded) fn checksum(&self, id: &LogId) -> u64 {
        checksum_of(id, &self.encode(id))
    }

    /// `None` if it does not fit its checksum: it is being overwritten, or never was whole.
    pub(super) fn decode(id: &LogId, bytes: &[u8; MARK_BYTES]) -> Result<Option<Self>> {
        let at = &mut 0;
        let mut next = || Ok::<_, Error>(u64::from_le_bytes(take(bytes, at)?));
        let (session, state, loads, commit) = (next()?, next()?, next()?, Commit::new(next()?));
        let segment = Segment { sequence: next()?, length: next()? };
        let end = Position { segment, offset: next()?, checksum: next()? };
        let (base, boot, sum) = (Commit::new(next()?), next()?, next()?);
        let fits = sum == checksum_of(id, bytes) && state <= 1;
        Ok(fits.then_some(Self { session, closed: state == 0, loads, commit, end, base, boot }))
    }
}

fn checksum_of(id: &LogId, bytes: &[u8; MARK_BYTES]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(id), &bytes[..MARK_BYTES - 8])
}

impl RedoLog {
    /// Says how far followers may read. It goes through a handle of its own, so that the next sync of frames need not
    /// wait for it.
    pub(in crate::engine::embedded) fn write_mark(&self, mark: &Mark) -> io::Result<()> {
        match &self.marks {
            Some(marks) => marks.write(MARK_AT, &mark.encode(&self.id)),
            None => Ok(()),
        }
    }

    /// Whether followers find this mark, though to write it failed.
    pub(in crate::engine::embedded) fn is_written(&self, mark: &Mark) -> bool {
        let mut found = [0; MARK_BYTES];
        let read = self.marks.as_ref().is_some_and(|marks| marks.read(MARK_AT, &mut found).is_ok());
        read && found == mark.encode(&self.id)
    }

    /// From here on, until this log is dropped, its mark counts.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen` if another process says so of its own.
    pub(in crate::engine::embedded) fn lock_mark(&self) -> Result<()> {
        let Some(marks) = &self.marks else { return Ok(()) };
        match marks.try_lock_range(Bound::Included(LOCKED_BYTE), Bound::Included(LOCKED_BYTE)) {
            Ok(true) | Err(BackendError::Unsupported) => Ok(()),
            Ok(false) => Err(Error::AlreadyOpen(locked_by_somebody())),
            Err(error) => Err(of_backend(error)),
        }
    }

    /// Whether this mark of this log counts without a look at the lock.
    pub(in crate::engine::embedded) fn is_of_this_boot(&self, mark: &Mark) -> bool {
        mark.boot != 0 && mark.boot == self.boot
    }

    /// Whether what this mark of this log says is all that anybody was shown.
    pub(in crate::engine::embedded) fn counts(&self, mark: &Mark) -> Result<bool> {
        Ok(self.is_of_this_boot(mark) || self.is_marked()?)
    }

    /// Whether there is a writer whose mark counts.
    pub(in crate::engine::embedded) fn is_marked(&self) -> Result<bool> {
        let byte = Bound::Included(LOCKED_BYTE);
        self.disk.query_lock_range(byte, byte).map_err(of_backend)
    }

    /// What the mark says, if it counts; `None` also while it is overwritten.
    pub(in crate::engine::embedded) fn read_mark_that_counts(&self) -> Result<Option<Mark>> {
        if self.boot != 0
            && let Some(mark) = self.read_mark()?
            && self.is_of_this_boot(&mark)
        {
            return Ok(Some(mark));
        }
        // In this order: without its writer a mark says less than others may have shown.
        if self.is_marked()? { self.read_mark() } else { Ok(None) }
    }

    /// What the mark says; `None` while it is overwritten, or if it never was whole.
    pub(in crate::engine::embedded) fn read_mark(&self) -> Result<Option<Mark>> {
        let mut bytes = [0; MARK_BYTES];
        self.disk.read(MARK_AT, &mut bytes)?;
        let mark = Mark::decode(&self.id, &bytes)?;
        let Some(mark) = mark else { return Ok(None) };
        let Position { segment, offset, .. } = mark.end;
        let numbers = segment.sequence.max(mark.commit.number()).max(mark.base.number());
        let is_possible = offset <= segment.length
            && segment.length.is_multiple_of(super::SECTOR)
            && segment.length <= LOG_BYTES_MAX
            && numbers <= super::SEQUENCE_MAX;
        // The file may have grown since its header was read.
        let is_in_file = is_possible
            && (segment.length <= self.segment_bytes() || log_bytes(segment.length) <= self.disk.len()?);
        if !is_in_file {
            return Err(super::damaged("its mark names a place that it has not"));
        }
        Ok(Some(mark))
    }

    /// Looks whether the log reaches as far as its mark, which is written when the frames before it are on the disk;
    /// `last` is the last commit in the log and the table.
    ///
    /// # Errors
    ///
    /// `Corrupted` if acknowledged commits are missing.
    pub(in crate::engine::embedded) fn must_reach_mark(&self, last: Commit) -> Result<()> {
        match self.newest_marked()? {
            Some(marked) if marked > last => Err(super::damaged(&format!(
                "its frames end with commit {last}, but commit {marked} was acknowledged: they are damaged or missing"
            ))),
            _ => Ok(()),
        }
    }

    /// The commit of the mark, if the log was in use then. It was durable, whoever wrote the mark, and in whichever boot.
    pub(super) fn newest_marked(&self) -> Result<Option<Commit>> {
        let mut bytes = [0; MARK_BYTES];
        self.disk.read(MARK_AT, &mut bytes)?;
        let mark = Mark::decode(&self.id, &bytes)?;
        Ok(mark.filter(|mark| !mark.closed).map(|mark| mark.commit))
    }

    /// The checksum of the mark, as it is there now: one small read.
    pub(in crate::engine::embedded) fn mark_checksum(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.disk.read(CHECKSUM_AT, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Sees to it that nobody reads by the mark that a former writer left: the table has everything.
    pub(crate) fn close_mark(&self) -> Result<()> {
        let mut found = [0; MARK_BYTES];
        self.disk.read(MARK_AT, &mut found)?;
        if Mark::decode(&self.id, &found)?.is_none_or(|mark| !mark.closed) {
            self.disk.write(MARK_AT, &Mark::closed(0, self.segment_bytes()).encode(&self.id))?;
        }
        Ok(())
    }
}

fn of_backend(error: BackendError) -> Error {
    match error {
        BackendError::Io(error) => error.into(),
        other => io::Error::other(other.to_string()).into(),
    }
}

//! The write-ahead log: a file that is overwritten in place, to which groups of commits are appended.
//!
//! ```text
//! file     = header, mark, segment 0, segment 1    header and mark in 4,096 bytes each
//! header   = "keystead log"  format (4)  id (16)  bytes of each of its first segments (8)  checksum (8)
//! mark     = how far followers may read            see mark.rs
//! segment  = frame frame ...                       each begins at a multiple of 512 bytes
//! frame    = magic (4)  length of the commits (4)  sequence (8)  previous checksum (8)  checksum (8)  commits
//! commits  = { commit (8)  number of rows (4)  { length of address (2)  1 + length of value, or 0 for
//!              a row that is deleted (4)  address  value } }
//! ```
//!
//! Numbers have their lowest byte first. Segments are used in turn; the sequence counts them, and the
//! one with sequence n lies at n modulo 2. The file grows by doubling its segments; its length tells how often. After a
//! doubling, the next segment with an odd sequence begins where both ended before, and the one after it takes the place
//! of both. The checksum of a frame covers all the rest of it, is seeded with the log's id, and the frame holds that of
//! the one before it (0 in the first of a segment): so what is left of an older use of the place, or of another log, is
//! no part of the chain. The magic that a frame
//! begins with is a hash of the log's id too: no text that somebody stores can look like a frame. A frame begins on a
//! sector of its own, so a write that is torn never damages an older frame; and it is written only when
//! the one before it is on the disk, so a valid frame behind an invalid one means damage, not a crash.

mod frame;
mod mark;
mod recovery;
mod salvage;

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use twox_hash::XxHash3_64;

use crate::engine::disk::StorageBackend;
use crate::error::{Error, Result};
use crate::id::{Commit, random_bytes};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

use frame::{COMMITS_MAX, FRAME_HEADER, Frame, checksum_in, encode_frame, malformed, take};
pub(super) use frame::{MAGIC_BYTES, encode_commit, frame_bytes, magic, read_commits};
#[cfg(any(test, fuzzing))]
pub(crate) use mark::LOCKED_BYTE;
pub(crate) use mark::Mark;
#[cfg(test)]
pub(super) use recovery::Recovered;
pub(crate) use salvage::{LogEnd, SalvagedLog};

pub(crate) use crate::engine::wal_id::{FORMAT, LogId};

const MAGIC: &[u8; 12] = b"keystead log";
/// Where the mark lies: in a page of its own, because frames are written past the page cache and the mark through it.
const MARK_AT: u64 = 4096;
/// Where the segments begin.
pub(super) const SEGMENTS_AT: u64 = 8192;
const HEADER_USED: usize = 48;
const SECTOR_BYTES: usize = 512;
const SECTOR: u64 = SECTOR_BYTES as u64;
/// A log begins with segments of more than half of this many bytes.
const FIRST_SEGMENT_MAX: u64 = if cfg!(fuzzing) { 32 * 1024 } else { 256 * 1024 };
/// So far numbers never come, and above is room to count on.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// The least that a log may be allowed to grow to.
pub(crate) const LOG_BYTES_MIN: u64 = SEGMENTS_AT + 2 * FIRST_SEGMENT_MAX;
/// The most.
pub(crate) const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

pub(crate) struct RedoLog {
    disk: Box<dyn StorageBackend>,
    /// The same file, through the page cache, for the mark; `None` where nobody follows.
    marks: Option<Box<dyn StorageBackend>>,
    /// The file and the boot of the system, as marks name them; 0 if they can't be told.
    boot: u64,
    id: LogId,
    /// How many bytes each segment has, once the one that is written is full.
    segment_bytes: AtomicU64,
    /// Where the next frame goes. Locked for the time of an append.
    end: Mutex<Position>,
}

/// A segment: its sequence, and how many bytes it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) length: u64,
}

/// The end of a chain of frames: the segment, where in it the next frame goes, and the checksum of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) segment: Segment,
    pub(super) offset: u64,
    pub(super) checksum: u64,
}

/// A frame that goes on from the one before it.
pub(super) struct Chained {
    pub(super) commits: Arc<[u8]>,
    pub(super) first: Commit,
    pub(super) last: Commit,
}

/// A number for the marks of one opening.
pub(super) fn random_session() -> u64 {
    XxHash3_64::oneshot(&random_bytes())
}

/// How many bytes the segments of a log have at first that may grow to this length: by doubling them it comes near to it.
pub(crate) fn first_segment_bytes(log_bytes_max: u64) -> u64 {
    let mut length = log_bytes_max.saturating_sub(SEGMENTS_AT) / 2;
    while length > FIRST_SEGMENT_MAX {
        length /= 2;
    }
    length & !(SECTOR * 8 - 1)
}

/// How long a log is whose segments have so many bytes.
pub(crate) fn log_bytes(segment_bytes: u64) -> u64 {
    SEGMENTS_AT.saturating_add(segment_bytes.saturating_mul(2))
}

fn damaged(what: &str) -> Error {
    Error::Corrupted(format!("the redo log: {what}").into())
}

impl Segment {
    fn start(self) -> u64 {
        SEGMENTS_AT + if self.sequence.is_multiple_of(2) { 0 } else { self.length }
    }

    fn place(self) -> Range<u64> {
        self.start()..self.start() + self.length
    }
}

impl Position {
    /// The beginning of a segment.
    pub(super) fn at(segment: Segment) -> Self {
        Self { segment, offset: 0, checksum: 0 }
    }
}

impl RedoLog {
    /// Makes an empty log, with segments of this length; what was on the disk goes. The first byte comes last: as long as
    /// it is 0, the log was not made to its end.
    pub(crate) fn create(disk: &dyn StorageBackend, id: LogId, segment_bytes: u64) -> io::Result<()> {
        let length = log_bytes(segment_bytes);
        if disk.len()? > 0 {
            disk.write(0, &[0])?;
            disk.sync_data()?;
        }
        disk.set_len(length)?;
        write_zeros(disk, 0, length)?;
        disk.write(MARK_AT, &Mark::closed(0, segment_bytes).encode(&id))?;
        let header = encode_header(&id, segment_bytes);
        disk.write(1, &header[1..])?;
        disk.sync_data()?;
        disk.write(0, &header[..1])?;
        disk.sync_data()
    }

    /// Which log is on this disk, and how many bytes its segments have.
    pub(crate) fn id_and_segment_bytes(disk: &dyn StorageBackend) -> Result<(LogId, u64)> {
        read_header(disk)
    }

    /// Makes room for segments of twice the length. They have it from the next one on that has an odd sequence; so not
    /// again before the one that is written has it.
    pub(super) fn grow(&self) -> io::Result<()> {
        let disk = self.marks.as_ref().unwrap_or(&self.disk);
        let before = self.segment_bytes();
        let (from, to) = (log_bytes(before), log_bytes(2 * before));
        let grown = disk.set_len(to).and_then(|()| write_zeros(&**disk, from, to));
        if let Err(error) = grown.and_then(|()| disk.sync_data()) {
            // It stays as it was; if that can't be had, the next opening finds it longer, which does no harm.
            let _ = disk.set_len(from);
            return Err(error);
        }
        self.segment_bytes.store(2 * before, Ordering::Release);
        Ok(())
    }

    /// A log whose frames are read where its mark, or a former reader, says that they are.
    pub(super) fn follow(disk: Box<dyn StorageBackend>) -> Result<Self> {
        let (id, length) = read_header(&*disk)?;
        let end = Mutex::new(Position::at(Segment { sequence: 0, length }));
        Ok(Self { disk, marks: None, boot: 0, id, segment_bytes: AtomicU64::new(length), end })
    }

    /// A log of which the table has everything; it goes on with this sequence. `None` if the log goes on further.
    pub(super) fn reopen(disk: Box<dyn StorageBackend>, next: u64) -> Result<Option<Self>> {
        let mut log = Self::follow(disk)?;
        let length = log.segment_bytes();
        for (sequence, length) in [(0, length), (1, length), (1, length / 2)] {
            let segment = Segment { sequence, length };
            let first = log.read_frame(segment.start(), &segment.place())?;
            if first.is_some_and(|first| first.sequence >= next && first.sequence % 2 == sequence) {
                return Ok(None);
            }
        }
        log.end = Mutex::new(Position::at(Segment { sequence: next, length }));
        Ok(Some(log))
    }

    /// # Errors
    ///
    /// `LogMismatch` if the log goes on with this sequence already.
    pub(crate) fn must_be_behind(disk: Box<dyn StorageBackend>, next: u64) -> Result<Self> {
        Self::reopen(disk, next)?.ok_or_else(|| Error::LogMismatch(super::GOES_ON.into()))
    }

    /// Has the mark written through this handle of the same file.
    pub(super) fn mark_through(&mut self, marks: Box<dyn StorageBackend>) {
        self.marks = Some(marks);
    }

    /// Says which file it is in, and since which boot, as [`boot`](crate::engine::boot) tells them.
    pub(super) fn of_boot(mut self, boot: u64) -> Self {
        self.boot = boot;
        self
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    pub(super) fn id(&self) -> LogId {
        self.id
    }

    /// How many bytes of frames fit into a segment, from the next with an odd sequence on.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Acquire)
    }

    /// The segment behind this one.
    pub(super) fn next(&self, Segment { sequence, length }: Segment) -> Segment {
        let sequence = sequence.wrapping_add(1);
        // One with an even sequence ends where the one before it begins.
        let length = if sequence.is_multiple_of(2) { length } else { self.segment_bytes() };
        Segment { sequence, length }
    }

    /// Where the next frame goes.
    pub(super) fn end(&self) -> Position {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame with these commits to this segment: the one that was appended to before, or the next. When it
    /// returns, they are on the disk. Returns where the next frame goes.
    pub(super) fn append(&self, segment: Segment, commits: &[u8]) -> io::Result<Position> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if segment != end.segment {
            *end = Position::at(segment);
        }
        let frame = encode_frame(&self.id, segment.sequence, end.checksum, commits);
        if end.offset + frame.len() as u64 > segment.length {
            return Err(io::Error::other("the segment of the redo log is full"));
        }
        self.disk.write(segment.start() + end.offset, &frame)?;
        self.disk.sync_data()?;
        end.offset += frame.len() as u64;
        end.checksum = checksum_in(&frame);
        Ok(*end)
    }

    /// Where a segment begins, as it is read on the way to another one.
    pub(super) fn begin(&self, sequence: u64, to: Segment) -> Result<Position> {
        if sequence == to.sequence {
            return Ok(Position::at(to));
        }
        let [at, before] = [1, 2].map(|part| Segment { sequence, length: to.length / part });
        let is_before = !sequence.is_multiple_of(2)
            && self
                .read_frame(before.start(), &before.place())?
                .is_some_and(|found| found.sequence == sequence);
        Ok(Position::at(if is_before { before } else { at }))
    }

    /// Shows the frames of one segment from this position on, up to the other or to where the chain ends, and returns
    /// that.
    pub(super) fn read_chain(
        &self,
        from: Position,
        to: Option<Position>,
        mut see: impl FnMut(Chained) -> Result<()>,
    ) -> Result<Position> {
        let segment = from.segment;
        let (start, place) = (segment.start(), segment.place());
        let mut at = from;
        while to != Some(at)
            && let Some(frame) = self.read_frame(start + at.offset, &place)?
            && (frame.sequence, frame.previous) == (segment.sequence, at.checksum)
        {
            at.offset += frame_bytes(frame.commits.len());
            at.checksum = frame.checksum;
            see(Chained { commits: frame.commits, first: frame.first, last: frame.last })?;
        }
        Ok(at)
    }

    /// The frame at this offset of the file, if there is a whole one.
    fn read_frame(&self, offset: u64, place: &Range<u64>) -> Result<Option<Frame>> {
        let left = place.end.saturating_sub(offset);
        let mut header = [0; FRAME_HEADER];
        if left < header.len() as u64 {
            return Ok(None);
        }
        self.disk.read(offset, &mut header)?;
        let at = &mut 0;
        let (found, length): ([u8; MAGIC_BYTES], [u8; 4]) = (take(&header, at)?, take(&header, at)?);
        let length = u32::from_le_bytes(length) as usize;
        if found != magic(&self.id) || length == 0 || length > COMMITS_MAX || frame_bytes(length) > left {
            return Ok(None);
        }
        let sequence = u64::from_le_bytes(take(&header, at)?);
        let previous = u64::from_le_bytes(take(&header, at)?);
        let mut commits = vec![0; length];
        self.disk.read(offset + FRAME_HEADER as u64, &mut commits)?;
        let frame = encode_frame(&self.id, sequence, previous, &commits);
        if frame[..FRAME_HEADER] != header {
            return Ok(None);
        }
        let (mut first, mut last) = (None, Commit::default());
        let mut in_order = true;
        read_commits(&commits, |commit, row| {
            if row.is_none() {
                in_order &= first.is_none() || commit.number() == last.number().wrapping_add(1);
                first.get_or_insert(commit);
                last = commit;
            }
        })?;
        let first = first.filter(|_| in_order).ok_or_else(malformed)?;
        let (checksum, commits) = (checksum_in(&header), commits.into());
        Ok(Some(Frame { sequence, previous, checksum, commits, first, last }))
    }
}

#[cfg(any(test, fuzzing))]
impl RedoLog {
    /// Fills a log with whole frames, the first commit after this one: each has as many bytes of the data as
    /// its first two say, as the rows of the next commit if the third is even, and otherwise instead of
    /// commits.
    pub(crate) fn fill(log: &mut [u8], mut data: &[u8], durable: Commit) {
        let id: LogId = log[16..32].try_into().expect("a log has a header");
        let segment = (log.len() - usize::try_from(SEGMENTS_AT).expect("it is small")) / 2;
        let header = usize::try_from(SEGMENTS_AT).expect("it is small");
        let (mut offset, mut previous, mut commit) = (0, 0, durable.number());
        log[header..].fill(0);
        while let [low, high, how, rest @ ..] = data {
            let length = rest.len().min(usize::from(u16::from_le_bytes([*low, *high])));
            let (piece, left) = rest.split_at(length);
            let mut commits = Vec::new();
            if how % 2 == 0 {
                commit = commit.wrapping_add(1);
                commits.extend(commit.to_le_bytes());
            }
            commits.extend(piece);
            let frame = encode_frame(&id, 2, previous, &commits);
            if commits.is_empty() || offset + frame.len() > segment {
                return;
            }
            log[header + offset..header + offset + frame.len()].copy_from_slice(&frame);
            (offset, previous, data) = (offset + frame.len(), checksum_in(&frame), left);
        }
    }
}

fn encode_header(id: &LogId, segment_bytes: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_USED);
    header.extend(MAGIC);
    header.extend(FORMAT.to_le_bytes());
    header.extend(id);
    header.extend(segment_bytes.to_le_bytes());
    header.extend(XxHash3_64::oneshot(&header).to_le_bytes());
    header
}

/// The longest segments to which the first ones come by doubling, and that a file of this length has room for.
fn doubled_for(mut segment_bytes: u64, length: u64) -> Option<u64> {
    if segment_bytes == 0 || !segment_bytes.is_multiple_of(SECTOR) || log_bytes(segment_bytes) > length {
        return None;
    }
    while log_bytes(segment_bytes.saturating_mul(2)) <= length {
        segment_bytes *= 2;
    }
    Some(segment_bytes)
}

/// Writes every block once, so that later a sync has no more to do than its data.
fn write_zeros(disk: &dyn StorageBackend, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    while from < to {
        let bytes = zeros.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        disk.write(from, &zeros[..bytes])?;
        from += bytes as u64;
    }
    Ok(())
}

fn read_header(disk: &dyn StorageBackend) -> Result<(LogId, u64)> {
    let length = disk.len()?;
    let mut header = [0; HEADER_USED];
    if length < SEGMENTS_AT {
        return Err(damaged("the file is too short"));
    }
    disk.read(0, &mut header)?;
    let at = &mut 0;
    let magic: [u8; 12] = take(&header, at)?;
    let format = u32::from_le_bytes(take(&header, at)?);
    if magic != *MAGIC {
        return Err(damaged("the file is none"));
    }
    if format != FORMAT {
        return Err(Error::Unsupported { found: format, supported: FORMAT });
    }
    let id: LogId = take(&header, at)?;
    let segment_bytes = u64::from_le_bytes(take(&header, at)?);
    if XxHash3_64::oneshot(&header[..*at]) != u64::from_le_bytes(take(&header, at)?) {
        return Err(damaged("the header is damaged"));
    }
    match doubled_for(segment_bytes, length) {
        Some(segment_bytes) if log_bytes(segment_bytes) == length && length <= LOG_BYTES_MAX => {
            Ok((id, segment_bytes))
        }
        _ => Err(damaged(&format!("the file has {length} bytes, which no log of its kind has"))),
    }
}

//! [`SalvagedLog`]: what can be read of a write-ahead log, for a repair, also if it is damaged.
//!
//! Frames are read up to where their chain ends. A chain that ends is no sign of damage: the log has room for more.
//! Four things are:
//!
//! - Whole frames behind the end: a frame is written only when the one before it is on the disk.
//! - Commits that are missing between two frames, unless they went past the log to the table, as the first of each
//!   process does.
//! - A frame at the end that names the one before it, and does not fit its checksum. A crash leaves a write so that was
//!   never acknowledged, but damage to the last frame looks the same.
//! - A mark that names a later commit: it is written when the frames before it are on the disk. After a power cut the
//!   mark may be an older one; then the loss of all frames from one on leaves no trace.

use std::io;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::frame::{FRAME_HEADER, Frame, MAGIC_BYTES, magic, read_commits, take};
use super::{
    FORMAT, HEADER_USED, LOG_BYTES_MAX, LogId, MAGIC, RedoLog, SECTOR, SEGMENTS_AT, Segment, damaged,
    doubled_for, log_bytes,
};
use crate::engine::disk::StorageBackend;
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;

/// What can be read of a log.
pub(crate) struct SalvagedLog {
    /// As its header says it; or the table file, if that is damaged: the frames have it in their checksums.
    pub(crate) id: LogId,
    /// The frames, in their order, with no commit missing between them.
    frames: Vec<Whole>,
    pub(crate) end: LogEnd,
    segment_bytes: u64,
}

struct Whole {
    first: Commit,
    last: Commit,
    commits: Arc<[u8]>,
}

/// How the frames of a log end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// As those of a log do.
    Whole,
    /// The last frame is not whole: written by a process that was killed meanwhile, or damaged.
    Torn,
    /// By damage; if frames can be read behind it, with the newest commit in them.
    Damaged { why: String, newest: Option<Commit> },
}

impl SalvagedLog {
    /// Reads a log; `known` is the id that the table file says, and `in_table` the newest commit that it has.
    ///
    /// # Errors
    ///
    /// `Corrupted` if nothing can be read of it, `Unsupported`, `Io`.
    pub(crate) fn read(
        disk: Box<dyn StorageBackend>,
        known: Option<LogId>,
        in_table: Commit,
    ) -> Result<Self> {
        let length = disk.len()?;
        let header = read_header(&*disk)?;
        let (id, segment_bytes) = match (&header, known) {
            // If it is shorter than it was, the frames are where they were.
            (Some((id, first)), _) => (*id, doubled_for(*first, length).unwrap_or(*first)),
            (None, Some(id)) => (id, (length.saturating_sub(SEGMENTS_AT) / 2) & !(SECTOR - 1)),
            (None, None) => return Err(damaged("its header is damaged, and nothing else tells its id")),
        };
        let log = RedoLog {
            disk: Box::new(Padded { disk, length }),
            marks: None,
            boot: 0,
            id,
            segment_bytes: AtomicU64::new(segment_bytes),
            end: Mutex::default(),
        };
        let mut segments = [log.salvage_segment(0)?, log.salvage_segment(1)?];
        segments.sort_by_key(|segment| segment.frames.first().map(|frame| frame.sequence));
        let mut salvaged = Self { id, frames: Vec::new(), end: LogEnd::Whole, segment_bytes };
        let last = salvaged.chain(&segments, in_table);
        let mut why = Vec::new();
        let stray =
            segments.iter().filter_map(|segment| segment.newest()).max().filter(|newest| *newest > last);
        if stray.is_some() {
            why.push("a frame is damaged or missing, and there are whole ones behind it".to_owned());
        }
        why.extend(segments.iter_mut().find_map(|segment| segment.malformed.take()));
        let marked = log.newest_marked()?.filter(|marked| *marked > last.max(in_table));
        if let Some(marked) = marked {
            why.push(format!("its frames end with commit {last}, but commit {marked} was acknowledged"));
        }
        if length != log_bytes(segment_bytes) {
            why.push(format!("the file has {length} bytes, which no log of its kind has"));
        }
        if header.is_none() {
            why.push("its header is damaged".to_owned());
        }
        if !why.is_empty() {
            salvaged.end = LogEnd::Damaged { why: why.join("; "), newest: stray.max(marked) };
        } else if log.is_torn(&segments)? {
            salvaged.end = LogEnd::Torn;
        }
        Ok(salvaged)
    }

    /// Takes the frames between which no commit is missing, and returns the last commit in them. If the table has what is
    /// missing between two segments, it has what is in the first, too.
    fn chain(&mut self, segments: &[Found; 2], in_table: Commit) -> Commit {
        let (mut last, mut sequence): (Option<Commit>, u64) = (None, 0);
        for frame in segments.iter().flat_map(|segment| &segment.frames) {
            let is_next =
                |last: Commit| last.number().checked_add(1).is_some_and(|next| next == frame.first.number());
            if last.is_some_and(|last| !is_next(last)) {
                let is_in_table = frame.first.number() <= in_table.number().saturating_add(1);
                if frame.sequence == sequence || last > Some(frame.first) || !is_in_table {
                    break;
                }
                self.frames.clear();
            }
            sequence = frame.sequence;
            last = Some(frame.last);
            let Frame { first, last, ref commits, .. } = *frame;
            self.frames.push(Whole { first, last, commits: commits.clone() });
        }
        last.unwrap_or_default()
    }

    /// The first commit in it and the last; `None` if it has none.
    pub(crate) fn commits(&self) -> Option<(Commit, Commit)> {
        Some((self.frames.first()?.first, self.frames.last()?.last))
    }

    /// The first commit that is in a frame with one behind a commit: from there on it is used.
    pub(crate) fn first_after(&self, commit: Commit) -> Option<Commit> {
        self.frames.iter().find(|frame| frame.last > commit).map(|frame| frame.first)
    }

    /// Up to which commit it goes on from this one, if no commit is missing in between.
    pub(crate) fn goes_on_from(&self, commit: Commit) -> Option<Commit> {
        let first = self.first_after(commit)?;
        (first.number() <= commit.number() + 1).then_some(self.frames.last()?.last)
    }

    /// How many bytes a segment has: what is in it was in memory once.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Shows each row that a commit wrote, in the order in which they were written; a deleted one without a value.
    pub(crate) fn each_row(&self, mut see: impl FnMut(Commit, &[u8], Option<&[u8]>)) -> Result<()> {
        for frame in &self.frames {
            let bytes = &frame.commits;
            read_commits(bytes, |commit, row| {
                if let Some((row, value)) = row {
                    see(commit, &bytes[row], value.map(|value| &bytes[value]));
                }
            })?;
        }
        Ok(())
    }
}

/// What is in one segment.
struct Found {
    frames: Vec<Frame>,
    length: u64,
    /// Behind the last frame.
    end: u64,
    /// The newest commit in whole frames behind the end.
    stray: Option<Commit>,
    /// Why the chain ends, if that is no end of a chain.
    malformed: Option<String>,
}

impl Found {
    fn newest(&self) -> Option<Commit> {
        self.frames.last().map(|frame| frame.last).max(self.stray)
    }
}

impl RedoLog {
    /// As `find_segment`.
    fn salvage_segment(&self, number: u64) -> Result<Found> {
        let length = self.segment_bytes();
        let found = self.salvage_segment_of(number, length)?;
        if number == 0 {
            return Ok(found);
        }
        let before = self.salvage_segment_of(number, length / 2)?;
        let sequence = |found: &Found| found.frames.first().map(|frame| frame.sequence);
        let stray = found.stray.max(before.stray);
        let newer = if sequence(&before) > sequence(&found) { before } else { found };
        Ok(Found { stray, ..newer })
    }

    fn salvage_segment_of(&self, number: u64, length: u64) -> Result<Found> {
        let place = Segment { sequence: number, length }.place();
        let mut segment =
            Found { length, frames: Vec::new(), end: place.start, stray: None, malformed: None };
        let mut previous = 0;
        loop {
            let frame = match self.read_frame(segment.end, &place) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(Error::Corrupted(why)) => {
                    segment.malformed = Some(why.into());
                    break;
                }
                Err(error) => return Err(error),
            };
            let first = segment.frames.first().map_or(frame.sequence, |first| first.sequence);
            if frame.sequence != first || frame.sequence % 2 != number || frame.previous != previous {
                break;
            }
            previous = frame.checksum;
            segment.end += super::frame_bytes(frame.commits.len());
            segment.frames.push(frame);
        }
        segment.stray = match self.read_stray(segment.end, &place) {
            Err(Error::Corrupted(why)) => {
                segment.malformed.get_or_insert(why.into());
                None
            }
            stray => stray?,
        };
        Ok(segment)
    }

    /// Whether at the end of the newest frame, or where the next segment begins, there is a frame that goes on from it
    /// and is not whole.
    fn is_torn(&self, segments: &[Found; 2]) -> Result<bool> {
        let Some(newest) = segments[1].frames.last() else {
            // The very first frame.
            let start = |sequence| Segment { sequence, length: self.segment_bytes() }.start();
            return Ok(self.goes_on(start(0), 0, 0)? || self.goes_on(start(1), 1, 0)?);
        };
        let sequence = newest.sequence;
        let next = self.next(Segment { sequence, length: segments[1].length });
        Ok(self.goes_on(segments[1].end, newest.sequence, newest.checksum)?
            || segments[0].frames.is_empty() && self.goes_on(next.start(), next.sequence, 0)?)
    }

    /// Whether what lies at an offset is, by its beginning, the frame behind the one with this checksum.
    fn goes_on(&self, offset: u64, sequence: u64, previous: u64) -> Result<bool> {
        let mut header = [0; FRAME_HEADER];
        self.disk.read(offset, &mut header)?;
        let at = &mut 0;
        let (found, length): ([u8; MAGIC_BYTES], [u8; 4]) = (take(&header, at)?, take(&header, at)?);
        let (of, behind) = (u64::from_le_bytes(take(&header, at)?), u64::from_le_bytes(take(&header, at)?));
        let has_magic = found == magic(&self.id);
        // Any two of the three: zeros, or what is left of older use of the place, have at most one of them.
        let fits =
            [has_magic, of == sequence && (has_magic || sequence > 1), behind == previous && previous != 0];
        let is_first = previous == 0 && has_magic && behind == 0 && length != [0; 4];
        Ok(fits.iter().filter(|fits| **fits).count() > 1 || is_first && of >= sequence)
    }
}

/// What the header says: the id of the log and how many bytes its first segments have; `None` if it is damaged.
fn read_header(disk: &dyn StorageBackend) -> Result<Option<(LogId, u64)>> {
    let mut header = [0; HEADER_USED];
    if disk.len()? < HEADER_USED as u64 {
        return Ok(None);
    }
    disk.read(0, &mut header)?;
    let at = &mut 0;
    let magic: [u8; 12] = take(&header, at)?;
    let format = u32::from_le_bytes(take(&header, at)?);
    let id: LogId = take(&header, at)?;
    let expected = u64::from_le_bytes(take(&header, at)?);
    let fits = XxHash3_64::oneshot(&header[..*at]) == u64::from_le_bytes(take(&header, at)?);
    if magic != *MAGIC || !fits || log_bytes(expected) > LOG_BYTES_MAX {
        return Ok(None);
    }
    if format != FORMAT {
        return Err(Error::Unsupported { found: format, supported: FORMAT });
    }
    Ok(Some((id, expected)))
}

/// A file that may have been cut off: zeros are read behind its end.
#[derive(Debug)]
struct Padded {
    disk: Box<dyn StorageBackend>,
    length: u64,
}

impl StorageBackend for Padded {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.length.saturating_sub(offset).min(out.len() as u64);
        let (there, behind) = out.split_at_mut(usize::try_from(there).unwrap_or(usize::MAX));
        behind.fill(0);
        if there.is_empty() { Ok(()) } else { self.disk.read(offset, there) }
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn close(&self) -> io::Result<()> {
        self.disk.close()
    }
}

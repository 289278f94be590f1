//! What a log holds that the table has not: read when a store is opened that was not closed.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::frame::{COMMITS_MAX, Frame, encode_frame, frame_bytes, magic};
use super::{Position, RedoLog, SECTOR, SECTOR_BYTES, SEQUENCE_MAX, Segment, damaged};
use crate::engine::disk::StorageBackend;
use crate::error::Result;
use crate::id::Commit;
use crate::sync::Mutex;

/// How far behind the last frame of a segment is looked for frames that must not be there: behind a
/// damaged one, the next begins within the length of the largest.
const LOOK_AHEAD: u64 = COMMITS_MAX as u64 + SECTOR;
/// How often what looks like a frame may turn out to be none: a crash leaves one or two.
const FALSE_FRAMES_MAX: u32 = 64;
/// How much is looked through at once.
const LOOK_AT_ONCE: usize = 1024 * 1024;

/// What a log holds that the table file has not.
#[derive(Default)]
pub(in crate::engine::embedded) struct Recovered {
    /// The commits of each frame, as they were appended, in their order.
    pub(in crate::engine::embedded) frames: Vec<Arc<[u8]>>,
    /// The sequence of the first segment that one of them is in.
    pub(in crate::engine::embedded) oldest_sequence: Option<u64>,
    /// The newest commit in the log, also if the table file has it too.
    pub(in crate::engine::embedded) newest: Option<Commit>,
    /// Where the frames end.
    pub(in crate::engine::embedded) end: Position,
}

/// What is in one segment.
struct Found {
    length: u64,
    frames: Vec<(u64, Frame)>,
    end: u64,
    /// The newest commit in whole frames behind the end.
    stray: Option<Commit>,
}

impl RedoLog {
    /// Opens a log, and reads what it holds behind `durable`, the newest commit in the table file.
    ///
    /// The last frame may be on its way to the disk still, from a process that was killed: unless
    /// `read_only`, it is written once more, and synced, before anybody sees it.
    pub(in crate::engine::embedded) fn open(
        disk: Box<dyn StorageBackend>,
        durable: Commit,
        read_only: bool,
    ) -> Result<(Self, Recovered)> {
        let mut log = Self::follow(disk)?;
        let mut segments = [log.find_segment(0)?, log.find_segment(1)?];
        segments.sort_by_key(|found| found.frames.first().map(|(_, frame)| frame.sequence));
        let mut recovered = Recovered::default();
        let mut last = durable;
        for (_, frame) in segments.iter().flat_map(|found| &found.frames) {
            recovered.newest = recovered.newest.max(Some(frame.last));
            if frame.last <= durable {
                continue;
            }
            if last.number().checked_add(1) != Some(frame.first.number()) {
                return Err(damaged("commits between two of its frames, or before the first, are missing"));
            }
            last = frame.last;
            recovered.oldest_sequence.get_or_insert(frame.sequence);
            recovered.frames.push(frame.commits.clone());
        }
        if segments.iter().any(|found| found.stray.is_some_and(|stray| stray > last)) {
            return Err(damaged("a frame is damaged, and there are whole ones behind it"));
        }
        let newest = &segments[1];
        if let Some((offset, frame)) = newest.frames.last() {
            if !read_only {
                log.write_frame(*offset, frame)?;
                log.disk.sync_data()?;
            }
            // The next frame begins the next segment.
            if frame.sequence > SEQUENCE_MAX || frame.last.number() > SEQUENCE_MAX {
                return Err(damaged("a number in it is too large"));
            }
            let segment = Segment { sequence: frame.sequence, length: newest.length };
            let offset = offset - segment.start() + frame_bytes(frame.commits.len());
            recovered.end = Position { segment, offset, checksum: frame.checksum };
            log.end = Mutex::new(Position::at(log.next(segment)));
        }
        Ok((log, recovered))
    }

    fn write_frame(&self, offset: u64, frame: &Frame) -> io::Result<()> {
        let bytes = encode_frame(&self.id, frame.sequence, frame.previous, &frame.commits);
        self.disk.write(offset, &bytes)
    }

    /// What is in the segments with an even or an odd sequence. An odd one may lie where it did before the log grew.
    fn find_segment(&self, number: u64) -> Result<Found> {
        let length = self.segment_bytes();
        let found = self.read_segment(number, length)?;
        if number == 0 {
            return Ok(found);
        }
        let before = self.read_segment(number, length / 2)?;
        let sequence = |found: &Found| found.frames.first().map(|(_, frame)| frame.sequence);
        let stray = found.stray.max(before.stray);
        let newer = if sequence(&before) > sequence(&found) { before } else { found };
        Ok(Found { stray, ..newer })
    }

    fn read_segment(&self, number: u64, length: u64) -> Result<Found> {
        let place = Segment { sequence: number, length }.place();
        let mut found = Found { length, frames: Vec::new(), end: place.start, stray: None };
        let mut previous = 0;
        while let Some(frame) = self.read_frame(found.end, &place)? {
            let first = found.frames.first().map_or(frame.sequence, |(_, first)| first.sequence);
            if frame.sequence != first || frame.sequence % 2 != number || frame.previous != previous {
                break;
            }
            previous = frame.checksum;
            let offset = found.end;
            found.end += frame_bytes(frame.commits.len());
            found.frames.push((offset, frame));
        }
        found.stray = self.read_stray(found.end, &place)?;
        Ok(found)
    }

    /// The newest commit in whole frames from this offset on.
    pub(super) fn read_stray(&self, from: u64, place: &Range<u64>) -> Result<Option<Commit>> {
        let to = place.end.min(from + LOOK_AHEAD);
        let (mut offset, mut behind_frame) = (from, from);
        let mut bytes =
            vec![0; LOOK_AT_ONCE.min(usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX))];
        let (mut stray, mut none) = (None, 0);
        let magic = magic(&self.id);
        while offset < to {
            let length = bytes.len().min(usize::try_from(to - offset).unwrap_or(usize::MAX));
            self.disk.read(offset, &mut bytes[..length])?;
            for sector in (0..length).step_by(SECTOR_BYTES) {
                let start = offset + sector as u64;
                // What is inside of a frame is none.
                if start < behind_frame || !bytes[sector..length].starts_with(&magic) {
                    continue;
                }
                if let Some(frame) = self.read_frame(start, place)? {
                    behind_frame = start + frame_bytes(frame.commits.len());
                    stray = stray.max(Some(frame.last));
                    continue;
                }
                none += 1;
                if none > FALSE_FRAMES_MAX {
                    return Err(damaged("it is full of frames that are none"));
                }
            }
            offset += length as u64;
        }
        Ok(stray)
    }
}

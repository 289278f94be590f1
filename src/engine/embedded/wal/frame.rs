//! A frame of the write-ahead log: the commits in it as bytes, and its header.

use std::ops::Range;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::{LogId, SECTOR, damaged};
use crate::error::{Error, Result};
use crate::id::Commit;

pub(in crate::engine::embedded) const MAGIC_BYTES: usize = 4;
pub(super) const FRAME_HEADER: usize = 32;

/// The most bytes of commits that a frame may have: more than the largest transaction makes.
pub(super) const COMMITS_MAX: usize = if cfg!(fuzzing) { 64 * 1024 } else { 4 * 1024 * 1024 };
/// A frame that is whole.
pub(super) struct Frame {
    pub(super) sequence: u64,
    pub(super) previous: u64,
    pub(super) checksum: u64,
    pub(super) commits: Arc<[u8]>,
    pub(super) first: Commit,
    pub(super) last: Commit,
}

/// How many bytes a frame with this many bytes of commits takes.
pub(in crate::engine::embedded) fn frame_bytes(commits: usize) -> u64 {
    (FRAME_HEADER as u64 + commits as u64).next_multiple_of(SECTOR)
}

/// What one commit wrote, as it is in a frame.
pub(in crate::engine::embedded) fn encode_commit<'a>(
    commit: Commit,
    rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<Vec<u8>> {
    let max = COMMITS_MAX;
    let too_large = |_| Error::TransactionTooLarge { what: "bytes in the redo log", max };
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend(commit.number().to_le_bytes());
    bytes.extend([0; 4]);
    let mut count = 0_u32;
    for (row, value) in rows {
        count += 1;
        bytes.extend(u16::try_from(row.len()).map_err(too_large)?.to_le_bytes());
        let length = value.map_or(Ok(0), |value| u32::try_from(value.len() + 1)).map_err(too_large)?;
        bytes.extend(length.to_le_bytes());
        bytes.extend(row);
        bytes.extend(value.unwrap_or_default());
    }
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    if bytes.len() > max {
        return Err(Error::TransactionTooLarge { what: "bytes in the redo log", max });
    }
    Ok(bytes)
}

/// Where a row of a commit and its value are among the bytes of a frame; a row that is deleted has none.
pub(in crate::engine::embedded) type RowPlace = (Range<usize>, Option<Range<usize>>);

/// Reads the commits of a frame: each is given to `each`, and then each of its rows.
pub(in crate::engine::embedded) fn read_commits(
    bytes: &[u8],
    mut each: impl FnMut(Commit, Option<RowPlace>),
) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let commit = Commit::new(u64::from_le_bytes(take(bytes, &mut at)?));
        each(commit, None);
        for _ in 0..u32::from_le_bytes(take(bytes, &mut at)?) {
            let row_length = u16::from_le_bytes(take(bytes, &mut at)?);
            let value_length = u32::from_le_bytes(take(bytes, &mut at)?);
            let row = take_place(bytes, &mut at, usize::from(row_length))?;
            if row.is_empty() {
                return Err(malformed());
            }
            let value = match value_length.checked_sub(1) {
                Some(length) => Some(take_place(bytes, &mut at, length as usize)?),
                None => None,
            };
            each(commit, Some((row, value)));
        }
    }
    Ok(())
}

pub(super) fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Result<[u8; N]> {
    let place = take_place(bytes, at, N)?;
    bytes[place].try_into().map_err(|_| malformed())
}

pub(super) fn take_place(bytes: &[u8], at: &mut usize, length: usize) -> Result<Range<usize>> {
    let place = *at..at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or_else(malformed)?;
    *at = place.end;
    Ok(place)
}

pub(super) fn malformed() -> Error {
    damaged("a frame is whole, but not its commits")
}

/// What the frames of a log begin with; never zeros, which are where nothing was written.
pub(in crate::engine::embedded) fn magic(id: &LogId) -> [u8; MAGIC_BYTES] {
    let [first, second, third, fourth, ..] =
        XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(id), b"keystead frame").to_le_bytes();
    [first | 1, second, third, fourth]
}

pub(super) fn encode_frame(id: &LogId, sequence: u64, previous: u64, commits: &[u8]) -> Vec<u8> {
    let bytes = usize::try_from(frame_bytes(commits.len())).expect("it is little more than what is there");
    let mut frame = Vec::with_capacity(bytes);
    frame.extend(magic(id));
    frame.extend(u32::try_from(commits.len()).expect("commits have at most 4 MiB").to_le_bytes());
    frame.extend(sequence.to_le_bytes());
    frame.extend(previous.to_le_bytes());
    let seed = XxHash3_64::oneshot(id);
    let head = XxHash3_64::oneshot_with_seed(seed, &frame);
    frame.extend(XxHash3_64::oneshot_with_seed(head, commits).to_le_bytes());
    frame.extend(commits);
    frame.resize(bytes, 0);
    frame
}

pub(super) fn checksum_in(frame: &[u8]) -> u64 {
    let bytes = frame[24..FRAME_HEADER].try_into().expect("a frame begins with its header");
    u64::from_le_bytes(bytes)
}

//! The file of a backup that holds only changes: what a store did between two of its commits.
//!
//! ```text
//! file    = "keystead changes"  format (4)  frame frame ...
//! frame   = length of the body (4)  body  checksum (8)
//! body    = 01  incarnation (16)  since (8)  to (8)  last  floor      the first
//!         | 02  commit (8)  entry of the log                    in their order
//!         | 03  commit (8)  length of the address (2)  address  outcome, or nothing
//!         | 04  number of entries (8)  number of outcomes (8)   the last
//! last    = 00 | 01  commit (8)  digest (16)
//! floor   = 00 | 01  commit of its row (8)  commit (8)  time (8)
//! ```
//!
//! Numbers have their lowest byte first. The checksum of a frame is XXH3 of its length and body, seeded
//! with that of the frame before, in the first with XXH3 of all that is before it: so a frame that was
//! damaged, left out or moved is seen, and where the last is missing, that the file ends too early.
//!
//! Of every outcome that is there at the end there is a frame, in the order of addresses; the outcome is in
//! it only if it is newer than `since`. So the ones that were forgotten can be told.
//!
//! `last` is the newest entry up to `since`, if it was not trimmed: by the first bytes of the SHA-256 of what it
//! is, the changes tell upon which history they build.

#[cfg(test)]
mod tests;

use std::io::{Read, Write};

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use super::{Address, COMMIT_MAX, ENTRY_MAX, Floor, ROW_MAX, Row, ScopedTable, VALUE_MAX, read_address};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::time::Timestamp;

const MAGIC: &[u8; 16] = b"keystead changes";
const FORMAT: u32 = 1;
const LENGTH_BYTES: usize = 4;
/// How many bytes of a digest are kept.
const DIGEST_BYTES: usize = 16;
/// The largest body: an entry with its place.
const BODY_MAX: usize = 16 + ENTRY_MAX;

const BEGIN: u8 = 1;
const ENTRY: u8 = 2;
const OUTCOME: u8 = 3;
const END: u8 = 4;

/// What the changes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) incarnation: [u8; 16],
    /// All changes behind this commit.
    pub(crate) since: Commit,
    /// Up to and with this one.
    pub(crate) to: Commit,
    /// The newest entry up to `since`, if there is one.
    pub(crate) last: Option<LastEntry>,
    /// Up to where the history was trimmed then, and by which commit.
    pub(crate) floor: Option<(Commit, Floor)>,
}

/// The entry that the changes follow upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastEntry {
    pub(crate) commit: Commit,
    pub(crate) digest: [u8; DIGEST_BYTES],
}

impl LastEntry {
    /// That of a commit, with these bytes.
    pub(crate) fn of(commit: Commit, entry: &[u8]) -> Self {
        let whole: [u8; 32] = Sha256::digest(entry).into();
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&whole[..DIGEST_BYTES]);
        Self { commit, digest }
    }
}

/// One thing that a file of changes tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The entry of a commit in the log.
    Entry { commit: Commit, bytes: Vec<u8> },
    /// An outcome that was there at the end, with its bytes if it is new.
    Outcome { row: Row, commit: Commit, bytes: Option<Vec<u8>> },
}

/// Writes a file of changes, in the order in which they are in it.
pub(crate) struct ChangesWriter<W> {
    file: W,
    checksum: u64,
    entries: u64,
    outcomes: u64,
    bytes: u64,
}

/// Reads a file of changes, and believes nothing in it.
pub(crate) struct ChangesReader<R> {
    file: R,
    checksum: u64,
    begin: Begin,
    last_entry: Commit,
    last_outcome: Row,
    entries: u64,
    outcomes: u64,
    ended: bool,
}

impl<W: Write> ChangesWriter<W> {
    pub(crate) fn new(mut file: W, begin: &Begin) -> Result<Self> {
        let header = header();
        file.write_all(&header)?;
        let checksum = XxHash3_64::oneshot(&header);
        let mut writer = Self { file, checksum, entries: 0, outcomes: 0, bytes: header.len() as u64 };
        let mut body = vec![BEGIN];
        body.extend(begin.incarnation);
        body.extend(begin.since.number().to_le_bytes());
        body.extend(begin.to.number().to_le_bytes());
        match begin.last {
            None => body.push(0),
            Some(LastEntry { commit, digest }) => {
                body.push(1);
                body.extend(commit.number().to_le_bytes());
                body.extend(digest);
            }
        }
        match begin.floor {
            None => body.push(0),
            Some((commit, floor)) => {
                body.push(1);
                for number in [commit.number(), floor.commit.number(), floor.time.as_millis()] {
                    body.extend(number.to_le_bytes());
                }
            }
        }
        writer.frame(&body)?;
        Ok(writer)
    }

    pub(crate) fn write(&mut self, piece: &Piece) -> Result<()> {
        let mut body = Vec::new();
        match piece {
            Piece::Entry { commit, bytes } => {
                self.entries += 1;
                body.push(ENTRY);
                body.extend(commit.number().to_le_bytes());
                body.extend(bytes);
            }
            Piece::Outcome { row, commit, bytes } => {
                self.outcomes += 1;
                body.push(OUTCOME);
                body.extend(commit.number().to_le_bytes());
                let length = u16::try_from(row.len()).expect("an address is short");
                body.extend(length.to_le_bytes());
                body.extend(row);
                body.extend(bytes.iter().flatten());
            }
        }
        self.frame(&body)
    }

    /// Ends the file, and returns it with its length.
    pub(crate) fn finish(mut self) -> Result<(W, u64)> {
        let mut body = vec![END];
        body.extend(self.entries.to_le_bytes());
        body.extend(self.outcomes.to_le_bytes());
        self.frame(&body)?;
        self.file.flush()?;
        Ok((self.file, self.bytes))
    }

    fn frame(&mut self, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len()).expect("a body is short").to_le_bytes();
        self.checksum = checksum(self.checksum, length, body);
        self.file.write_all(&length)?;
        self.file.write_all(body)?;
        self.file.write_all(&self.checksum.to_le_bytes())?;
        self.bytes += (LENGTH_BYTES + body.len() + size_of::<u64>()) as u64;
        Ok(())
    }
}

#[cfg(any(test, fuzzing))]
impl ChangesWriter<Vec<u8>> {
    /// A file with these bodies, whatever they are, whose checksums are right.
    pub(crate) fn framed<'a>(bodies: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let header = header();
        let checksum = XxHash3_64::oneshot(&header);
        let mut writer = Self { file: header, checksum, entries: 0, outcomes: 0, bytes: 0 };
        bodies.into_iter().for_each(|body| writer.frame(body).expect("memory takes all"));
        writer.file
    }

    /// The bodies in a file that is whole.
    pub(crate) fn bodies(file: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = &file[header().len()..];
        let mut bodies = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            bodies.push(behind[..length].to_vec());
            rest = &behind[length + size_of::<u64>()..];
        }
        bodies
    }
}

impl<R: Read> ChangesReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// `BackupMismatch` for another kind of file, `Unsupported` for a newer format, `Corrupted`, `Io`.
    pub(crate) fn new(mut file: R) -> Result<Self> {
        let mut header = Vec::new();
        file.by_ref().take(header_length()).read_to_end(&mut header)?;
        let format = header.strip_prefix(MAGIC).and_then(|format| <[u8; 4]>::try_from(format).ok());
        let format = format.map(u32::from_le_bytes);
        match format {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => return Err(Error::Unsupported { found, supported: FORMAT }),
            _ => return Err(Error::BackupMismatch("it is no file of changes".into())),
        }
        let none = Commit::default();
        let begin = Begin { incarnation: [0; 16], since: none, to: none, last: None, floor: None };
        let mut reader = Self {
            file,
            checksum: XxHash3_64::oneshot(&header),
            begin,
            last_entry: Commit::default(),
            last_outcome: Row::new(),
            entries: 0,
            outcomes: 0,
            ended: false,
        };
        let body = reader.frame()?;
        reader.begin = begin_of(&body).ok_or_else(|| damaged("its beginning is malformed"))?;
        reader.last_entry = reader.begin.since;
        Ok(reader)
    }

    pub(crate) fn begin(&self) -> Begin {
        self.begin
    }

    /// The next piece; `None` behind the last.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        let body = self.frame()?;
        let malformed = || damaged("a frame is whole, but not what is in it");
        let (kind, mut rest) = body.split_first().ok_or_else(malformed)?;
        let number = take_number(&mut rest).ok_or_else(malformed)?;
        match *kind {
            ENTRY => self.entry(Commit::new(number), rest).map(Some),
            OUTCOME => self.outcome(Commit::new(number), rest).map(Some),
            END => {
                let outcomes = take_number(&mut rest).filter(|_| rest.is_empty()).ok_or_else(malformed)?;
                if (number, outcomes) != (self.entries, self.outcomes) {
                    return Err(damaged("it has not as much in it as it says"));
                }
                if self.file.read(&mut [0])? > 0 {
                    return Err(damaged("it goes on behind its end"));
                }
                self.ended = true;
                Ok(None)
            }
            _ => Err(malformed()),
        }
    }

    fn entry(&mut self, commit: Commit, bytes: &[u8]) -> Result<Piece> {
        if commit <= self.last_entry || commit > self.begin.to || self.outcomes > 0 {
            return Err(damaged("its entries are not in order"));
        }
        (self.last_entry, self.entries) = (commit, self.entries + 1);
        Ok(Piece::Entry { commit, bytes: bytes.to_vec() })
    }

    fn outcome(&mut self, commit: Commit, mut rest: &[u8]) -> Result<Piece> {
        let row = take_row(&mut rest).filter(|row| is_of_outcome(row));
        let row = row.ok_or_else(|| damaged("an outcome has no address"))?.to_vec();
        if row <= self.last_outcome {
            return Err(damaged("its outcomes are not in order"));
        }
        let bytes = Some(rest.to_vec()).filter(|bytes| !bytes.is_empty());
        let new = commit > self.begin.since;
        if commit > self.begin.to || bytes.is_some() != new || rest.len() > VALUE_MAX {
            return Err(damaged("an outcome is not of its commit"));
        }
        (self.last_outcome, self.outcomes) = (row.clone(), self.outcomes + 1);
        Ok(Piece::Outcome { row, commit, bytes })
    }

    /// The body of the next frame.
    fn frame(&mut self) -> Result<Vec<u8>> {
        let mut length = Vec::new();
        self.file.by_ref().take(LENGTH_BYTES as u64).read_to_end(&mut length)?;
        let length = <[u8; LENGTH_BYTES]>::try_from(length).map_err(|_| damaged("it ends too early"))?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > BODY_MAX {
            return Err(damaged("a frame is longer than any can be"));
        }
        let mut body = Vec::new();
        let with_checksum = bytes + size_of::<u64>();
        self.file.by_ref().take(with_checksum as u64).read_to_end(&mut body)?;
        if body.len() < with_checksum {
            return Err(damaged("it ends too early"));
        }
        let expected = body.split_off(bytes);
        self.checksum = checksum(self.checksum, length, &body);
        if expected != self.checksum.to_le_bytes() {
            return Err(damaged("the checksum of a frame is wrong"));
        }
        Ok(body)
    }
}

fn header() -> Vec<u8> {
    [&MAGIC[..], &FORMAT.to_le_bytes()].concat()
}

fn header_length() -> u64 {
    (MAGIC.len() + size_of::<u32>()) as u64
}

fn checksum(before: u64, length: [u8; LENGTH_BYTES], body: &[u8]) -> u64 {
    let of_length = XxHash3_64::oneshot_with_seed(before, &length);
    XxHash3_64::oneshot_with_seed(of_length, body)
}

fn begin_of(body: &[u8]) -> Option<Begin> {
    let mut rest = body.strip_prefix(&[BEGIN])?;
    let (incarnation, behind) = rest.split_first_chunk()?;
    rest = behind;
    let since = Commit::new(take_number(&mut rest)?);
    let to = Commit::new(take_number(&mut rest)?);
    let (has_last, mut rest) = rest.split_first()?;
    let last = match has_last {
        0 => None,
        1 => {
            let commit = Commit::new(take_number(&mut rest)?);
            let (digest, behind) = rest.split_first_chunk()?;
            rest = behind;
            Some(LastEntry { commit, digest: *digest })
        }
        _ => return None,
    };
    let (has_floor, mut rest) = rest.split_first()?;
    let floor = match has_floor {
        0 => None,
        1 => {
            let trimmed_by = Commit::new(take_number(&mut rest)?);
            let commit = Commit::new(take_number(&mut rest)?);
            let time = Timestamp::from_millis(take_number(&mut rest)?);
            Some((trimmed_by, Floor { commit, time }))
        }
        _ => return None,
    };
    // What was trimmed is not among the changes.
    let floor_is_below = floor.is_none_or(|(trimmed_by, floor)| floor.commit <= since && trimmed_by <= to);
    let above = floor.map_or(Commit::default(), |(_, floor)| floor.commit);
    let last_is_before = last.is_none_or(|last| last.commit > above && last.commit <= since);
    let sound = rest.is_empty() && since <= to && to <= COMMIT_MAX && floor_is_below && last_is_before;
    sound.then_some(Begin { incarnation: *incarnation, since, to, last, floor })
}

fn is_of_outcome(row: &[u8]) -> bool {
    let address = read_address(row);
    matches!(address, Some(Address::Scoped { table: ScopedTable::Outcome(_), .. }))
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_le_bytes(*number))
}

fn take_row<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (row, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    (length <= ROW_MAX).then_some(row)
}

fn damaged(what: &str) -> Error {
    Error::Corrupted(format!("the file of changes: {what}").into())
}

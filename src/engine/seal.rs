//! The seal around each value: `checksum (4) commit (1 to 10) bytes`.
//!
//! The checksum is the CRC-32 over the address and all that follows it, the commit is in base 128 with the
//! lowest part first. Pages are compared with their checksums too (`redb/pages`); this finds what was
//! wrong before its page was written, and serves engines without pages. It does not keep a damaged address from hiding its row: only a scan sees that.

use crate::error::Result;
use crate::format::{COMMIT_MAX, ENTRY_MAX, Value, corrupted};
use crate::id::Commit;

const CHECKSUM_LENGTH: usize = 4;
const COMMIT_LENGTH_MAX: usize = 10;

pub(crate) fn seal(row: &[u8], commit: Commit, bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_LENGTH + COMMIT_LENGTH_MAX + bytes.len());
    seal_into(&mut sealed, row, commit, bytes);
    sealed
}

/// As [`seal`], into memory that was used before.
pub(super) fn seal_into(sealed: &mut Vec<u8>, row: &[u8], commit: Commit, bytes: &[u8]) {
    sealed.clear();
    sealed.extend([0; CHECKSUM_LENGTH]);
    let mut rest = commit.number();
    while rest >= 0x80 {
        sealed.push(low_seven_bits(rest) | 0x80);
        rest >>= 7;
    }
    sealed.push(low_seven_bits(rest));
    sealed.extend(bytes);
    let checksum = checksum(row, &sealed[CHECKSUM_LENGTH..]);
    sealed[..CHECKSUM_LENGTH].copy_from_slice(&checksum);
}

pub(crate) fn unseal<'a>(row: &[u8], sealed: &'a [u8]) -> Result<Value<'a>> {
    let Some((expected, rest)) = sealed.split_first_chunk::<CHECKSUM_LENGTH>() else {
        return Err(corrupted(row, "the value is too short"));
    };
    // So much and no more is ever copied, whatever the file holds.
    if rest.len() > COMMIT_LENGTH_MAX + ENTRY_MAX {
        return Err(corrupted(row, "the value is too long"));
    }
    if *expected != checksum(row, rest) {
        return Err(corrupted(row, "the checksum is wrong"));
    }
    let length = rest.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    if length > COMMIT_LENGTH_MAX || length > rest.len() {
        return Err(corrupted(row, "the commit is malformed"));
    }
    let (digits, bytes) = rest.split_at(length);
    if length > 1 && digits[length - 1] == 0 {
        return Err(corrupted(row, "the commit is longer than needed"));
    }
    let number = digits.iter().rev().try_fold(0_u64, |number, digit| {
        number.checked_mul(0x80).map(|shifted| shifted | u64::from(digit & 0x7f))
    });
    let commit = number.map(Commit::new).filter(|commit| *commit <= COMMIT_MAX);
    Ok(Value { bytes, commit: commit.ok_or_else(|| corrupted(row, "the commit is too large"))? })
}

fn low_seven_bits(number: u64) -> u8 {
    (number & 0x7f) as u8
}

fn checksum(row: &[u8], sealed: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(row.len() as u64).to_be_bytes());
    hasher.update(row);
    hasher.update(sealed);
    hasher.finalize().to_be_bytes()
}
